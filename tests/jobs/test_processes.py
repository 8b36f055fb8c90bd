"""The command in processes of its own: stopped and killed by signals, and shared out over several by torchrun."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sfumato.training import checkpoint, loop
from sfumato.training.run import Run
from tests.training.small import noted, trace

from .small import SMALL, sfumato, write_data

pytestmark = pytest.mark.slow
ENDLESS = [*SMALL, "--steps", "100000", "--save-seconds", "1e-9", "--previews", "0", "--snapshots", "0",
           "--keep", "99"]  # fmt: skip


def command(*words: object, ranks: int = 1) -> list[str]:
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [sys.executable, *launcher, "-m", "sfumato", *map(str, words)]


def run_to_end(*words: object, ranks: int = 1) -> str:
    done = subprocess.run(command(*words, ranks=ranks), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def started(*words: object, until: Path) -> subprocess.Popen[str]:
    """The command, once ``until`` exists or it has finished."""

    def heard() -> None:  # ignored where the tests themselves run in the background, or under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    give_up = time.monotonic() + 240
    while not until.exists() and process.poll() != 0:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return process


def weights(out: Path) -> tuple[int, dict[str, torch.Tensor]]:
    path, complaints = checkpoint.newest(out / "checkpoints")
    assert not complaints
    found = checkpoint.load(path)
    return found.step, {f"{g}/{n}": value for g, named in found.tensors.items() for n, value in named.items()}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_leaves_with_its_status(number: int, code: int, tmp_path: Path):
    words, out = write_data("array", tmp_path), tmp_path / "run"
    process = started("train", *words, *ENDLESS, "--out", out, until=out / "checkpoints" / "step-00000003")
    process.send_signal(number)
    _, err = process.communicate(timeout=240)
    assert process.returncode == code
    name, step = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name, weights(out)[0]
    assert step >= 3
    assert err.splitlines()[-1] == (
        f"sfumato: stopped by {name} after step {step} of 100000, which is saved: go on with `sfumato resume {out}`"
    )
    assert not (out / ".lock").exists()


def test_killed_stopped_and_resumed_in_new_processes_is_bit_equal(tmp_path: Path):
    words = write_data("classes", tmp_path)
    steps = ["--steps", "40", "--save-seconds", "1e-9", "--previews", "0", "--snapshots", "0", "--keep", "99",
             "--threads", "1"]  # fmt: skip
    run_to_end("train", *words, *SMALL, *steps, "--out", tmp_path / "straight")
    out = tmp_path / "run"
    process = started("train", *words, *SMALL, *steps, "--out", out, until=out / "checkpoints" / "step-00000002")
    process.kill()
    process.communicate()
    first = weights(out)[0]
    process = started("resume", out, until=out / "checkpoints" / f"step-{first + 2:08d}")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    run_to_end("resume", out)
    (a, mine), (b, straight) = weights(out), weights(tmp_path / "straight")
    assert a == b == 40
    assert [name for name in straight if not torch.equal(mine[name], straight[name])] == []


def test_a_second_training_of_the_same_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words, out = write_data("array", tmp_path), tmp_path / "run"
    process = started("train", *words, *ENDLESS, "--out", out, until=out / "checkpoints" / "step-00000001")
    try:
        capsys.readouterr()
        assert sfumato("resume", out) == 1
        assert f"process {process.pid} is training in this run" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()


def test_a_worker_that_is_killed_does_not_hang_the_run(tmp_path: Path):
    words, out = write_data("array", tmp_path), tmp_path / "run"
    path = out / "checkpoints" / "step-00000003"
    process = started("train", *words, *ENDLESS, "--workers", "1", "--out", out, until=path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("the children of a process cannot be listed here")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=240)
    assert process.returncode not in (0, None)
    last = err.splitlines()[-1]
    assert last.startswith("sfumato: a process that loads data died (exit status -9)")
    assert f"after step {weights(out)[0]} of 100000, which is saved: go on with `sfumato resume {out}`" in last
    assert weights(out)[0] >= 3


def test_a_reader_who_leaves_early_ends_no_run(tmp_path: Path):
    words, out = write_data("array", tmp_path), tmp_path / "run"
    process = started("train", *words, *SMALL, "--threads", "1", "--out", out, until=out / "config.yaml")
    process.stderr.close()
    assert process.wait(60) == 0
    assert (out / "model.safetensors").is_file()
    assert (out / "README.md").is_file()


# ---- torchrun ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _local_sockets():
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
    except OSError:
        pytest.skip("no local sockets here")


@pytest.mark.usefixtures("_local_sockets")
@pytest.mark.parametrize("extra", [[], ["--accumulate", "2", "--method.times", "adaptive", "--method.uncertainty"]])
def test_two_processes_train_as_one(extra: list[str], tmp_path: Path):
    words = write_data("classes", tmp_path)
    how = [*words, *SMALL, *extra, "--precision", "fp32"]
    run_to_end("train", *how, "--out", tmp_path / "one")
    run_to_end("train", *how, "--out", tmp_path / "two", ranks=2)
    losses, looks = [], []
    for name in ("one", "two"):
        records = Run(tmp_path / name).records()
        losses.append([r["loss"] for r in records if "loss" in r])
        looks.append([r["held_out"] for r in records if "held_out" in r])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert looks[1] == pytest.approx(looks[0], rel=1e-5)
    assert len(losses[0]) == 1
    assert len(looks[0]) == 2
    assert (tmp_path / "two" / "model.safetensors").is_file()


@pytest.mark.usefixtures("_local_sockets")
def test_the_same_command_goes_on_and_another_is_refused_once(tmp_path: Path):
    words, out = write_data("array", tmp_path), tmp_path / "run"
    how = [*words, *SMALL, "--out", out]
    run_to_end("train", *how, ranks=2)
    assert "finished: all 10 steps are done" in run_to_end("train", *how, ranks=2)
    before = (out / "model.safetensors").read_bytes()
    done = subprocess.run(command("train", *how, "--steps", "20", ranks=2), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "there is a run here already" in line]
    assert len(said) == 1
    assert "steps: the run has 10, asked is 20" in said[0]
    assert (out / "model.safetensors").read_bytes() == before


@pytest.mark.usefixtures("_local_sockets")
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path):
    words = write_data("classes", tmp_path)
    how = [*words, *SMALL, "--precision", "fp32", "--save-seconds", "1e-9", "--steps", "30", "--keep", "100"]
    run_to_end("train", *how, "--out", tmp_path / "straight")
    out = tmp_path / "run"
    run_to_end("train", *how, "--out", out)

    def back_to(step: int) -> None:
        for path in (out / "checkpoints").iterdir():
            if int(path.name[5:]) > step:
                for file in path.iterdir():
                    file.unlink()
                path.rmdir()

    back_to(10)
    assert "going on after step 10 of 30" in run_to_end("resume", out, ranks=2)
    back_to(20)  # steps 11 to 20 were made by two processes
    assert "going on after step 20 of 30" in run_to_end("resume", out)
    (a, mine), (b, straight) = weights(out), weights(tmp_path / "straight")
    assert a == b == 30
    for name in straight:
        if name.startswith(("network/", "ema/")):
            torch.testing.assert_close(mine[name], straight[name], rtol=1e-3, atol=1e-4)
    losses = [r["loss"] for r in Run(out).records() if "loss" in r]
    expected = [r["loss"] for r in Run(tmp_path / "straight").records() if "loss" in r]
    assert losses[-1] == pytest.approx(expected[-1], rel=1e-4)


MORTAL = """
import faulthandler, os, signal, sys
faulthandler.dump_traceback_later(200, exit=True)  # one that hangs says where
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.training.small import *
torch.set_num_threads(1)
out, dies = Path(sys.argv[1]), sys.argv[2] == "dies" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
pieces = loop._pieces

