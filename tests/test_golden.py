"""What the command says to every kind of mistake, to the letter: tests/golden/. A change is made on purpose, and read there.

`python -m tests.test_golden` writes the answers anew: ``$`` a command, below it the exit status and what is said
(but for bars). Every answer is one line, and every failure names a next step.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from sfumato.cli import main
from tests.jobs.small import write_pictures

HERE = Path(__file__).parent / "golden"
RUNS = Path(__file__).parent / "runs" / "a3fdda3"
BARS = ("look at pictures", "unpack pictures")
THEIRS = re.compile(r"\((Error while deserializing.*?|Expecting .*?\)|\[Errno 2\].*?)\)")
"""What other packages say, which changes with their versions."""
STEP = re.compile(
    r"`sfumato |did you mean|here it is|must (be|have|lie)|expected|\b(give|choose|train|distill|look|put|use|save|mend|take|"
    r"delete|copy|leave|keep|convert|install|remove|write|add|try|lower|known|it has|wants|is one of|are needed|`pip )\b",
    re.IGNORECASE,
)
"""Words with which a next step is said."""

OPTIONS = {
    "misspelt": "training:\n  batch: 8\n  stepps: 3\n", "deeper": "training:\n  optim:\n    lr: 1\n    beta: [0, 0]\n",
    "unlike": "zzz: 1\n", "word": "training:\n  steps: lots\n", "half": "training: {steps: 1.5}", "truth": "images: {labels: 1}",
    "short": "training: {ema: [0.1]}", "choice": "images: {network: {kind: dot}}", "twice": "training:\n  seed: 1\n  seed: 2\n",
    "range": "training:\n  steps: 0\n", "section": "training: 3\n", "list": "[1, 2]", "loop": "training: &a [*a]\n",
    "bomb": "training:\n  steps: &b0 [1,1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"  ema: &b{i} [{','.join([f'*b{i - 1}'] * 10)}]\n" for i in range(1, 9)),
    "object": "training: {seed: !!python/object/apply:os.system ['true']}", "missing": "training: {seed: 1}\n",
}  # fmt: skip


def arrays(w: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    np.save(w / "nan.npy", np.where(np.arange(40)[:, None] == 7, np.nan, x))
    np.savez(w / "inf.npz", x=np.where(np.arange(40)[:, None] == 3, np.inf, x))
    np.save(w / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.save(w / "one.npy", x[:1])
    np.save(w / "same.npy", np.ones((40, 3), np.float32))
    np.save(w / "words.npy", np.array(["a", "b"]))
    np.savez(w / "half.npz", x=x, labels=np.linspace(0, 1, 40))
    np.save(w / "a.npy", x)
    np.save(w / "b.npy", x[:, :2])
    np.save(w / "units.npy", 1000 + x)
    (w / "cut.npy").write_bytes((w / "a.npy").read_bytes()[:-8])
    head = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000, 3), }".ljust(117)
        + b"\n"
    )
    with zipfile.ZipFile(w / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x.npy", head)


def folders(w: Path) -> None:
    write_pictures(w / "photos", 20)
    write_pictures(w / "broken", 20)
    write_pictures(w / "two", 2)
    write_pictures(w / "mine", 1)
    (w / "mine" / "000.png").rename(w / "mine" / "0000.png")
    for path in sorted((w / "broken").iterdir())[:3]:
        path.write_bytes(b"")
    for name in ("empty", "texts", "pdf"):
        (w / name).mkdir()
    (w / "texts" / "a.txt").write_text("a")
    (w / "pdf" / "scan.png").write_bytes(b"%PDF-1.7\n" + bytes(200))
    (w / "file").write_text("not a picture")


def runs(w: Path) -> None:
    for name in ("run", "torn", "wider", "noweights", "nodata", "baddata", "badwalk", "badmodel", "cutmodel"):
        shutil.copytree(RUNS / "classes", w / name)
    shutil.copytree(RUNS / "vectors", w / "nolabel")
    shutil.copytree(RUNS / "data", w / "data")
    shutil.copytree(RUNS / "classes_map", w / "map")
    config = (w / "run" / "config.yaml").read_text()
    (w / "torn" / "config.yaml").write_text(config + "trainning: {}\n")
    (w / "wider" / "config.yaml").write_text(re.sub(r"width: \d+", "width: 48", config))
    (w / "noweights" / "model.safetensors").unlink()
    shutil.rmtree(w / "noweights" / "checkpoints", ignore_errors=True)
    (w / "nodata" / "data.json").unlink()
    (w / "baddata" / "data.json").write_text("[1, 2")
    for name in ("walk.json", "grid.json"):
        (w / "badwalk" / name).write_text("{")
    model = (w / "run" / "model.safetensors").read_bytes()
    (w / "badmodel" / "model.safetensors").write_bytes(b"\xff" * 8 + model[8:])
    (w / "cutmodel" / "model.safetensors").write_bytes(model[: len(model) // 2])


def others(w: Path) -> None:
    for name, text in OPTIONS.items():
        (w / f"{name}.yaml").write_text(text)
    (w / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (w / "ragged.csv").write_text("a,b\n" + "1,2\n" * 30 + "1,2,3\n" + "1,2\n" * 30)
    (w / "lonely.csv").write_text("a,b\n1,2\n")
    (w / "binary.csv").write_bytes(b"\x00\xff\xfe" * 50)
    steps = {"action": np.zeros((60, 2), np.float32) + np.arange(60)[:, None], "episode_ends": np.array([30, 60])}
    np.savez(w / "blind.npz", **steps)
    np.savez(w / "eye.npz", **steps, eye=np.zeros((60, 16, 16), np.uint8))


@contextmanager
def world() -> Iterator[Path]:
    """A folder with everything that mistakes are made with, and the working directory in it."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        w = Path(folder).resolve()
        for part in (arrays, folders, runs, others):
            part(w)
        os.chdir(w)
        try:
            yield w
        finally:
            os.chdir(before)


