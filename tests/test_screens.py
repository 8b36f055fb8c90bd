"""What a person sees: the command on a terminal of 80 columns, a real one (a pseudo terminal) in a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.jobs.small import write_pictures

SMALL = ["--network.width", "16", "--network.depth", "1", "--batch", "8", "--steps", "3", "--previews", "2", "--snapshots", "0",
         "--held-out", "0.4", "--threads", "1", "--side", "8"]  # fmt: skip
COMMANDS = [
    ["inspect", "my photos", *SMALL], ["train", "my photos", *SMALL], ["resume", "runs/my photos", "--steps", "4"],
    ["sample", "runs/my photos", "-n", "14", "--steps", "2"], ["evaluate", "runs/my photos", "--steps", "2", "--quick"],
    ["distill", "runs/my photos", "--steps", "2", "--batch", "8", "--threads", "1"], ["compare", "samples", "my photos"],
    ["doctor", "--quick"], ["train", "my photos", "--epochs", "3"], ["train", "nowhere at all, it seems to whoever looks for it"],
]  # fmt: skip
CALL = """
import json, sys
from sfumato.cli import main
for words in json.loads(sys.argv[1]):
    print("\\n$", words[0], flush=True)
    try:
        code = main(words)
    except SystemExit as left:
        code = left.code
    sys.stderr.flush()
    print("[%s]" % code, flush=True)
"""
COPIED = tuple(
    f"{label:<10}sfumato " for label in ("train it", "sample", "measure", "longer", "faster", "fewer", "better")
)
"""How commands begin that are to be copied: in one line, however long."""
SGR = re.compile(r"\x1b\[([0-9;]*)m")
OTHER = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]")


def seen(folder: Path, commands: list[list[str]], columns: int = 80, **environment: str) -> str:
    """All that a terminal of so many columns is sent by these commands, in one process."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    known = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    }
    known |= {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **environment}
    source = str(Path(__file__).parents[1] / "src")
    known["PYTHONPATH"] = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    child = subprocess.Popen(
        [sys.executable, "-c", CALL, json.dumps(commands)], cwd=folder, env=known, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    child.wait()
    os.close(ours)
    return b"".join(parts).decode("utf-8")


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each verb showed at 80 columns, of the two mistakes the last."""
    folder = tmp_path_factory.mktemp("screens")
    write_pictures(folder / "my photos", 60, classes=2, side=20)
    whole = seen(folder, COMMANDS)
    found: dict[str, str] = {}
    for part in whole.split("\r\n$ ")[1:]:
        verb, _, text = part.partition("\r\n")
        found[verb if verb not in found else f"{verb} again {len(found)}"] = text
    return found


def lines(text: str) -> list[str]:
    """The lines that end up on the screen, without colours; of a bar that is drawn again and again each drawing."""
    return re.split(r"[\r\n]+", OTHER.sub("", SGR.sub("", text)))


def test_every_verb_was_seen_and_ended_as_it_should(screen: dict[str, str]):
    ends = [
        re.findall(r"^\[(\d+)\]", OTHER.sub("", text).replace("\r", ""), re.MULTILINE)[-1] for text in screen.values()
    ]
    assert ends == ["0"] * 8 + ["2", "1"], dict(zip(screen, ends))
    assert list(screen)[:8] == [words[0] for words in COMMANDS[:8]]


def test_nothing_is_wider_than_the_screen_but_commands_to_be_copied(screen: dict[str, str]):
    for verb, text in screen.items():
        wide = [line for line in lines(text) if len(line) > 80 and not line.startswith(COPIED)]
        assert wide == [], verb


def test_words_are_not_cut_at_the_edge(screen: dict[str, str]):
    """What is longer goes on under its own words, beside its label."""
    train = [line.rstrip() for line in lines(screen["train"])]
    at = next(i for i, line in enumerate(train) if line.startswith("loss      held out"))
    assert train[at + 1].startswith("          ")
    assert train[at + 1][10] != " "
    assert "error" not in screen["evaluate"]
    said = " ".join(screen["evaluate"].split())
    assert "precision: " in said
    assert "of the samples lie where data lies" in said


def test_a_bar_is_drawn_with_the_terminals_own_colours_alone(screen: dict[str, str]):
    """Of the eight of its palette, bold, dim and plain: they are chosen by whoever chose the background; never white or black,
    or one of 256."""
    used = {code for text in screen.values() for codes in SGR.findall(text) for code in codes.split(";")}
    assert used <= {"", "0", "1", "2", "31", "32", "33", "34", "35", "36", "39", "22"}
    assert "━" in screen["train"]


def test_what_is_left_of_every_bar_says_that_all_was_done(screen: dict[str, str]):
    """The last drawing stays on the screen: one that stands at 0 looks like work that was given up."""
    left: dict[tuple[str, str], tuple[str, str]] = {}
    for verb, text in list(screen.items())[:8]:  # not the mistakes: there it was given up
        for line in lines(text):
            if drawn := re.match(r"(\w[\w ]*?) +[━╸╺╌]+ +(\d+)/(\d+)", line):
                left[verb, drawn[1]] = (drawn[2], drawn[3])
    assert ("train", "measure speed") in left
    assert {name: ends for name, ends in left.items() if ends[0] != ends[1]} == {}


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_who_wants_no_colours_gets_none(environment: dict[str, str], tmp_path: Path):
    write_pictures(tmp_path / "photos", 40, side=20)
    text = seen(tmp_path, [["train", "photos", *SMALL]], **environment)
    assert "trained: runs/photos" in text
    assert SGR.findall(text) == []
    if "TERM" in environment:
        assert "\x1b" not in text


def test_a_wide_screen_is_used(tmp_path: Path):
    write_pictures(tmp_path / "photos", 60, classes=2, side=20)
    text = seen(tmp_path, [["inspect", "photos", *SMALL]], columns=120)
    assert 80 < max(len(line) for line in lines(text) if not line.startswith(COPIED)) <= 120


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path):
    write_pictures(tmp_path / "photos", 40, side=20)
    words = [
        sys.executable,
        "-c",
        CALL,
        json.dumps([["train", "photos", *SMALL], ["evaluate", "runs/photos", "--steps", "2"]]),
    ]
    source = {"PYTHONPATH": str(Path(__file__).parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env={**os.environ, **source},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    for text in (done.stdout, done.stderr):
        assert "\x1b" not in text
        assert "\r" not in text
        assert max(map(len, text.splitlines())) <= 120
    assert re.search(r"^train 3/3  loss ", done.stderr, re.MULTILINE)
