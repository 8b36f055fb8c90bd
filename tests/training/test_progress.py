"""Bars: never wider than the terminal, what matters first, plain lines where there is no terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sfumato.training import progress, telling
from sfumato.training.progress import Watch, line
from sfumato.training.telling import LABEL, WIDEST, fold, show, tell

NOTES = ("left 1:02:03", "loss 0.1234", "12.3 GB", "1.23e+03 samples/s")


@pytest.mark.parametrize("name", ["train", "record metaworld/pick-place-wall-v3", "x" * 300])
@pytest.mark.parametrize("width", range(1, 200, 7))
def test_a_line_fits(name: str, width: int):
    before, bar, after = line(name, 123456, 1000000, NOTES, width)
    assert len(before) + (bar + 1 if bar else 0) + len(after) <= width


def test_what_matters_most_is_left_out_last():
    shown = [sum(note in line("train", 5, 100, NOTES, width)[2] for note in NOTES) for width in range(20, 160)]
    assert shown[0] == 0
    assert shown[-1] == len(NOTES)
    assert shown == sorted(shown)
    assert "left" in line("train", 1000, 20000, NOTES, 60)[2]
    assert all(note in line("train", 1000, 20000, NOTES, 79)[2] for note in NOTES)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_terminal_of_any_width_sees_no_wrapped_line(width: int, monkeypatch: pytest.MonkeyPatch):
    screen = io.StringIO()

    def console(**_: Any) -> Console:
        return Console(file=screen, force_terminal=True, width=width, legacy_windows=False)

    monkeypatch.setattr(progress, "Console", console)
    with Watch("train", 12345, unit="samples", per_step=64) as watch:
        for step in (1, 500, 12345):
            watch.show(step, "loss 0.1234  12.3 GB")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "12345/12345" in plain
    assert max(map(len, re.split(r"[\r\n]+", plain))) < width


@pytest.mark.parametrize(("environment", "coloured", "live"), [
    ({"NO_COLOR": "1", "TERM": "xterm"}, False, True), ({"TERM": "xterm"}, True, True), ({"TERM": "dumb"}, False, False),
])  # fmt: skip
def test_no_color_and_a_dumb_terminal_are_respected(environment, coloured, live, monkeypatch: pytest.MonkeyPatch):
    screen = io.StringIO()
    known = {**environment, "COLUMNS": "80", "LINES": "24"}
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, _environ=known))
    with Watch("train", 10, quiet=0) as watch:
        watch.show(5, "loss 1")
        assert watch.live == live
    text = screen.getvalue()
    assert bool(re.search(r"\x1b\[[0-9;]*[39][0-9][0-9;]*m", text)) == coloured
    assert ("━" in text) == live
    assert coloured or not re.search(r"\x1b\[[0-9;]+m", text)  # nor bold or dim: what is asked for is plain


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]):
    with Watch("train", 100, unit="samples", quiet=0) as watch:
        watch.show(50, "loss 0.5")
    err = capsys.readouterr().err
    assert re.fullmatch(r"train 50/100  loss 0\.5  \S+ samples/s  left .*\n", err)
    assert "\x1b" not in err


# ---- lines that are folded -----------------------------------------------------------------------------------------------

WORDS = st.lists(
    st.sampled_from(["a", "words", "--side", "/some/where", "`sfumato resume runs/x`", "x" * 30]), min_size=1
)
LABELS = st.sampled_from(["", "          ", "data      ", "look at   ", "self-test ", "  ", "      "])


@settings(max_examples=300, deadline=None)
@given(LABELS, WORDS, st.integers(50, 130))
def test_a_folded_line_keeps_its_words_and_fits(label: str, words: list[str], width: int):
    text = label + " ".join(words)
    lines = fold(text, width).split("\n")
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    assert all(len(line) <= width for line in lines)
    assert all(line.count("`") % 2 == 0 for line in lines)  # a command within a sentence is not torn
    under = len(label) if len(label) == LABEL else len(label) + 2
    assert all(line.startswith(" " * under) and line[under] != " " for line in lines[1:])
    assert fold("\n".join(lines), width) == "\n".join(lines)


@pytest.mark.parametrize("text", [
    "sample    sfumato sample " + "runs/" * 30 + " -n 64 --out samples",
    "metric       value     90% interval    floor   better    n   x",
    "/a/path/" * 20, "short",
])  # fmt: skip
def test_commands_tables_and_long_words_stay_whole(text: str):
    assert fold(text, 60) == text


def test_a_terminal_is_folded_to_and_a_log_has_no_line_past_120(capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr(telling, "WIDEST", WIDEST)
    tell("loss      " + "words " * 40)
    show("words " * 40)
    show("words " * 40, records=True)
    out, err = capsys.readouterr()
    assert max(map(len, err.splitlines())) <= 120 == WIDEST
    assert [len(line) <= 120 for line in out.splitlines()] == [True, True, True, False]
