"""Mutation score: how many small changes of a file its tests notice. `make mutants FILES="src/sfumato/diffusion/schedule.py"`.

    copy sources and tests aside -> mutmut changes the files -> the tests that touch a change are run against it, one by one

Without FILES those are taken that differ from BASE (a revision, `HEAD~1` unless given). The tests of a file are those
of `TESTS` below, or else the file of the same name under tests/. A file of more than MOST mutants has that many of them tried,
chosen by SEED; the score then stands with the interval of Wilson (95 %). Survivors are listed; `--show NAME` prints one.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[1]
ASIDE = ROOT / ".mutants"
TESTS: dict[str, list[str]] = {
    "diffusion/process": [
        "tests/diffusion/test_process.py",
        "tests/diffusion/test_loss.py",
        "tests/laws/test_endpoints.py",
        "tests/laws/test_mix.py",
    ],
    "diffusion/sample": [
        "tests/diffusion/test_sample.py",
        "tests/diffusion/test_faults.py",
        "tests/laws/test_standing.py",
        "tests/laws/test_worlds.py",
    ],
    "diffusion/flow_solvers": ["tests/diffusion/test_solvers.py", "tests/diffusion/test_sample.py"],
    "diffusion/stochastic_solvers": ["tests/diffusion/test_solvers.py", "tests/diffusion/test_sample.py"],
    "diffusion/weights": ["tests/diffusion/test_loss.py"],
    "training/objective": ["tests/training/test_shares.py", "tests/diffusion/test_loss.py"],
    "training/sums": ["tests/training/test_checkpoint.py"],
}
"""By the path of a source without its suffix, quick ones; what is not here has its tests under the same name. Laws that
take minutes are no part of it, so the score is below that of the whole suite."""


def tests_of(file: Path) -> list[str]:
    """The tests of a source file, from the root. Raises SystemExit where there are none."""
    name = file.resolve().relative_to(ROOT / "src" / "sfumato").with_suffix("")
    found = TESTS.get(name.as_posix(), [f"tests/{name.parent.as_posix()}/test_{name.name}.py"])
    missing = [test for test in found if not (ROOT / test).is_file()]
    if missing:
        raise SystemExit(f"{file}: its tests should be {missing[0]}, which is not there: name them in .ci/mutants.py")
    return found


def changed(base: str) -> list[Path]:
    """Source files that differ from a revision and still are there."""
    command = ["git", "diff", "--name-only", "--diff-filter=d", base, "--", "src/sfumato"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [ROOT / name for name in names if name.endswith(".py") and not name.endswith("__init__.py")]


def prepare(file: Path, tests: list[str], deselect: list[str]) -> Path:
    """A copy of the project in which mutmut changes that file alone; what an earlier call found out stays."""
    aside = ASIDE / file.resolve().relative_to(ROOT / "src").with_suffix("").as_posix().replace("/", ".")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, aside / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "tests/options.txt"):
        shutil.copy(ROOT / name, aside / name)
    listed = ", ".join(f'"{test}"' for test in tests)
    extra = "".join(f', "--deselect", "{each}"' for each in deselect)
    settings = (
        f'\n[tool.mutmut]\nsource_paths = ["src"]\nonly_mutate = ["{file.resolve().relative_to(ROOT).as_posix()}"]\n'
        f"pytest_add_cli_args_test_selection = [{listed}]\n"
        f'pytest_add_cli_args = ["-x", "-p", "no:cacheprovider", "-m", "not slow and not gpu"{extra}]\n'
        "timeout_multiplier = 20.0\ntimeout_constant = 20.0\n"
    )
    (aside / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings)
    return aside


def mutmut(aside: Path, *words: str) -> str:
    """Run it there, with one thread, beside whatever else the machine does; what it says."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["nice", sys.executable, "-m", "mutmut", *words], cwd=aside, env=environment, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def statuses(aside: Path) -> dict[str, str]:
    """What became of each mutant."""
    said = mutmut(aside, "results", "--all", "true")
    return dict(match.groups() for match in re.finditer(r"^\s*(\S+__mutmut_\d+): (.+?)\s*$", said, re.MULTILINE))


def interval(killed: int, tried: int) -> tuple[float, float]:
    """Wilson's, for a share of those tried, 95 %."""
    z, p = 1.96, killed / tried
    middle, half = p + z * z / (2 * tried), z * math.sqrt(p * (1 - p) / tried + z * z / (4 * tried * tried))
    return (middle - half) / (1 + z * z / tried), (middle + half) / (1 + z * z / tried)


def score(file: Path, most: int, seed: int, deselect: list[str]) -> tuple[int, int]:
    """Try the mutants of a file; (killed, tried). Prints the score and the survivors."""
    tests = tests_of(file)
    aside = prepare(file, tests, deselect)
    # a first call with a name that is none: mutants are made, and the tests run once to see which touch what
    first = mutmut(aside, "run", "--max-children", "1", "none.of.them")
    every = sorted(statuses(aside))
    if not every:
        print(f"{file}: no mutants were made:\n{first[-3000:]}")
        return 0, 0
    chosen = sorted(Random(seed).sample(every, most)) if len(every) > most else every
    said = mutmut(aside, "run", "--max-children", "1", *chosen)
    found = {name: status for name, status in statuses(aside).items() if name in set(chosen)}
    tried = {name: status for name, status in found.items() if status not in ("not checked", "skipped")}
    if not tried:
        print(f"{file}: nothing was tried:\n{said[-3000:]}")
        return 0, 0
    killed = sum(status in ("killed", "timeout", "segfault") for status in tried.values())
    low, high = interval(killed, len(tried))
    of = f"{len(tried)} of {len(every)}" + (
        f", by seed {seed}: {low:.1%} to {high:.1%}" if len(tried) < len(every) else ""
    )
    print(f"{file.relative_to(ROOT)}: {killed / len(tried):.1%} killed ({killed} of {of})", flush=True)
    for name, status in sorted(tried.items()):
        if status not in ("killed", "timeout", "segfault"):
            print(f"  {status}: {name}")
            print(
                "\n".join("    " + line for line in mutmut(aside, "show", name).splitlines() if line[:1] in "+-")[:600]
            )
    return killed, len(tried)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--base", default="", help="files that differ from this revision, where none are named")
    parser.add_argument("--most", type=int, default=400, help="mutants of a file that are tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=0.0, help="status 1 below this share")
    parser.add_argument("--deselect", nargs="*", default=[], help="tests to leave out, by pytest's names")
    given = parser.parse_args()
    files = given.files or changed(given.base or "HEAD~1")
    if not files:
        print("no source file differs")
        return 0
    totals = [score(file.resolve(), given.most, given.seed, given.deselect) for file in files]
    killed, tried = (sum(each) for each in zip(*totals))
    if not tried:
        return 1
    print(f"mutation score: {killed / tried:.1%} ({killed} of {tried})")
    return int(killed / tried < given.least)


if __name__ == "__main__":
    raise SystemExit(main())
