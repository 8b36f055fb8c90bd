"""The benchmark for GPUs, in tiny sizes on the CPU: its sections run, its results survive, its pictures and clocks are right."""

from __future__ import annotations

import json
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import command, library, stepping
from benchmarks.gpu.equality import relative
from benchmarks.gpu.learning import shapes
from benchmarks.gpu.record import Record, alarm, errors, in_turn, syncs
from benchmarks.gpu.speed import TINY, machine, overhead, streams
from sfumato import networks
from sfumato.diffusion import Gaussian, Linear

CPU = torch.device("cpu")


def test_sections_run_without_an_error(tmp_path: Path) -> None:
    asked = ["--small", "--no-compile", "--out", str(tmp_path), "--sections", "machine", "streams", "step", "training"]
    assert command.main(asked) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found) == {"machine", "streams", "step", "training"}
    assert not list(errors(found))
    step = found["step"]["eager, batch 8"]
    assert step["plain"]["images per second"] == pytest.approx(8 / step["plain"]["median"])
    assert step["plain"]["of_peak"] == pytest.approx(step["plain"]["TFLOP/s"] / found["machine"]["bf16 TFLOP/s"])
    assert found["training"]["distance"]["floor"] < found["training"]["distance"]["distance"]
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    table = (tmp_path / "table.txt").read_text()
    assert "training" in table
    assert "0 error(s)" in table


def test_a_fault_or_a_late_section_costs_itself_alone(tmp_path: Path) -> None:
    record = Record(tmp_path, 60)

    def broken(facts: dict) -> None:
        facts["kept"] = 1
        record.attempt(facts, "part", lambda: 1 / 0)
        record.attempt(facts, "other", lambda: 2)
        raise ValueError("of its own")

    record.section("broken", broken, 10)
    record.section("late", lambda facts: time.sleep(5), 2)
    record.section("good", lambda facts: facts.update(fine=True), 10)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["broken"]["kept"] == 1
    assert found["broken"]["other"] == 2
    assert found["good"]["fine"] is True
    assert found["late"]["seconds"] < 4
    assert [place for place, _ in errors(found)] == ["broken/part", "broken", "late"]
    record.seconds = 0
    record.section("never", lambda facts: facts.update(ran=True), 10)
    assert "ran" not in record.facts["never"]


def test_a_table_is_made_of_whatever_there_is() -> None:
    broken = {"error": "Traceback\nValueError: no"}
    step = {"network": "DiT", "eager, batch 8": broken, "sampling": {"batch": 2, "forward": {"gain": 2.0}}}
    some = {
        "equality": {"one step, exact": broken, "walks": {"euler": 0.5, "heun": broken}},
        "step": step,
        "training": broken,
    }
    rows = command.table(some)
    assert any("walks" in row and "5.0e-01" in row for row in rows)
    assert any("gains 2.00" in row for row in rows)
    assert "4 error(s)" in rows
    assert rows[-1].endswith("ValueError: no")
    assert command.table({}) == ["0 error(s)"]


def test_the_alarm_is_off_afterwards() -> None:
    with alarm(0.2):
        pass
    time.sleep(0.3)


def test_waits_are_told_by_the_line_of_the_library() -> None:
    """What CUDA warns of, warned of here by hand below a line of the library."""

    def warns() -> None:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    class Warning_(torch.nn.Module):
        def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            warns()
            return x

    process = Gaussian(Linear(), "data")

    def work() -> None:
        from sfumato.diffusion import Denoiser

        warnings.warn("something else", stacklevel=1)
        Denoiser(Warning_(), process).answer(torch.zeros(2, 3), torch.tensor(0.5, dtype=torch.float64))

    found = syncs(CPU, work)
    assert found["count"] == 1
    (place,) = found["places"]
    assert place.startswith("denoiser.py:")
    assert "answer" in place


def test_the_loops_step_here_is_the_loops(tmp_path: Path) -> None:
    """The pieces put together for the clock learn what `loop.train` learns: the same weights after three steps."""
    pictures = shapes(40, 8)
    made = [networks.DiT(channels=3, width=32, depth=2, patch=4) for _ in range(2)]
    made[1].load_state_dict(made[0].state_dict())
    task = library.make_task(made[0], pictures, 2)
    options = {"steps": 3, "batch": 8, "compile": "off", "precision": "fp32", "previews": 0, "snapshots": 0}
    library.fit(task, tmp_path, CPU, **options)
    step = library.LoopStep(made[1], library.picture_process(), CPU, bf16=False, total=3)
    for i, x in enumerate(library.loaded(pictures, 8, 3)):
        x, z, t = library.drawn(x, i, CPU)
        step(x, z, t)
    assert relative(made[1].state_dict(), made[0].state_dict()) < 1e-6


def test_the_plain_step_descends_on_the_velocity() -> None:
    torch.manual_seed(0)
    network = networks.DiT(channels=4, width=32, depth=2, patch=8)
    given, step = stepping.batch_of(8, (4, 32, 32), CPU), stepping.PlainStep(network, average=True)
    before = [p.detach().clone() for p in step.parameters]
    step(*given)
    moved = [torch.equal(a, b) for a, b in zip(before, step.parameters, strict=True)]
    assert not all(moved)
    for old, new, mean in zip(before, step.parameters, step.average, strict=True):
        torch.testing.assert_close(mean, old + 0.001 * (new - old))


def test_pictures_are_a_function_of_the_seed_and_full_of_shapes() -> None:
    some = shapes(600, 16)
    assert some.shape == (600, 3, 16, 16)
    assert some.dtype == np.uint8
    assert np.array_equal(some[:500], shapes(500, 16))
    assert not np.array_equal(some, shapes(600, 16, seed=1))
    assert len(np.unique(some.reshape(600, -1), axis=0)) == 600


def test_what_is_not_a_number_is_as_far_as_can_be() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert relative({"a": b, "b": a}, {"a": a, "b": a}) == pytest.approx(0.1)
    assert relative(torch.tensor([1.0, float("nan")]), a) == float("inf")
    assert relative(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == 0.25


def test_what_is_timed_in_turn_is_called_equally_often() -> None:
    calls = {"a": 0, "b": 0}

    def work(name: str) -> None:
        calls[name] += 1

    found = in_turn(CPU, {"a": lambda: work("a"), "b": lambda: work("b")}, repeats=3, warm=1, times=2)
    assert calls == {"a": 8, "b": 8}
    assert all(each["count"] == 3 and each["low"] <= each["median"] <= each["high"] for each in found.values())


@pytest.mark.slow
def test_the_longer_sections_run_without_an_error(tmp_path: Path) -> None:
    record = Record(tmp_path, 300)
    for name, work in (("machine", machine), ("overhead", overhead), ("streams", streams)):
        record.section(name, partial(work, record, CPU, TINY), 300)
    assert not list(errors(record.facts))
    assert record.facts["overhead"]["small"]["heun"]["calls"] == 39