def mortal(state, module, step, rows):
    if dies and step == 4 and state.runtime.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # the other one waits for its gradient
    return pieces(state, module, step, rows)

loop._pieces = mortal
loop.train(small_task(), made(out), options(save_seconds=1e-9 if dies else 3600, steps=8))
sys.stderr.flush()
os._exit(0)  # as the command does, whatever threads of others still do
"""


@pytest.mark.usefixtures("_local_sockets")
def test_a_process_that_dies_under_torchrun_costs_nothing(tmp_path: Path):
    """The launcher starts all of them again: they go on from the last checkpoint and end as if nothing had been."""
    (tmp_path / "mortal.py").write_text(MORTAL.format(root=str(Path(__file__).parents[2])))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    for name in ("lives", "dies"):
        words = [*launcher, tmp_path / "mortal.py", tmp_path / name, name]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("going on after step" in done.stderr) == (name == "dies")
    (a, mine), (b, straight) = weights(tmp_path / "dies"), weights(tmp_path / "lives")
    assert a == b == 8
    assert [name for name in straight if not torch.equal(mine[name], straight[name])] == []


def family(pid: int) -> list[int]:
    """A process and all that came of it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("the children of a process cannot be listed here")
    return [pid, *(each for child in children.read_text().split() for each in family(int(child)))]


