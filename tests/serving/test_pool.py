"""Several processes that draw: each on a device of its own, all of them the same samples."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from sfumato.serving.pool import surroundings
from tests.serving.small import served, taken
from tests.serving.test_http import numbers, offline


def test_each_process_has_a_device_of_its_own_and_more_take_turns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-7a,2")
    assert [surroundings(i, 0)["CUDA_VISIBLE_DEVICES"] for i in range(5)] == ["4", "GPU-7a", "2", "4", "GPU-7a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # none may be used, and none is
    assert surroundings(1, 2)["CUDA_VISIBLE_DEVICES"] == ""
    assert surroundings(1, 2)["OMP_NUM_THREADS"] == "2"


def test_who_says_how_memory_is_kept_is_heard(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    assert int(surroundings(0, 1)["MALLOC_TRIM_THRESHOLD_"]) > 1 << 27
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "4096")
    assert surroundings(0, 1)["MALLOC_TRIM_THRESHOLD_"] == "4096"


@pytest.mark.slow
def test_two_processes_draw_what_one_draws_and_one_goes_on_where_the_other_dies(tmp_path: Path):
    with served(taken(tmp_path, "vectors", "classes"), tmp_path, "--workers", "2") as server:

        def one(seed: int) -> dict[str, Any]:
            run = ("vectors", "classes")[seed % 2]
            return server.draw(run=run, n=2, seed=seed, walk={"steps": 40})

        with ThreadPoolExecutor(8) as pool:
            jobs = list(pool.map(one, range(16)))
        for job in jobs:
            wanted = offline(server, job["run"], 2, {"steps": 40}, job["asked"]["seed"])
            for mine, theirs in zip(numbers(server, job), wanted, strict=True):
                within = 1 if mine.dtype == np.uint8 else 1e-4
                assert np.abs(mine.astype(float) - theirs.astype(float)).max() <= within
        time.sleep(0.7)
        turns = dict(
            re.findall(r'^sfumato_turns_total\{worker="(\d)"\} (\d+)', server.ask("GET", "/metrics")[1].decode(), re.M)
        )
        assert {number for number, count in turns.items() if int(count) > 0} == {"0", "1"}
        os.kill(server.workers()[0], signal.SIGKILL)
        assert server.draw(run="vectors", seed=1, walk={"steps": 2})["state"] == "done"
        assert server.end() == 0
