"""Pairs of prompt and completion: prompts are in sight, clean, and nothing of them is learned or measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.cli import main
from sfumato.data.errors import DataError
from sfumato.diffusion import Denoiser, Masked, Streams, key, loss
from sfumato.fields.text.bits import score
from sfumato.fields.text.contexts import Contexts
from sfumato.fields.text.data import Corpus
from sfumato.fields.text.files import Document, Wanted, read
from sfumato.fields.text.rulers import compressed, ngram
from tests.fields.text.markov import bytes_alone, chain, ids, told
from tests.fields.text.test_score import truth, written

ROWS = [{"prompt": f"Add {i} and {j}: ", "completion": f"{i + j}\n" * (1 + i % 3)} for i in range(9) for j in range(9)]


def laid(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def pairs(folder: Path, rows: list[dict[str, Any]] = ROWS) -> list[Document]:
    return read(laid(folder, rows), lambda _: None, Wanted(prompts="prompt", column="completion"))


def test_a_row_is_its_prompt_and_its_completion(tmp_path: Path) -> None:
    found = pairs(
        tmp_path, [*ROWS, ROWS[3], {"prompt": "\u00e9", "completion": " \n"}, {"prompt": "", "completion": "x"}]
    )
    assert [(d.text[: d.given].decode(), d.text[d.given :].decode()) for d in found[:-1]] == [
        (row["prompt"], row["completion"]) for row in ROWS
    ]
    assert (found[-1].text, found[-1].given) == (b"x", 0)
    said: list[str] = []
    laid(tmp_path, [*ROWS, ROWS[3], {"prompt": "\u00e9", "completion": " \n"}])
    read(tmp_path / "rows.jsonl", said.append, Wanted(prompts="prompt", column="completion"))
    assert said == [
        "rows.jsonl:82: the same as rows.jsonl:4; left out",
        "rows.jsonl:83: empty after its prompt; left out",
    ]
    (alone,) = pairs(tmp_path, ROWS[:1])  # and is not cut into pieces
    assert alone.given == len(ROWS[0]["prompt"])


def test_rows_of_parquet_are_the_same(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    columns = {name: [row[name] for row in ROWS] for name in ("completion", "prompt")}
    parquet.write_table(pyarrow.table(columns), path)
    found = read(path, lambda _: None, Wanted(prompts="prompt", column="completion"))
    assert [(d.text, d.given) for d in found] == [(d.text, d.given) for d in pairs(tmp_path)]
    with pytest.raises(
        DataError, match=r"no column of text named 'text' .*\(of pairs: --prompts prompt --column completion\)"
    ):
        read(path, lambda _: None)
    with pytest.raises(DataError, match=r"no column of text named 'asked' .*; choose with --prompts$"):
        read(path, lambda _: None, Wanted(prompts="asked", column="completion"))


def test_rows_that_are_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: has no text in 'text' .*\(of pairs: --prompts prompt --column compl"
    ):
        read(laid(tmp_path), lambda _: None)
    with pytest.raises(
        DataError, match=r"rows.jsonl:2: has no text in 'prompt' \(it holds completion\); choose with --prompts$"
    ):
        pairs(tmp_path, [ROWS[0], {"completion": "x"}])


def corpus(folder: Path, window: int = 16) -> Corpus:
    return Corpus.of(pairs(folder), vocab=300, window=window, held_out=0.2, tell=lambda _: None)


def test_windows_say_what_is_given_and_none_is_of_prompts_alone(tmp_path: Path) -> None:
    of = corpus(tmp_path, window=8)
    by_name = {document.name: document for document in pairs(tmp_path)}
    for part, tokens in (("train", of.train), ("held_out", of.held_out)):
        windows, weight = of.windows(part), np.full(len(tokens), -1.0)
        for i in range(len(windows)):
            item = windows[i]
            assert item["weight"].any()
            where = slice(windows.start(i), windows.start(i) + 8)
            assert np.array_equal(item["x"], tokens[where])
            weight[where] = item["weight"]
        for name, first, last in zip(
            of.names[part], *(np.flatnonzero(tokens == of.facts.end)[s] for s in (slice(0, -1), slice(1, None)))
        ):
            inside = slice(first + 1, last)
            document = by_name[name]
            assert of.vocabulary.decode(tokens[inside]) == document.text
            given = of.vocabulary.decode(tokens[inside][weight[inside] < 1])  # of 0, or in no window
            assert document.text.startswith(given)
            assert of.vocabulary.decode(tokens[inside][weight[inside] == 1]) == document.text[document.given :]
        assert (weight[tokens == of.facts.end] != 0).all()  # ends are learned
    plain = Corpus.of(
        [d._replace(given=0) for d in pairs(tmp_path)], vocab=300, window=8, held_out=0.2, tell=lambda _: None
    )
    assert "weight" not in plain.windows("train")[0]


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    of = corpus(tmp_path)
    of.save(tmp_path / "cache", tmp_path)
    assert Corpus.load(of.facts, tmp_path / "cache", tmp_path).given == of.given
    names = json.loads((tmp_path / "cache" / "names.json").read_text())
    for wrong in ({"train": []}, {"train": ["x"], "held_out": []}, 7):
        (tmp_path / "cache" / "names.json").write_text(json.dumps({**names, "given": wrong}))
        with pytest.raises(DataError, match=r"names\.json"):
            Corpus.load(of.facts, tmp_path / "cache", tmp_path)


def test_a_prompt_is_clean_in_training_and_adds_nothing_to_the_loss(tmp_path: Path) -> None:
    """A network that is wrong about every prompt and right about all else has no loss; one that is wrong there has."""
    of = corpus(tmp_path)
    windows = of.windows("train")
    batch = {name: torch.from_numpy(value) for name, value in windows.batch(range(24)).items()}
    x, weight, process = batch["x"], batch["weight"], Masked(of.facts.mask)
    assert 0.1 < float(weight.mean()) < 0.9
    rng = Streams(key("test"), range(24))
    t = Contexts(0.3, 0.3).draw(torch.linspace(0.3, 0.99, 24), rng, process, batch)
    assert bool((t[weight == 0] == 0).all())
    assert float((t[weight > 0] > 0).double().mean()) > 0.5
    x_t = process.interpolate(x, process.prior(x, rng), t)
    assert torch.equal(x_t[weight == 0], x[weight == 0])

    def of_answers(right: torch.Tensor) -> float:
        answer = 60.0 * torch.nn.functional.one_hot(torch.where(right, x, 0), of.facts.mask)
        return float(loss(Denoiser(lambda shown, level: answer, process), x, t, rng, weight=weight).abs().max())

    assert of_answers(weight > 0) < 1e-6
    assert of_answers(weight == 0) > 1


def test_measures_are_of_completions_alone() -> None:
    """One token at a time: the chain's own bits of what follows the prompt; and the rulers count the same bytes."""
    network = chain()
    text, given = written(network, 40), [0, 13, 40]
    documents = [np.array(ids(text))] * 3
    lengths, end = bytes_alone().lengths(), bytes_alone().end
    found = score(told(network).denoiser, documents, lengths, end, context=8, block=1, draws=1, given=given)
    np.testing.assert_allclose(found.bits, [truth(network, text)[skip:].sum() for skip in given], atol=1e-5)
    assert found.bytes.tolist() == [40, 27, 0]
    train = np.array([end, *ids(written(network, 500, 1)), end])
    grams = ngram(train, documents, lengths, end, len(bytes_alone()), 2, given)
    assert grams.bytes.tolist() == [40, 27, 0]
    assert grams.bits[0] > grams.bits[1] > grams.bits[2] > 0
    (head,) = ngram(train, [documents[0][:13]], lengths, end, len(bytes_alone()), 2).bits
    closing = ngram(train, [documents[0][:13]], lengths, end, len(bytes_alone()), 2, [13]).bits[0]
    assert grams.bits[0] - grams.bits[1] == pytest.approx(head - closing)
    every = compressed([b"x" * 99], [text, text], [b"", text[:13]])
    assert every["gzip"].bytes.tolist() == [40, 27]
    assert 0 < every["gzip"].bits[1] < every["gzip"].bits[0]


def test_a_run_of_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inspect, train a little, evaluate, sample: the whole way."""
    data, out = laid(tmp_path), tmp_path / "run"
    of = ["text", str(data), "--prompts", "prompt", "--column", "completion"]
    small = ["--vocab", "280", "--window", "16", "--held-out", "0.2", "--network.width", "16", "--network.depth", "1",
             "--batch", "8", "--threads", "1", "--previews", "0", "--steps", "4"]  # fmt: skip
    assert main(["inspect", *of, *small]) == 0
    assert "prompts   " in capsys.readouterr().out
    assert main(["train", *of, *small, "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(out), "-n", "0", "--holes", "8", "--span", "4", "--draws", "1"]) == 0
    assert "bits_per_byte" in capsys.readouterr().out
    words = [
        "sample",
        str(out),
        "-n",
        "1",
        "--prompt",
        "Add 3 and 4: ",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "texts"),
    ]
    assert main(words) == 0
    assert (tmp_path / "texts" / "0000.txt").read_bytes().startswith(b"Add 3 and 4: ")
    assert main(["inspect", "text", str(data), "--prompts", "prompt", "--column", "prompt"]) == 1
    assert "prompts = 'prompt': must be another column than --column" in capsys.readouterr().err
