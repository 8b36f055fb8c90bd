"""What tests of training share."""

import pytest

from sfumato.training import whole


@pytest.fixture(scope="module")
def quick_disk():
    """A killed process loses nothing that it wrote: waiting for the disk guards against a power cut alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole, "sync", lambda path: None)
        yield
