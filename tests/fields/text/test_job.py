"""The whole job through the command, on a small folder of text: inspect, train, resume, sample, fill, evaluate."""

from __future__ import annotations

import json
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

import sfumato
from sfumato.cli import main
from sfumato.errors import DataError, Wrong
from sfumato.fields.text.measure import choose, rulers
from sfumato.fields.text.options import TextAsk
from sfumato.fields.text.queries import asked
from sfumato.jobs.model import load
from sfumato.training import loop
from sfumato.training.checkpoint import read_tensors
from sfumato.training.run import Run, RunError

NAMES = ["apple", "basil", "cedar", "daisy", "elder", "fennel"]
TRAIN = ["--vocab", "280", "--window", "32", "--held-out", "0.2", "--network.width", "32", "--network.depth", "2",
         "--batch", "8", "--optim.lr", "5e-3", "--threads", "1", "--previews", "1", "--precision", "fp32"]  # fmt: skip


def folder(path: Path) -> Path:
    """Files of Python in which every line names a plant and its number."""
    path.mkdir()
    for i in range(24):
        lines = (f"{NAMES[(i + j) % 6]} = {(i + j) % 6}\n" for j in range(12 + i % 5))
        (path / f"{i:02d}.py").write_text("".join(lines), encoding="utf-8")
    (path / "picture.py").write_bytes(b"\0\1\2")
    (path / "copy.py").write_bytes((path / "03.py").read_bytes())
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a minute's patience: 60 steps."""
    place = tmp_path_factory.mktemp("text")
    data, out = folder(place / "garden"), place / "run"
    assert main(["train", "text", str(data), *TRAIN, "--steps", "60", "--out", str(out)]) == 0
    return out


def test_inspect_says_what_is_there_and_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "text", str(folder(tmp_path / "garden")), *TRAIN]) == 0
    said = capsys.readouterr().out
    assert "24 documents" in said
    assert "picture.py: binary (a zero byte at 0); left out" in said
    assert "copy.py: the same as 03.py" in " ".join(said.split()) or "03.py: the same as copy.py" in said
    assert "suffixes  .py 100%" in said
    assert "windows of 32 tokens" in said
    assert "TokenTransformer" in said