@pytest.mark.usefixtures("_local_sockets")
@pytest.mark.parametrize("told", ["the launcher", "every process", "one of them"])
def test_a_signal_under_torchrun_finishes_the_step_and_saves(told: str, tmp_path: Path):
    """A scheduler tells every process of a job, and torchrun passes on what it heard: that is still one signal."""
    words, out = write_data("array", tmp_path), tmp_path / "run"
    how = [*ENDLESS, "--save-seconds", "3600", "--threads", "1", "--out", out]
    process = subprocess.Popen(command("train", *words, *how, ranks=2), stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 240
    while not (out / "log.jsonl").is_file():  # ten steps, of which none is saved
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < give_up
        time.sleep(0.01)
    every = family(process.pid)
    for each in {"the launcher": every[:1], "every process": every, "one of them": every[-1:]}[told]:
        os.kill(each, signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert weights(out)[0] >= 10
    assert f"stopped by SIGTERM after step {weights(out)[0]} of 100000, which is saved" in err


RANK = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.training.small import *
from sfumato.training.parallel import launched
torch.set_num_threads(1)
run = Run(Path(sys.argv[1]))
with launched() as runtime:
    with noted(Run(run.path / str(runtime.rank))):
        loop.train(small_task(), run, options(steps=6, accumulate=2))
"""


@pytest.mark.usefixtures("_local_sockets")
def test_the_global_order_of_data_times_and_noise_is_the_same(tmp_path: Path):
    from tests.training.small import made, options, small_task

    one = made(tmp_path / "one")
    with noted(one):
        loop.train(small_task(), one, options(steps=6, accumulate=2))
    two = made(tmp_path / "two")
    for rank in "01":
        (two.path / rank).mkdir()
    (tmp_path / "rank.py").write_text(RANK.format(root=str(Path(__file__).parents[2])))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, tmp_path / "rank.py", two.path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, halves = trace(one), [trace(Run(two.path / rank)) for rank in "01"]
    assert whole.keys() == halves[0].keys() == halves[1].keys()
    for at, piece in whole.items():
        parts = [half[at] for half in halves]
        assert parts[0]["items"] + parts[1]["items"] == piece["items"]
        assert parts[0]["label label"] + parts[1]["label label"] == piece["label label"]
        for name in ("x", "t", "z"):  # sums over each leaf
            totals = [sum(map(float.fromhex, leaf)) for leaf in zip(*(part[name] for part in parts), strict=True)]
            assert totals == pytest.approx([float.fromhex(value) for value in piece[name]], rel=1e-12, abs=1e-12)
        mean = sum(float.fromhex(part["loss"]) for part in parts) / 2
        assert mean == pytest.approx(float.fromhex(piece["loss"]), rel=1e-6 if at[0] < 1 else 1e-4)


def test_a_tuning_in_two_processes_is_that_of_one(tmp_path: Path):
    """Begun by the first of them, learned by both, finished by one."""
    words = write_data("classes", tmp_path)
    run_to_end("train", *words, *SMALL, "--out", tmp_path / "run")
    found = []
    for ranks in (1, 2):
        how = ["--lora", 2, "--kept", 4, "--batch", 8, "--steps", 4, "--previews", 0, "--snapshots", 2, "--threads", 1,
               "--optim.lr", 0.001, "--precision", "fp32"]  # fmt: skip
        run_to_end("finetune", tmp_path / "run", "--data", words[0], *how, "--out", tmp_path / str(ranks), ranks=ranks)
        found.append(checkpoint.read_tensors(tmp_path / str(ranks) / "model.safetensors"))
        assert any("held_out_best" in record for record in Run(tmp_path / str(ranks)).records())
    base = checkpoint.read_tensors(tmp_path / "run" / "model.safetensors")
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4)
    assert any(float((found[0][name] - value).abs().max()) > 1e-3 for name, value in base.items())
