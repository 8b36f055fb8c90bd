"""A GPU without float64 (Apple's MPS) is taken where there is one, and nothing asks it for float64.

No such device is needed: tensors on torch's meta device stand for it. They have shapes and types, no numbers, and complain as it
does where they meet a tensor of another device; what is read from them is made up. A mode sees every operation, and one whose
result would be float64 there raises, as it does on MPS.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sfumato.diffusion import rng as streams
from sfumato.training import measure, parallel
from tests.jobs.small import sfumato, write_data

SMALL = ["--network.width", "16", "--network.depth", "1", "--batch", "8", "--steps", "3", "--previews", "1", "--snapshots", "1",
         "--held-out", "0.4", "--threads", "1"]  # fmt: skip


class NoDoubles(TorchDispatchMode):
    """Everything that happens, with the meta device as one that has no float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name
        there = any(isinstance(x, torch.Tensor) and x.device.type == "meta" for x in tree_leaves((args, kwargs)))
        if there and name == "aten::_local_scalar_dense":
            return args[0].new_full((), 0.5 if args[0].is_floating_point() else 1, device="cpu").item()
        if there and name == "aten::_to_copy" and torch.device(kwargs.get("device") or "meta").type == "cpu":
            return torch.full(args[0].shape, 1).to(kwargs.get("dtype") or args[0].dtype)
        if there and name == "aten::copy_" and args[0].device.type == "cpu":
            return args[0].fill_(1)
        if there and name == "aten::nonzero":  # asked for rows that are not finite: there are none
            return torch.empty((0, args[0].ndim), dtype=torch.int64, device="meta")
        out = func(*args, **kwargs)
        for made in tree_leaves(out):
            if isinstance(made, torch.Tensor) and made.device.type == "meta" and made.dtype == torch.float64:
                raise TypeError(f"this device has no float64, and {name} asks for it")
        return out


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch):
    """The meta device is the one that is picked, and is known to have no float64."""
    autocast, adam = torch.autocast, torch.optim.AdamW
    for module in (parallel, measure):
        monkeypatch.setattr(module, "pick_device", lambda name="auto": torch.device("meta"))
    monkeypatch.setattr(streams, "NO_DOUBLES", frozenset({"mps", "meta"}))
    # what MPS has and the meta device has not
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *a, **k: nullcontext() if kind == "meta" else autocast(kind, *a, **k)
    )
    monkeypatch.setattr(torch.optim, "AdamW", lambda *a, **k: adam(*a, **{**k, "fused": False}))


@pytest.mark.parametrize("kind", ["classes", "vectors"])
def test_nothing_is_float64_on_a_device_that_has_none(kind: str, lacking: None, tmp_path: Path, capsys):
    data = write_data(kind, tmp_path)
    with NoDoubles():
        assert sfumato("train", *data, *SMALL, "--out", tmp_path / "run") == 0
        for solver in ("dpmpp_2m", "churn", "ancestral", "unipc"):
            words = ["-n", 3, "--steps", 3, "--solver", solver, "--w", 2, "--out", tmp_path / solver]
            assert sfumato("sample", tmp_path / "run", *words) == 0
    assert "failed" not in capsys.readouterr().err  # the preview, a grid


def test_the_mode_notices(lacking: None):
    with NoDoubles(), pytest.raises(TypeError, match="no float64, and aten::_to_copy"):
        torch.zeros(2, device="meta").double()


@pytest.mark.parametrize(("cuda", "mps", "right"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_best_device_there_is_is_picked(cuda: bool, mps: bool, right: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert parallel.pick_device().type == right
    assert parallel.pick_device("cpu").type == "cpu"


def test_the_doctor_says_it(monkeypatch: pytest.MonkeyPatch):
    from sfumato.jobs import doctor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    lines = list(doctor.device())
    assert lines[0] == "mps: training and sampling run here"
    assert any(line.startswith("MPS: Apple's GPU") for line in lines)


def test_streams_for_it_are_those_of_the_cpu():
    here, there = (streams.Streams(5, range(4), device) for device in ("cpu", "mps"))
    assert torch.equal(here.normal((4, 3)), there.normal((4, 3)))
    assert torch.equal(here.uniform((4,), torch.float64), there.uniform((4,), torch.float64))
