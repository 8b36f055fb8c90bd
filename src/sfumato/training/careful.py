"""What is beside the training (pictures, logs, cards) may fail without ending it: said once, and on it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sfumato.errors import Mendable

LOST = (OSError, Mendable)
"""What a full or vanished disk raises."""


class Careful:
    """``with careful("the preview"): ...``: what fails there is a warning, the first time for each name."""

    def __init__(self, tell: Callable[[str], None]):
        self.tell, self.said = tell, set[str]()

    @contextmanager
    def __call__(self, what: str, kinds: tuple[type[Exception], ...] = LOST) -> Iterator[None]:
        """Let exceptions of these kinds pass."""
        try:
            yield
        except kinds as error:
            if what not in self.said:
                self.said.add(what)
                self.tell(f"warning: {what} failed ({reason(error)}); training goes on, and this is said once")


def reason(error: BaseException) -> str:
    """An exception in a line."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return said if isinstance(error, Mendable | OSError) else f"{type(error).__name__}: {said}"