def said(command: str, w: Path) -> str:
    """The exit status and what is said, with the folder's own name left out."""
    words, out, err = command.split(), StringIO(), StringIO()
    if words[0] in ("train", "sample", "distill") and "--out" not in words:
        words += ["--out", "made"]
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
    shutil.rmtree(w / "made", ignore_errors=True)
    told = THEIRS.sub("(...)", err.getvalue().replace(f"{w}/", ""))
    lines = [line for line in told.splitlines() if not line.startswith(BARS)]
    return "\n".join([str(code), *lines])


def pages() -> dict[str, list[tuple[str, str]]]:
    """Name -> commands with their answers."""
    found = {}
    for path in sorted(HERE.glob("*.txt")):
        blocks = path.read_text(encoding="utf-8").split("$ ")[1:]
        found[path.stem] = [(block.partition("\n")[0], block.partition("\n")[2].strip("\n")) for block in blocks]
    return found


PAGES = pages()


def test_there_are_as_many_as_were_promised():
    assert len(PAGES["options"]) >= 60
    assert len(PAGES["failures"]) >= 60
    for page in PAGES.values():
        commands = [command for command, _ in page]
        assert len(set(commands)) == len(commands)


@pytest.mark.parametrize("page", PAGES)
def test_every_mistake_is_answered_to_the_letter(page: str):
    wrong = []
    with world() as w:
        for command, answer in PAGES[page]:
            if (now := said(command, w)) != answer:
                wrong.append(f"$ {command}\n{now}\n-- instead of\n{answer}")
    assert not wrong, "\n".join([*wrong, "if that is wanted: python -m tests.test_golden"])


@pytest.mark.parametrize(("page", "command", "answer"), [(p, *pair) for p, page in PAGES.items() for pair in page])
def test_every_answer_is_one_line_with_a_next_step(page: str, command: str, answer: str):
    code, *notes, line = answer.split("\n")
    assert code in ("1", "2")
    assert all(
        "broken file(s)" in note or note.startswith(("  broken/", "  pdf/")) or "read as Windows" in note
        for note in notes
    )
    assert line.startswith("sfumato: ")
    assert len(line) < 500
    assert STEP.search(line), line


if __name__ == "__main__":
    with world() as w:
        for name, page in PAGES.items():
            text = "\n\n".join(f"$ {command}\n{said(command, w)}" for command, _ in page)
            (HERE / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    sys.exit()
