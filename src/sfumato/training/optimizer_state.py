"""The state of an optimiser as tensors and JSON, exactly: nothing that could hold code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sfumato.training.checkpoint import CheckpointError
from sfumato.training.sharding import local

# How the arithmetic is carried out belongs to the machine that runs, not to the state that was saved.
_OF_THE_MACHINE = ("fused", "foreach", "capturable", "differentiable")


def flatten_optimizer(optimizer: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of a torch optimiser (or of several behind one `state_dict`) as tensors and JSON.

    The tensors are named `state.12.exp_avg` (12 counts the parameters through all groups) and `group.0.lr`, and are
    the live ones, not copies. The JSON holds all other values and the shapes of the parameters.
    Raises CheckpointError for state that is neither tensor nor JSON (as in L-BFGS).
    """
    packed = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    for index, state in packed["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"state.{index}.{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    for number, group in enumerate(packed["param_groups"]):
        groups.append({})
        for key, value in group.items():
            if isinstance(value, Tensor):
                tensors[f"group.{number}.{key}"] = value
            elif key != "params":
                groups[-1][key] = value
    shapes = [list(parameter.shape) for group in optimizer.param_groups for parameter in group["params"]]
    counts = [len(group["params"]) for group in optimizer.param_groups]
    meta = {"groups": groups, "scalars": scalars, "shapes": shapes, "counts": counts}
    try:
        return tensors, json.loads(json.dumps(meta))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"optimizer: {type(optimizer).__name__} keeps state that is not JSON ({error})"
        ) from error


def restore_optimizer(optimizer: Any, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Put back what `flatten_optimizer` took, bit for bit.

    Unlike torch's own loading this keeps the dtype of the state when it differs from the parameter's (float32 moments
    of bfloat16 weights). Hyper-parameters become those that were saved, except how to compute (`fused`, `foreach`).
    Of parameters that lie in parts over many processes ``tensors`` has the rows that this process holds.
    Raises CheckpointError, with the optimiser untouched, when groups, names or shapes differ.
    """
    parts = getattr(optimizer, "optimizers", (optimizer,))
    groups = [group for part in parts for group in part.param_groups]
    owners = [
        (part, group, parameter) for part in parts for group in part.param_groups for parameter in group["params"]
    ]
    try:
        _check_optimizer(groups, meta)
        states = _thaw_states(owners, tensors, meta)
        values = _thaw_groups(groups, tensors, meta)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise CheckpointError(f"optimizer: the saved state is not understood ({error!r}); start it afresh") from error
    for part in parts:
        part.state.clear()
    for (part, _, parameter), state in zip(owners, states, strict=True):
        if state:
            part.state[parameter] = state
    for group, value in zip(groups, values, strict=True):
        group.update(value)


def _check_optimizer(groups: list[dict[str, Any]], meta: Mapping[str, Any]) -> None:
    advice = "resume with the network and optimiser it was saved from"
    counts = [len(group["params"]) for group in groups]
    parameters = [parameter for group in groups for parameter in group["params"]]
    names = [name for group in groups for name in group.get("param_names", ())]
    saved = [name for group in meta["groups"] for name in group.get("param_names", ())]
    if len(meta["shapes"]) != len(parameters):
        raise CheckpointError(f"optimizer: saved for {len(meta['shapes'])} parameters, has {len(parameters)}; {advice}")
    for i, (shape, parameter) in enumerate(zip(meta["shapes"], parameters, strict=True)):
        name = names[i] if i < len(names) else f"parameter {i}"
        if shape != list(parameter.shape):
            raise CheckpointError(f"optimizer: {name} has shape {list(parameter.shape)}, saved was {shape}; {advice}")
    if meta["counts"] != counts:
        raise CheckpointError(f"optimizer: groups of {counts} parameters, saved were {meta['counts']}; {advice}")
    for now, then in zip(names, saved):
        if now != then:
            raise CheckpointError(f"optimizer: {now} stands where {then} was saved; {advice}")


def _thaw_states(owners: list[Any], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    states: list[dict[str, Any]] = [{} for _ in owners]
    for index, scalars in meta["scalars"].items():
        states[int(index)].update(scalars)
    for name, saved in tensors.items():
        kind, index, key = name.split(".", 2)
        if kind != "state":
            continue
        _, group, parameter = owners[int(index)]
        if saved.shape == local(parameter).shape and key != "step":
            # Fused and multi-tensor kernels want the moments laid out like their parameter.
            tensor = torch.empty_like(parameter, dtype=saved.dtype, requires_grad=False)
        else:
            # Step counters live on the CPU unless the kernel reads them on the device.
            scalar = saved.ndim == 0 and not (group.get("fused") or group.get("capturable"))
            tensor = torch.empty_like(saved, device="cpu" if scalar else parameter.device)
        local(tensor).copy_(saved)
        states[int(index)][key] = tensor
    return states


def _thaw_groups(
    groups: list[dict[str, Any]], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = []
    for number, (group, saved) in enumerate(zip(groups, meta["groups"], strict=True)):
        values.append({})
        for key, value in saved.items():
            if key in _OF_THE_MACHINE or key == "param_names":
                continue
            # JSON has no tuples; in an optimiser lists are the exception.
            tuples = isinstance(value, list) and not isinstance(group.get(key), list)
            values[-1][key] = tuple(value) if tuples else value
        for name, tensor in tensors.items():
            if name.startswith(f"group.{number}."):
                key = name.split(".", 2)[2]
                live = group.get(key)
                values[-1][key] = tensor.clone().to(live.device if isinstance(live, Tensor) else "cpu")
    return values