def test_training_goes_on_to_the_bit_where_it_was_stopped(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, save = tmp_path / "run", loop._save

    def stopping(run: Run, step: int, *rest: Any) -> None:
        save(run, step, *rest)
        if step == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_save", stopping)
        words = ["train", "text", str(run.parent / "garden"), *TRAIN, "--steps", "60", "--out", str(out)]
        assert main([*words, "--save-seconds", "1e-9"]) == 143
    assert not (out / "model.safetensors").is_file()
    assert main(["resume", str(out)]) == 0
    weights, whole = (read_tensors(place / "model.safetensors") for place in (out, run))
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    assert weights.keys() == whole.keys()


def test_texts_are_files_with_their_making_beside_and_can_be_made_again(run: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "texts", tmp_path / "again"
    words = ["sample", str(run), "-n", "3", "--prompt", "basil = ", "--steps", "8", "--seed", "5", "--out", str(out)]
    assert main(words) == 0
    texts = [(out / f"{i:04d}.py").read_bytes() for i in range(3)]
    assert all(text.startswith(b"basil = ") for text in texts)
    making = json.loads((out / "0001.py.json").read_text())
    assert (making["number"], making["seed"], making["ask"]["prompt"]) == (1, 5, "basil = ")
    assert (out / "grid.txt").read_text().startswith("---- 0 ----\nbasil = ")
    assert main(["sample", str(run), "--like", str(out / "0002.py"), "--out", str(again)]) == 0
    assert (again / "0002.py").read_bytes() == texts[2]
    assert main(words) == 0  # a set of ours is replaced
    assert main([*words, "--format", ".txt"]) == 0
    assert (out / "0000.txt").read_bytes() == texts[0]


def test_what_is_around_a_hole_stays_to_the_byte(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "open.py"
    file.write_bytes(b"apple = 0\r\nbasil = <fill:2>\n\tcedar = <fill:1>\xf0\x9f\x8c\xb1\n" + b"daisy = 3\n" * 30)
    things = sfumato.load(run, steps=4).sample(3, around=file, seed=1)
    for thing in things:
        assert thing.text.startswith(b"apple = 0\r\nbasil = ")
        assert thing.text.endswith(b"\xf0\x9f\x8c\xb1\n" + b"daisy = 3\n" * 30)
        assert b"<fill" not in thing.text
        assert thing.shown.count("\u00ab") == thing.shown.count("\u00bb") == 2
    model = load(run)  # and the network itself is shown it, from the first call on
    queries, shown = model.recipe.queries(model, TextAsk(around=file), 3), []
    network = next(module for module in model.denoiser.network.modules() if hasattr(module, "embed"))
    network.embed.register_forward_pre_hook(lambda module, given: shown.append(given[0]))
    list(model.recipe.draw(model, queries, range(3)))
    where, known = torch.from_numpy(queries.layout.known), torch.from_numpy(queries.layout.tokens)
    given, first, *rest = shown
    assert torch.equal(given, known[where].expand(len(given), -1))  # which is read once
    assert first.shape == (len(given), int((~where).sum()))
    assert bool((first == model.facts.mask).all())
    assert rest
    assert all(x.shape == first.shape for x in rest)
    assert main(["sample", str(run), "-n", "2", "--around", str(file), "--out", str(tmp_path / "filled")]) == 0
    assert (tmp_path / "filled" / "0001.py").read_bytes().startswith(b"apple = 0\r\nbasil = ")


@pytest.mark.parametrize("block", [None, 8])
def test_a_text_is_the_same_alone_and_among_others(run: Path, block: int | None) -> None:
    """Also where it is longer than a window and so written on."""
    model = load(run)
    ask = TextAsk(prompt="apple", length=70, block=block)
    queries = model.recipe.queries(model, ask, 5)
    (every,) = model.recipe.draw(model, queries, range(5))
    (alone,) = model.recipe.draw(model, queries, [3])
    one, same = (model.recipe.things(model, queries, drawn) for drawn in (alone, every))
    assert one[0].text == same[3].text
    assert every.x.shape[1] == 70 or bool((every.x[:, 1:] == model.facts.end).any(1).all())


def test_blocks_are_written_from_left_to_right(run: Path) -> None:
    """In as many steps in all as asked, no token moves before all those of the blocks before it stand."""
    model = load(run)
    queries = asked(TextAsk(block=8), model.recipe.vocabulary(model.run), model.facts, 2)
    batch = queries.batch([0, 1])
    z = model.process.prior(batch["x"])
    _, times = model.recipe.begin(model.process, z, model.grid(model.walk)(model.process.schedule, 64), batch)
    assert times.shape == (64 + 1, 1, 32)
    for t, s in pairwise(times[:, 0]):
        (moving,) = (t > s).nonzero(as_tuple=True)
        assert int(moving[-1]) - int(moving[0]) == 7
        assert bool((s[: int(moving[0])] == 0).all())
    whole = asked(TextAsk(block=None), queries.vocabulary, model.facts, 2).batch([0, 1])
    grid = model.grid(model.walk)(model.process.schedule, 64)
    assert torch.equal(model.recipe.begin(model.process, z, grid, whole)[1], grid)


def test_the_report_has_every_number_beside_its_ruler(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(run), "--holes", "20", "-n", "4", "--span", "8", "--draws", "1", "--steps", "8"]
    assert main(words) == 0
    said = capsys.readouterr().out
    for name in ("bits_per_byte", "bits_per_byte_heard", "... of xz", "... of 3-gram of tokens", "holes_of_3_right",
                 "... of 3 by a trigram",
                 "parses", "sound"):  # fmt: skip
        assert name in said
    metrics = json.loads((run / "metrics.json").read_text())
    assert "bits_per_byte" in json.dumps(metrics)
    assert (run / "texts.txt").read_text().count("----\n") == 4
    # what compressors and n-grams reach is kept, for these documents alone
    file = run / "cache" / "rulers.json"
    kept = json.loads(file.read_text())
    xz = kept["rulers"]["xz"][0]
    file.write_text(
        json.dumps({**kept, "rulers": {**kept["rulers"], "xz": [[7 * b for b in xz], kept["rulers"]["xz"][1]]}})
    )
    corpus = load(run).recipe.corpus(Run(run))
    chosen = choose(corpus, 10**6)
    assert rulers(corpus, chosen, run / "cache")["xz"].bits.tolist() == [7 * b for b in xz]
    assert rulers(corpus, chosen[:1], run / "cache")["xz"].bits.tolist() == xz[:1]
    file.write_text("{")
    assert rulers(corpus, chosen, run / "cache")["xz"].bits.tolist() == xz


def test_an_evaluation_finds_at_its_start_what_it_lacks(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfumato.fields.text.evaluate.bits", lambda *_: pytest.fail("the network was called"))
    assert main(["evaluate", str(run), "--prompt-file", str(tmp_path / "gone.py")]) == 1
    assert "gone.py: there is no such file" in capsys.readouterr().err
    monkeypatch.setattr("sfumato.fields.text.data.Corpus.texts", lambda *_: [("one", [1, 2, 3])])
    assert main(["evaluate", str(run), "-n", "0"]) == 1
    assert "bits per byte need at least 2" in capsys.readouterr().err


def test_what_makes_no_sense_is_said_in_a_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = sfumato.load(run)
    empty = tmp_path / "whole.py"
    empty.write_text("x = 1\n")
    with pytest.raises(DataError, match=r"whole.py: the text has no hole: mark what is to be written with <fill>"):
        model.sample(1, around=empty)
    with pytest.raises(DataError, match="there is no such file"):
        model.sample(1, around=tmp_path / "nothing.py")
    empty.write_bytes(b"\xff<fill>")
    with pytest.raises(DataError, match=r"not UTF-8 .*; expected a text of UTF-8"):
        model.sample(1, around=empty)
    with pytest.raises(Wrong, match=r"around = .*: must be given without prompt"):
        model.sample(1, around=empty, prompt="x")
    with pytest.raises(Wrong, match=r"temperature = 0\.0: must be from 0\.001 to 10"):
        model.sample(1, temperature=0.0)
    assert main(["sample", str(run), "--walk", "upwards", "--out", str(tmp_path / "out")]) == 1
    assert "must be one of usual, surest, any, few" in capsys.readouterr().err
    assert main(["distill", str(run), "--out", str(tmp_path / "map")]) == 1
    assert "Traceback" not in capsys.readouterr().err
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    stored = json.loads((run / "data.json").read_text())
    (damaged / "data.json").write_text(json.dumps({**stored, "vocab": "many"}))
    with pytest.raises(RunError, match="vocab = 'many': must be a whole number"):
        model.recipe.facts(Run(damaged))
    assert main(["train", "text", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x")]) == 1
    assert "there is no such file or folder" in capsys.readouterr().err
    assert main(["train", "text", str(run.parent / "garden"), "--method.process", "uniform", "--out", "y"]) == 1
    assert "method.process = 'uniform': must be 'masked'" in capsys.readouterr().err


def test_fill_by_the_command(run: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """To standard output, to files of its own, as a diff; never over what stands there."""
    file, out = tmp_path / "open.py", tmp_path / "new" / "whole.py"
    file.write_bytes(b"\xef\xbb\xbfapple = 0\r\nbasil = <fill:1>\n")
    words = ["text", "fill", str(run), str(file), "--steps", "4"]
    assert main(words) == 0
    text = capsysbinary.readouterr().out
    assert text.startswith(b"\xef\xbb\xbfapple = 0\r\nbasil = ")
    assert b"<fill" not in text
    assert main([*words, "--out", str(out)]) == 0
    assert out.read_bytes() == text
    assert main([*words, "--out", str(out), "--draws", "2"]) == 0
    assert (tmp_path / "new" / "whole-1.py").read_bytes() == text
    capsysbinary.readouterr()
    assert main([*words, "--diff", "--draws", "2", "--seed", "1"]) == 0
    found = capsysbinary.readouterr().out
    assert found.count(b"-basil = <fill:1>\n") == found.count(b"+basil = ") == 2
    assert b"+++ open.py (draw 2)\n" in found
    assert main([*words, "--lines", "1", "--diff"]) == 0
    found = capsysbinary.readouterr().out
    assert b" basil = <fill:1>\n" in found
    assert b"-\xef\xbb\xbfapple = 0\r\n" in found
    before = file.read_bytes()
    assert main([*words, "--out", str(file)]) == 1
    assert b"nothing is overwritten" in capsysbinary.readouterr().err
    assert file.read_bytes() == before
    assert main([*words, "--draws", "2"]) == 1
    assert b"draws = 2: must be given with --out, or with --diff, above 1" in capsysbinary.readouterr().err
    assert main([*words, "--lines", "9"]) == 1
    assert b"open.py: line 9 is asked for, the text has 2" in capsysbinary.readouterr().err.replace(b"\n", b" ")
    assert main([*words, "--calls", "2", "--alone"]) == 1
    assert b"calls = 2: must be given without alone" in capsysbinary.readouterr().err


def test_what_parses_is_written_by_the_command(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The file's own grammar is asked, of each try, unless that is not wanted; the network at most so often as is said."""
    from sfumato.fields.text import grammar

    file, asked = tmp_path / "open.py", list[str]()
    file.write_bytes(b"apple = 0\nbasil = <fill:3>\ncedar = 2\n")
    monkeypatch.setattr(grammar, "accepted", lambda text: asked.append(text) is not None)
    words = ["text", "fill", str(run), str(file), "--walk", "any", "--tries", "3"]
    assert main(words) == 0
    plain = capsysbinary.readouterr().out
    assert len(asked) == 3
    assert asked[0].encode() == plain  # none parses, so the first stays
    assert main([*words, "--unparsed"]) == 0
    assert capsysbinary.readouterr().out == plain
    assert len(asked) == 3
    assert main([*words, "--calls", "1"]) == 0
    assert capsysbinary.readouterr().out.startswith(b"apple = 0\nbasil = ")


def test_score_by_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers in any company; an odd line stands out; what is not text is said."""
    place = tmp_path / "texts"
    place.mkdir()
    (place / "usual.py").write_text("".join(f"{NAMES[j % 6]} = {j % 6}\n" for j in range(30)))
    (place / "odd.py").write_text("".join(f"{NAMES[j % 6]} = {j % 6}\n" for j in range(20)) + "Zyx\x1b!?QW#~|^\n")
    (place / "picture.py").write_bytes(b"\0\1")
    words = ["text", "score", str(run), "--span", "8", "--lines", "1"]
    assert main([*words, str(place), "--out", str(tmp_path / "scores.jsonl")]) == 0
    said = capsys.readouterr()
    rows = said.out.splitlines()
    assert [row.split()[-1] for row in rows[1:4]] == ["odd.py", "usual.py", "2"]
    assert rows[-1].endswith("odd.py:21  Zyx\u241b!?QW#~|^")
    assert "picture.py: binary" in said.err
    kept = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len(kept[0]["lines"]) == 21
    assert main([*words, str(place / "odd.py")]) == 0
    assert capsys.readouterr().out.splitlines()[1] == rows[1]
    assert main([*words, str(tmp_path / "gone")]) == 1
    assert "there is no such file or folder" in capsys.readouterr().err


def test_repair_by_the_command(run: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Everything is doubted at such limits, so something changes; at none nothing; the rest stays to the byte."""
    file, out = tmp_path / "odd.py", tmp_path / "new.py"
    raw = b"\xef\xbb\xbf" + b"".join(f"{NAMES[j % 6]} = {j % 6}\r\n".encode() for j in range(9)) + b"cedar % 2\r\n"
    file.write_bytes(raw)
    words = ["text", "repair", str(run), str(file)]
    assert main([*words, "--doubt", "0", "--out", str(out)]) == 0
    told = capsysbinary.readouterr()
    assert told.out == b""
    assert b"nothing is changed" in told.err
    assert out.read_bytes() == raw
    assert main([*words, "--doubt", "0.5", "--sure", "0.51", "--lines", "10", "--out", str(out)]) == 0
    told = capsysbinary.readouterr()
    new = out.read_bytes()
    assert new.startswith(raw[: raw.index(b"cedar %")])
    assert (told.out == b"") == (new == raw)
    assert told.err.count(b"line 10: ") == told.err.count(b") is now ")
    assert main([*words, "--sure", "0"]) == 1
    assert b"sure = 0.0: must be above 0, at most 1" in capsysbinary.readouterr().err
    file.write_bytes(b"ab\0")
    assert main(words) == 1
    assert b"odd.py: binary (a zero byte at 2); expected a text" in capsysbinary.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("tables:\n  data: x.csv\n")
    for verb in ("fill", "score", "repair"):
        assert main(["text", verb, str(other), str(file)]) == 1
        assert b"must be a run of text, this is one of tables" in capsysbinary.readouterr().err.replace(b"\n  ", b" ")
