"""Weights of a feature network from a local file: size bounded, checksum verified, tensors alone, names and shapes exact.

A file that a user gives is safetensors, or it is refused: the other formats of weights are pickles, which are programs. Who
trusts such a file turns it into one of tensors alone, once and outside of this package (`CONVERT`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.errors import one_line
from sfumato.metrics.distances import MetricError

CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    'save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])" FROM.pth TO.safetensors'
)


def verified(path: Path, checksum: str | None, most_bytes: int, remedy: str) -> tuple[bytes, str]:
    """A file's content and its SHA-256 in hex.

    Args:
        checksum: the SHA-256 that is wanted, or its first 8 digits or more; None: any.
        most_bytes: a larger file is refused unread.
        remedy: what to do about a file that cannot be read.

    Raises MetricError, in one line, for a file that is missing, too large or of another checksum.
    """
    wanted = hashlib.sha256().hexdigest() if checksum is None else checksum.lower()
    if len(wanted) < 8 or len(wanted) > 64 or set(wanted) - set("0123456789abcdef"):
        raise MetricError(f"checksum must be 8 to 64 hexadecimal digits of a SHA-256, not {checksum!r}")
    content = bounded(path, most_bytes, remedy, "these weights")
    found = hashlib.sha256(content).hexdigest()
    if checksum is not None and not found.startswith(wanted):
        raise MetricError(f"{path}: has SHA-256 {found}, not {wanted}: another file, or a damaged one")
    return content, found


def bounded(path: Path, most_bytes: int, remedy: str, wanted: str) -> bytes:
    """What a file holds, unless it is larger. Raises MetricError, in one line, for a file that is missing or too large."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(most_bytes + 1) if size <= most_bytes else b""
    except OSError as error:
        raise MetricError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    if max(size, len(content)) > most_bytes:
        raise MetricError(f"{path}: has {size} bytes, over the {most_bytes} allowed: not {wanted}")
    return content


def fill(network: nn.Module, path: Path, content: bytes) -> nn.Module:
    """The network with the tensors of a file's content, in evaluation mode and without gradients.

    Args:
        network: built on the device "meta".
        content: the very bytes that were verified, not the file read again: safetensors.

    Raises MetricError unless they are tensors with exactly the network's names and shapes, all finite.
    """
    return filled(network, path, _tensors(path, content))


def filled(network: nn.Module, path: Path, state: Mapping[str, Tensor]) -> nn.Module:
    """The same with tensors by name, read from ``path``. Raises MetricError unless they are exactly the network's, all finite."""
    network.load_state_dict(_fitting(dict(state), network, path), assign=True)
    return network.requires_grad_(False).eval()


def _tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    """The tensors in a file's content, by name."""
    from safetensors.torch import load

    try:
        return load(content)
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        raise MetricError(
            f"{path}: is not a file of tensors in the safetensors format ({one_line(error)}); a .pth that you trust becomes "
            f"one by: {CONVERT}"
        ) from error


def _fitting(state: dict[str, Tensor], network: nn.Module, path: Path) -> dict[str, Tensor]:
    """`state` as float32, once it has the network's names and shapes; counters of training batches may be absent."""
    wanted = network.state_dict()
    counters = {name for name in wanted if name.endswith(".num_batches_tracked")}
    problems = {
        "misses": sorted(wanted.keys() - state.keys() - counters),
        "has unexpected": sorted(state.keys() - wanted.keys()),
        "has another shape of": sorted(
            name for name in (wanted.keys() & state.keys()) - counters if wanted[name].shape != state[name].shape
        ),
    }
    told = [
        f"{what} {', '.join(name[:80] for name in names[:3])}"
        + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in problems.items()
        if names
    ]
    if told:
        raise MetricError(f"{path}: is not this network's: {'; '.join(told)}")
    ready = {name: x.float().contiguous() for name, x in state.items() if name not in counters}
    bad = sorted(name for name, x in ready.items() if not torch.isfinite(x).all())
    if bad:
        raise MetricError(f"{path}: has NaN or infinity in {bad[0]}")
    return ready | {name: torch.tensor(0) for name in counters}
