"""Scripts for SLURM: a shell can read them, and what they would start is a command that torchrun and sfumato understand."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from sfumato import cli
from sfumato.jobs.clusters import SLURM
from sfumato.jobs.training_verbs import Train
from sfumato.jobs.verbs import Sample

from .small import sfumato


def started(kind: str, tmp_path: Path, status: int = 0, **told: str) -> tuple[int, list[str], list[str]]:
    """The script in a shell whose srun and scontrol only note what they are told; its exit status, and these words."""
    for name, does in {
        "srun": f'printf "%s\\n" "$@" > {tmp_path}/srun; exit {status}',
        "scontrol": f'[ "$1" = show ] && printf "node7\\nnode8\\n" || printf "%s\\n" "$@" > {tmp_path}/scontrol',
    }.items():
        path = tmp_path / name.join(["bin-", ""])
        path.mkdir(exist_ok=True)
        file = path / name
        file.write_text(f"#!/bin/bash\n{does}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(tmp_path / "bin-srun"), str(tmp_path / "bin-scontrol"), os.environ["PATH"]])
    for name in ("srun", "scontrol"):
        (tmp_path / name).unlink(missing_ok=True)
    done = subprocess.run(["bash", "-c", SLURM[kind]], env={**told, "PATH": path}, capture_output=True, text=True)
    found = [
        (tmp_path / name).read_text().splitlines() if (tmp_path / name).is_file() else []
        for name in ("srun", "scontrol")
    ]
    assert done.stderr == ""
    return done.returncode, found[0], found[1]


@pytest.mark.parametrize("kind", SLURM)
def test_the_doctor_prints_a_script_and_nothing_else(kind: str, capsys: pytest.CaptureFixture[str]):
    assert sfumato("doctor", "--slurm", kind) == 0
    said = capsys.readouterr().out
    assert said == SLURM[kind]
    options = [line.split("#SBATCH ")[1].split()[0] for line in said.splitlines() if line.startswith("#SBATCH")]
    assert all(option.startswith("--") for option in options)
    lines = said.splitlines()  # slurm reads none that comes after the first command
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])


def test_an_array_draws_a_share_each(tmp_path: Path):
    code, words, _ = started(
        "sample", tmp_path, SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="64", SLURM_CPUS_PER_TASK="8"
    )
    assert code == 0
    assert words[0] == "sfumato"
    asked = cli._parse(words[1:])
    assert isinstance(asked, Sample)
    assert (asked.shard, asked.workers, asked.n) == ("3/64", 8, 1_000_000)


def test_a_training_is_launched_on_every_machine_and_stands_in_line_again(tmp_path: Path):
    from torch.distributed.run import get_args_parser

    job = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "815", "SLURM_GPUS_ON_NODE": "8"}
    code, words, again = started("train", tmp_path, **job)
    assert (code, again) == (0, [])
    assert words[0] == "torchrun"
    told = get_args_parser().parse_args(words[1:])
    assert (told.nnodes, told.nproc_per_node, told.rdzv_endpoint, told.rdzv_id) == ("2", "8", "node7:29500", "815")
    assert told.module
    assert told.training_script == "sfumato"
    assert isinstance(cli._parse(told.training_script_args), Train), shlex.join(told.training_script_args)
    code, _, again = started("train", tmp_path, 143, **job)
    assert (code, again) == (143, ["requeue", "815"])
    code, _, again = started("train", tmp_path, 1, **job, SLURM_RESTART_COUNT="5")
    assert (code, again) == (1, [])
