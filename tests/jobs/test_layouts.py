"""The command in several processes whose weights lie in parts: trained, stopped, gone on with in any layout, sampled."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

from sfumato.training import checkpoint
from sfumato.training.run import Run

from .small import SMALL, sfumato, write_data
from .test_processes import command, run_to_end, weights

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _local_sockets():
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
    except OSError:
        pytest.skip("no local sockets here")


def parts(out: Path) -> set[str]:
    """Which of how many each file of weights in the newest checkpoint is."""
    path, _ = checkpoint.newest(out / "checkpoints")
    assert path is not None
    return {file.stem.partition("@")[2] for file in path.glob("network*.safetensors")}


def test_a_run_in_parts_is_trained_stopped_gone_on_with_and_sampled(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = write_data("classes", tmp_path)
    how = [*words, *SMALL, "--precision", "fp32", "--steps", "12", "--save-seconds", "1e-9", "--keep", "99"]
    straight_run = tmp_path / "straight"
    run_to_end("train", *how, "--out", straight_run)
    out = tmp_path / "run"
    run_to_end("train", *how, "--parallel.shard", "-1", "--out", out, ranks=2)
    assert parts(out) == {"0-of-2", "1-of-2"}
    checkpoint.forget(out / "checkpoints", 4)
    (out / "model.safetensors").unlink()

    # what has not been finished is sampled from its parts by one process
    assert sfumato("sample", out, "-n", "2", "--out", tmp_path / "early", "--steps", "3", "--batch", "2") == 0
    assert "taking its average at step 4" in capsys.readouterr().err
    assert len(list((tmp_path / "early").glob("*.png"))) >= 2

    assert sfumato("export", out) == 0
    merged = checkpoint.read_tensors(out / "model-step-00000004.safetensors")
    found = checkpoint.load(out / "checkpoints" / "step-00000004").tensors
    assert merged.keys() == found["network"].keys()
    assert all(torch.equal(value, found["ema"].get(f"0.05/{name}", value)) for name, value in merged.items())

    run_to_end("resume", out, "--steps", "12", "--parallel.replicate", "2", "--parallel.shard", "2", ranks=4)
    assert parts(out) == {"0-of-2", "1-of-2"}
    checkpoint.forget(out / "checkpoints", 8)
    assert "going on after step 8 of 12" in run_to_end("resume", out)
    assert parts(out) == {""}
    (a, mine), (b, straight) = weights(out), weights(straight_run)
    assert a == b == 12
    for name in straight:
        if name.startswith(("network/", "ema/")):
            torch.testing.assert_close(mine[name], straight[name], rtol=1e-3, atol=1e-4)
    assert sfumato("sample", out, "-n", "2", "--out", tmp_path / "late", "--steps", "3", "--batch", "2") == 0
    first, last = (
        [r["loss"] for r in Run(run).records() if r.get("step") == 12 and "loss" in r] for run in (out, straight_run)
    )
    assert len(first) == 3  # walked to its end by 2 processes, by 4, and by 1
    assert first == pytest.approx([last[0]] * 3, rel=1e-4)


def test_layouts_that_do_not_fit_are_refused_in_a_line(tmp_path: Path):
    words = write_data("array", tmp_path)
    asked = ["--parallel.shard", "3", "--out", tmp_path / "run"]
    done = subprocess.run(
        command("train", *words, *SMALL, *asked, ranks=2), capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    assert done.stderr.count("replicate 1 x shard 3 x context 1 = 3, but 2 processes were started") == 1
    assert not (tmp_path / "run").exists()


def test_a_signal_to_one_process_stops_all_at_one_step(tmp_path: Path):
    words, out = write_data("array", tmp_path), tmp_path / "run"
    how = [
        *SMALL,
        "--steps",
        "100000",
        "--save-seconds",
        "3600",
        "--previews",
        "0",
        "--snapshots",
        "0",
        "--parallel.shard",
        "2",
    ]
    launcher = subprocess.Popen(
        command("train", *words, *how, "--out", out, ranks=2), stderr=subprocess.PIPE, text=True
    )
    give_up = time.monotonic() + 240
    while not (out / "log.jsonl").exists():  # it learns
        assert launcher.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.05)
    ranks = [int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]
    last = max(pid for pid in ranks if b"--parallel.shard" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(last, signal.SIGTERM)
    _, err = launcher.communicate(timeout=240)
    assert err.count("stopped by SIGTERM after step") >= 1
    step, _ = weights(out)
    assert step > 0
    assert parts(out) == {"0-of-2", "1-of-2"}
    assert f"after step {step} of 100000, which is saved" in err
    assert not (out / ".lock").exists()
