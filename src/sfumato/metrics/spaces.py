"""Feature spaces by name: which one a command means, fitted on the training data, and how its results are remembered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.metrics.distances import MetricError
from sfumato.metrics.features import PCA, Features, Patches, Waves, raw
from sfumato.metrics.table import Remember, forgetful

NAMES = ("auto", "patches", "pca", "raw", "waves", "imagenet")


@dataclass(frozen=True, eq=False)
class Space:
    """A feature map, its name, and all that its numbers depend on, for the key of a cache."""

    name: str
    map: Features
    about: Any
    slow: bool = False
    """Whether a network looks at every item."""

    def __call__(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, d) float32, rounded alike whether it comes from a file or not."""
        return self.map(x).float()

    def remembered(self, x: Tensor, remember: Remember) -> Tensor:
        """The features of real data, which do not change from call to call."""
        return remember(("features", self.about, x), lambda: {"x": self(x)})["x"]


def is_textured(shape: tuple[int, ...]) -> bool:
    """Whether items of this shape are pictures large enough for patches."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 6


def usual(shape: tuple[int, ...]) -> tuple[str, str]:
    """The two spaces that items of this shape are compared in: of unlike kinds, so that what one misses the other sees."""
    return ("patches", "pca") if is_textured(shape) else ("pca", "waves")


def beside(name: str, shape: tuple[int, ...]) -> str:
    """The space to judge by where ``name`` may have been chosen by: another one, which nothing chooses by."""
    first, second = usual(shape)
    return first if name == second else second


def known(name: str) -> None:
    """Complain of a name of no space, or of a network that is not there. Raises MetricError."""
    if Path(name).suffix == ".onnx":
        from sfumato.metrics import onnx

        onnx.load(Path(name))
    elif name == "imagenet":
        from sfumato.metrics import imagenet

        imagenet.load()
    elif name not in NAMES:
        raise MetricError(f"features = {name!r}: must be one of {', '.join(NAMES)}, or a .onnx file")


def choose(name: str, train: Tensor, restore: Callable[[Tensor], Tensor], remember: Remember = forgetful) -> Space:
    """The space of a name, fitted on ``train`` (N, ...), or of a network in a file.

    Args:
        name: auto (patches for pictures, pca for the rest), patches, pca, raw, waves, imagenet (`sfumato.metrics.imagenet`), or
            the path of a .onnx file (`sfumato.metrics.onnx`).
        restore: standardised pictures -> pictures in [-1, 1], which networks see.
        remember: where the fit is kept.

    Raises MetricError for a name that is none of these, data that the space cannot take, or a network that is not there.
    """
    shape = tuple(train.shape[1:])
    if name == "auto":
        name = usual(shape)[0]
    if name in ("imagenet", "patches") and not is_textured(shape):
        raise MetricError(
            f"features = {name!r}: is for pictures of 6 pixels a side or more, not items of shape {shape}"
        )
    if Path(name).suffix == ".onnx":
        from sfumato.metrics import onnx

        file = onnx.load(Path(name))
        return Space(name, lambda x: file(restore(x)), ("onnx", file.checksum, restore_key(restore)), slow=True)
    spaces: dict[str, Callable[[], Space]] = {
        "patches": lambda: _fitted(name, Patches, lambda: Patches.fit(train), train, remember),
        "pca": lambda: _fitted(name, PCA, lambda: PCA.fit(train, min(64, len(train) - 1)), train, remember),
        "waves": lambda: _fitted(name, Waves, lambda: Waves.fit(train), train, remember),
        "raw": lambda: Space(name, raw, "raw"),
        "imagenet": lambda: _imagenet(restore),
    }
    if name not in spaces:
        raise MetricError(f"features = {name!r}: must be one of {', '.join(NAMES)}, or a .onnx file")
    return spaces[name]()


def of_pictures(name: str, known: Tensor, remember: Remember = forgetful) -> Space:
    """The space of a name for pictures from -1 to 1; auto: the network of a package where it is installed, else patches.
    Raises MetricError."""
    from sfumato.metrics import imagenet

    if name == "auto":
        name = "imagenet" if imagenet.available() else "patches"
    return choose(name, known, lambda x: x, remember)


def _fitted(name: str, kind: Any, fit: Callable[[], Any], train: Tensor, remember: Remember) -> Space:
    tensors = remember(("fit", name, train), lambda: fit().tensors())
    return Space(name, kind.restored(tensors), (name, dict(tensors)))


def _imagenet(restore: Callable[[Tensor], Tensor]) -> Space:
    from sfumato.metrics import imagenet

    network = imagenet.load()
    about = ("imagenet", network.checksum, restore_key(restore))
    return Space("imagenet", lambda x: network(restore(x)), about, slow=True)


def restore_key(restore: Callable[[Tensor], Tensor]) -> list[float]:
    """What a restoration of items (N, C, H, W) does to 0 and 1: all there is to know of scales and shifts by channel."""
    import torch

    return restore(torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)).flatten().tolist()
