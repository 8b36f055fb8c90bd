"""`sfumato export`: the averaged weights of a run as one plain file, from its newest checkpoint, by one process.

A finished run has its model.safetensors; one that is not has checkpoints, which may lie in the parts of many processes.
"""

from __future__ import annotations

from pathlib import Path

from sfumato.errors import Wrong
from sfumato.jobs.config import read_config
from sfumato.training.run import Run, RunError


def export(path: Path, out: Path | None = None) -> Path:
    """Write the file, model-step-N.safetensors in the run unless told otherwise, and return where it is. It is of the form of
    model.safetensors, and in its place the run would be sampled by it.

    Raises RunError where the run has no checkpoint, or is an adaptation, whose weights are given away by its end alone;
    CheckpointError where they cannot be read or written.
    """
    from sfumato.training import checkpoint

    run = Run(path)
    config = read_config(run)
    if config.adaptations:
        raise RunError(f"{path}: is an adaptation of another run; what it gives away is made at its end: resume it")
    newest, complaints = checkpoint.newest(run.checkpoints)
    if newest is None:
        raise RunError(f"{path}: has no checkpoint to export" + (f" ({complaints[0]})" if complaints else ""))
    found = checkpoint.load(newest, verified=True)
    width = str(config.training.ema[0])
    averages = {
        name.removeprefix(f"{width}/"): value
        for name, value in found.tensors["ema"].items()
        if name.startswith(f"{width}/")
    }
    about = {"network": str(found.meta["network"]), "width": width, "step": str(found.step)}
    file = out or run.path / f"model-step-{found.step:08d}.safetensors"
    if file.suffix != ".safetensors":
        raise Wrong(f"out = {str(file)!r}: must be a file whose name ends in .safetensors")
    checkpoint.save_weights(file, {**found.tensors["network"], **averages}, about)
    return file
