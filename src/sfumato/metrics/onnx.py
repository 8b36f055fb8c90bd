"""Features of a network in an ONNX file that the user has, run by onnxruntime (extra ``features``).

The file is a graph of known operations and their weights: onnxruntime loads no library and runs no code of it, and reads
no other file, for it is given the bytes alone. Its one input must be pictures (N, 3, H, W) in float32, which are resized
to H x W (224 where the graph leaves them open) and shown in [-1, 1]: a network with another scale should carry it in its
graph. Its first output, (N, ...), is averaged over all dimensions but the first two if it has more.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import install
from sfumato.metrics.distances import MetricError
from sfumato.metrics.inception import as_bytes, resize
from sfumato.metrics.weights import bounded

MOST_BYTES = 2**30
OPEN_SIDE = 224


@dataclass(frozen=True, eq=False)
class Network:
    """Pictures (N, 1 or 3, H, W), uint8 or in [-1, 1] -> (N, d) float64. From `load`."""

    session: Any
    side: int  # of the pictures it is shown
    checksum: str  # SHA-256 of the file
    path: Path
    batch: int = 16  # pictures shown at once, where the graph leaves it open
    fixed: bool = False  # the graph takes exactly `batch`

    def __call__(self, x: Tensor) -> Tensor:
        """Raises MetricError for what are no pictures, or an answer that is not one row of numbers a picture."""
        out = []
        for part in as_bytes(x).split(self.batch):
            shown = (resize(part.cpu(), self.side) - 127.5) / 127.5
            missing = self.batch - len(part) if self.fixed else 0
            padded = torch.cat([shown, shown[:1].expand(missing, -1, -1, -1)]).contiguous()
            answer = torch.from_numpy(self.session.run(None, {self.session.get_inputs()[0].name: padded.numpy()})[0])
            if answer.dim() < 2 or len(answer) != len(padded) or not answer.is_floating_point():
                raise MetricError(f"{self.path}: answers {tuple(answer.shape)} for {len(padded)} pictures, not (N, d)")
            answer = answer[: len(part)].double()
            out.append((answer.flatten(2).mean(2) if answer.dim() > 2 else answer).to(x.device))
        return torch.cat(out)


def load(path: Path, most_bytes: int = MOST_BYTES) -> Network:
    """The feature map of an ONNX file.

    Raises MetricError, in one line, if onnxruntime is not installed, or for a file that is missing, too large, not an ONNX
    graph, or not of pictures.
    """
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MetricError(f"{path}: needs onnxruntime to be run; {install('features')}") from error
    content = bounded(path, most_bytes, "give the file of a network", "a network to measure with")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
        inputs = [(taken.name, taken.type, taken.shape) for taken in session.get_inputs()]
    except Exception as error:  # a damaged file makes it raise nearly anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MetricError(f"{path}: is not a graph that onnxruntime can run ({reason})") from error
    _, kind, shape = inputs[0] if len(inputs) == 1 else ("", "", [])
    if kind != "tensor(float)" or len(shape) != 4 or shape[1] != 3:
        takes = ", ".join(f"{name}: {kind} {shape}" for name, kind, shape in inputs)
        raise MetricError(f"{path}: takes {takes or 'nothing'}; it must take pictures alone, float (N, 3, H, W)")
    count, _, height, width = (n if isinstance(n, int) else None for n in shape)
    if (height or width) and height != width:
        raise MetricError(f"{path}: takes pictures of {height} x {width}; they must be square")
    return Network(
        session, height or OPEN_SIDE, hashlib.sha256(content).hexdigest(), path, count or 16, count is not None
    )
