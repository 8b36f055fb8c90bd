"""The whole job through the command on small squares: inspect, train, resume, sample, again, measure, distill."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("tokenizers", reason="needs the extra sfumato[captions]")

import sfumato
from sfumato.cli import main
from sfumato.errors import DataError, Wrong
from sfumato.fields.captions import measure
from sfumato.fields.captions.options import CaptionAsk, Measured
from sfumato.fields.captions.recipe import Captions
from sfumato.fields.captions.shown import Shown, sheet, written
from sfumato.jobs.making import made
from sfumato.jobs.model import load
from sfumato.jobs.walk import Walk
from sfumato.training import loop
from sfumato.training.checkpoint import read_tensors
from sfumato.training.loader import fetch
from sfumato.training.run import Run
from tests.fields.captions.encoders import encoder
from tests.fields.captions.squares import folder, square

TRAIN = ["--vocab", "280", "--side", "16", "--held-out", "0.25", "--network.width", "32", "--network.depth", "2",
         "--network.text-depth", "1", "--batch", "8", "--optim.lr", "5e-3", "--threads", "1", "--previews", "1",
         "--precision", "fp32", "--snapshots", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of few steps."""
    place = tmp_path_factory.mktemp("captions")
    data, out = folder(place / "squares", 96), place / "run"
    assert main(["train", "captions", str(data), *TRAIN, "--steps", "16", "--out", str(out)]) == 0
    return out


def test_inspect_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder(tmp_path / "squares", 40)
    Image.fromarray(square(1)[0]).save(data / "bare.png")
    (data / "broken.png").write_bytes(b"no picture")
    (data / "broken.txt").write_text("a thing")
    assert main(["inspect", "captions", str(data), *TRAIN, "--broken-budget", "0.1"]) == 0
    said = capsys.readouterr().out
    for wanted in ("1 pictures without a caption file, left out: bare.png", "40 pictures with 40 captions", "1 broken",
                   "broken.png: not a picture", "tokens ", "size      16x16: 100.0%", "Captioned"):  # fmt: skip
        assert wanted in " ".join(said.split()) or wanted in said, wanted


def test_inspect_says_in_a_line_what_is_odd_about_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(data: Path, *more: str) -> tuple[int, str]:
        code = main(["inspect", "captions", str(data), *TRAIN, *more])
        caught = capsys.readouterr()
        return code, " ".join((caught.out + caught.err).split())

    data = folder(tmp_path / "squares", 24)
    (data / "003.txt").write_text("word " * 4000)  # 20 kB
    (data / "004.txt").write_bytes(b"\xef\xbb\xbf\n")
    code, words = said(data, "--tokens", "12")
    assert code == 0
    for wanted in ("12 of a caption at most", "the longest has 800", "1 captions longer than 4,000 characters, cut at a word",
                   "003.txt", "1 captions that are empty", "1 without words"):  # fmt: skip
        assert wanted in words, wanted
    (data / "005.txt").write_bytes(b"a \x81 hat")
    code, words = said(data)
    assert code == 1
    assert "005.txt: neither UTF-8 nor Windows-1252 text (byte 0x81 at 2); save it as UTF-8" in words
    (data / "005.txt").unlink()
    lines = [
        "file_name,text",
        *(f"{i:03d}.png,thing {i}" for i in range(24) if i != 5),
        "000.png,another",
        "000.png,thing 0",
    ]
    (data / "metadata.csv").write_text("\n".join(lines))
    code, words = said(data)
    assert code == 0
    assert "23 pictures with 24 captions" in words
    assert "2 rows name a picture again; its captions are alternatives (the first: metadata.csv, line 25)" in words
    same = tmp_path / "same"
    same.mkdir()
    for i in range(31):
        Image.fromarray(square(3)[0]).save(same / f"{i}.png")
        (same / f"{i}.txt").write_text("a square")
    code, words = said(same)
    assert code == 1
    assert "1 distinct picture (31 files); two at least are needed" in words


def test_training_goes_on_to_the_bit_where_it_was_stopped(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, save = tmp_path / "run", loop._save

    def stopping(run: Run, step: int, *rest: Any) -> None:
        save(run, step, *rest)
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_save", stopping)
        words = ["train", "captions", str(run.parent / "squares"), *TRAIN, "--steps", "16", "--out", str(out)]
        assert main([*words, "--save-seconds", "1e-9"]) == 143
    assert not (out / "model.safetensors").is_file()
    assert main(["resume", str(out)]) == 0
    weights, whole = (read_tensors(place / "model.safetensors") for place in (out, run))
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], whole[name]) for name in whole)


def test_pictures_are_made_again_to_the_bit_from_themselves_alone(run: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes("\ufeffa red square\n\na blue square\na red square\n".encode("utf-16"))
    out = tmp_path / "out"
    words = ["sample", str(run), "--steps", "4", "--seed", "5", "-n", "3", "--w", "2"]
    assert main([*words, "--prompts", str(prompts), "--negative", "green", "--out", str(out)]) == 0
    prompts.unlink()
    assert sorted(path.name for path in out.glob("0*.png")) == [f"{i:04d}.png" for i in range(6)]
    making = made(out / "0003.png")
    assert (making.ask["prompt"], making.ask["negative"], making.number, making.seed) == (
        "a blue square",
        "green",
        1,
        5,
    )
    assert making.name == "a blue square"
    assert main(["sample", str(run), "--like", str(out / "0003.png"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "0001.png").read_bytes() == (out / "0003.png").read_bytes()
    alone = tmp_path / "alone"
    assert main([*words, "--prompt", " a  red square", "--negative", "green", "--out", str(alone)]) == 0
    for place in range(3):  # a prompt's pictures are the same in any list
        assert (alone / f"{place:04d}.png").read_bytes() == (out / f"{2 * place:04d}.png").read_bytes()
    model = sfumato.load(run, steps=4)
    three, five = (model.sample(n, prompt="a red square", seed=5, w=2.0, negative="green") for n in (3, 5))
    with Image.open(out / "0002.png") as picture:
        assert np.array_equal(np.asarray(picture), three[1].pixels)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(three, five))
    assert not np.array_equal(three[0].pixels, three[1].pixels)


def test_nothing_asked_draws_held_out_captions_and_the_sheet_says_them(run: Path, tmp_path: Path) -> None:
    model = load(run, Walk(steps=2))
    queries = model.recipe.queries(model, CaptionAsk(), 20)
    assert len(queries) == 20
    assert {queries.prompt(i) for i in range(20)} == set(model.facts.examples)
    assert {queries.name(i) for i in range(20)} == {(queries.prompt(i), queries.name(i)[1]) for i in range(20)}
    assert len({queries.name(i) for i in range(20)}) == 20
    things = [Shown(square(i)[0], text) for i, text in enumerate(["a", "a very long caption " * 20, "", "x" * 300])]
    with_words, without = sheet(things), sheet([Shown(thing.pixels, "") for thing in things])
    assert with_words.height > without.height
    picture = np.asarray(with_words.convert("L"))
    assert picture[-(with_words.height - without.height) // 2 :].min() < 128  # words below the last row
    assert written("São Tomé’s “Ærø” – 帽子") == 'Sao Tome\'s "AEro" - 帽子'
    accents, plain = (np.asarray(sheet([Shown(square(0)[0], text)])) for text in ("côte", "cote"))
    assert np.array_equal(accents, plain)  # the font would draw a box
    columns = sheet([things[0], things[1]] * 3, 2)
    assert columns.height < 3 * with_words.height  # said once, at the foot


def test_a_batch_is_what_the_files_show(run: Path) -> None:
    data = load(run).recipe.open(Run(run))
    facts = data.facts
    assert facts.count + facts.held == 96
    rows = data.train.batch(np.array([3, 0]))
    for place, index in enumerate((3, 0)):
        number = int(Path(data.train.name(index)).stem)
        pixels, caption = square(number)
        shown = (rows["x"][place] * facts.spread + facts.mean + 1) * 127.5
        assert np.abs(shown.transpose(1, 2, 0) - pixels).max() < 1e-2
        assert data.train.caption(index) == caption
    every = data.train.batch(np.arange(len(data.train)))["x"]
    assert abs(float(every.mean())) < 1e-3
    assert abs(float(every.std()) - 1) < 1e-3
    shown = {data.train.name(i) for i in range(len(data.train))}
    assert shown.isdisjoint({data.held_out.name(i) for i in range(len(data.held_out))})


def test_sizes_alternatives_and_silence_through_training(tmp_path: Path) -> None:
    """Pictures of three proportions, some with several captions, one with none: every batch is of one size, each picture is
    seen as often as the others, and an evaluation brings them together."""
    data = tmp_path / "mixed"
    data.mkdir()
    for i in range(96):
        height, width = ((16, 16), (12, 24), (24, 12))[i % 3]
        pixels = np.random.default_rng(i).integers(0, 255, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(data / f"{i:03d}.png")
        (data / f"{i:03d}.txt").write_text("" if i == 5 else f"one\ntwo {i}" if i % 2 else f"lone {i}")
    out = tmp_path / "run"
    assert (
        main(["train", "captions", str(data), *TRAIN, "--network.patch", "2", "--steps", "3", "--out", str(out)]) == 0
    )
    model = load(out, Walk(steps=2, batch=8))
    opened = model.recipe.open(Run(out))
    assert len(model.facts.sizes) == 3
    assert model.facts.hidden == 1
    assert len(opened.train) == 2 * model.facts.count
    assert not any("stretched" in line for line in model.facts.said)
    train, buckets = opened.train, opened.train.buckets
    for kind in range(3):
        own = np.flatnonzero(buckets == kind)
        x = train.batch(own)["x"]
        assert x.shape[2:] == model.facts.sizes[kind]
    with pytest.raises(ValueError, match="different sizes cannot stand in one batch"):
        train.batch(np.arange(len(train)))
    names = [train.name(i) for i in range(len(train))]
    assert all(names.count(name) == 2 for name in names)
    pair = [i for i, name in enumerate(names) if int(name[:3]) % 2]
    assert {train.caption(i) for i in pair if names[i] == names[pair[0]]} == {"one", f"two {int(names[pair[0]][:3])}"}
    assert fetch(train, [0]).condition["caption"].dtype == torch.int64
    wide = "x".join(map(str, next(size for size in model.facts.sizes if size[1] > size[0])))
    (thing,) = model.sample(1, prompt="lone", size=wide)
    assert thing.pixels.shape[1] > thing.pixels.shape[0]
    with pytest.raises(Wrong, match=r"size = '8x8': this run learned "):
        model.sample(1, prompt="lone", size="8x8")
    report = model.recipe.evaluate(model, Measured(n=14, features="patches", strengths=()), CaptionAsk())
    assert {row.metric for row in report.rows} >= {"agreement", "agreement_rank", "kernel_distance"}


def test_agreement_of_the_truth_is_one_and_of_others_is_chance(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load(run)
    data = model.recipe.open(Run(run))
    held = measure.some(data.held_out, 99, told=True)
    flat = held.x.flatten(1)
    hit, rank = measure.agreement(flat, flat, held.captions)
    assert (hit.value, rank.value) == (1.0, 1.0)
    captions = [str(i) for i in range(400)]
    noise = torch.randn(2, 400, 8, generator=torch.Generator().manual_seed(0))
    hit, rank = measure.agreement(*noise, captions)
    assert hit.value < 0.02
    assert abs(rank.value - 0.5) < 0.06
    assert measure.likest(["a red hat", "two boots"], ["boots two", "the red hat", "nothing"]) == [1, 0]
    words = ["evaluate", str(run), "--steps", "2", "-n", "16", "--features", "patches", "--strengths", "1", "4"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "w = 4: agreement" in said
    assert "agreement by chance" in said
    stored = json.loads((run / "metrics.json").read_text())
    assert [point["w"] for point in stored["guidance"]] == [1.0, 4.0]
    with Image.open(run / "report.png") as picture:
        assert picture.width > 600


def test_agreement_in_kind_is_that_of_folders_and_real_pictures_are_measured_without_themselves() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [30.0]])
    folders = ("a", "a", "a", "b", "b", "c")
    (row,) = measure.agreement_in_kind(real, real, folders)
    assert row.value == 1.0
    assert row.floor == pytest.approx(5 / 6)  # the only one of its folder has its nearest in another
    (row,) = measure.agreement_in_kind(real[[3, 4, 3, 0, 1, 0]], real, folders)
    assert row.value == 0.0
    assert measure.agreement_in_kind(real, real, ("a",) * 6) == []


def test_what_makes_no_sense_is_said_in_a_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = sfumato.load(run)
    with pytest.raises(Wrong, match=r"prompts .*must be given without prompt"):
        model.sample(1, prompt="a", prompts=tmp_path / "x.txt")
    with pytest.raises(DataError, match="is no file; a prompt a line is expected"):
        model.sample(1, prompts=tmp_path / "x.txt")
    (tmp_path / "x.txt").write_text("\n\n")
    with pytest.raises(DataError, match="holds no prompt"):
        model.sample(1, prompts=tmp_path / "x.txt")
    with pytest.raises(Wrong, match="negative: with w = 1 nothing is guided"):
        model.sample(1, prompt="a", negative="b", w=1.0)
    with pytest.raises(Wrong, match="prompt = 'a': must be left out, pictures are measured for held-out captions"):
        sfumato.evaluate(run, prompt="a")
    with pytest.raises(Wrong, match="size = 'large': must be HEIGHTxWIDTH"):
        model.sample(1, size="large")
    same = tmp_path / "same"
    same.mkdir()
    for i in range(31):
        Image.fromarray(square(3)[0]).save(same / f"{i}.png")
        (same / f"{i}.txt").write_text("a square")
    assert main(["train", "captions", str(same), *TRAIN, "--steps", "1", "--out", str(tmp_path / "a")]) == 1
    assert "1 distinct picture (31 files)" in capsys.readouterr().err
    data = folder(tmp_path / "silent", 12)
    for file in data.glob("*.txt"):
        file.write_text(" ")
    assert main(["train", "captions", str(data), *TRAIN, "--steps", "1", "--out", str(tmp_path / "b")]) == 1
    assert "all captions are empty" in capsys.readouterr().err
    assert main(["train", "captions", str(data), "--side", "47", "--out", str(tmp_path / "c")]) == 1
    assert "side = 47: no patch from 2 to 16 divides it" in capsys.readouterr().err
    assert main(["train", "captions", str(data), "--method.process", "equilibrium", "--out", "y"]) == 1
    assert "method.process = 'equilibrium': must be 'gaussian'" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_a_flow_map_hears_words_and_takes_guidance_as_an_input(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "map"
    assert main(["distill", str(run), "--steps", "3", "--threads", "1", "--batch", "8", "--out", str(out)]) == 0
    model = load(out)
    assert model.settings["guided"]
    one = model.sample(1, prompt="a red square on the left", steps=1, w=1.0)[0].pixels
    for other in ({"prompt": "a blue square on the right", "w": 1.0}, {"prompt": "a red square on the left", "w": 2.0}):
        assert model.sample(1, steps=1, **other)[0].pixels.shape == one.shape
    queries = model.recipe.queries(model, CaptionAsk("a red square"), 1)
    told, mute = queries.batch([0]), dataclasses.replace(queries, texts=("",)).batch([0])
    x, t, s = torch.randn(1, 3, 16, 16), torch.tensor(0.9), torch.tensor(0.2)
    guidance = torch.tensor([[1.5, 0.0, 1.0]])
    with torch.no_grad():
        heard, silent = (
            model.denoiser(x, t, s, guidance=guidance, caption=each["caption"], caption_mask=each["caption_mask"]).x
            for each in (told, mute)
        )
    assert (heard - silent).abs().max() > 1e-6
    with pytest.raises(Wrong, match="negative: a flow map has learned its guidance"):
        model.sample(1, prompt="a", negative="b")
    with pytest.raises(Wrong, match="guide_by = 'apg': a flow map has learned its guidance"):
        model.sample(1, prompt="a", guide_by="apg")


def test_a_run_without_its_prepared_data_still_draws(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("cache", "checkpoints"))
    assert len(load(bare, Walk(steps=2)).sample(2)) == 2
    (bare / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json: file not found"):
        load(bare, Walk(steps=2)).sample(2)


def test_an_encoder_that_is_not_trained_goes_the_same_way(tmp_path: Path) -> None:
    data, out, place = folder(tmp_path / "squares", 40), tmp_path / "run", encoder(tmp_path / "encoder")
    words = ["train", "captions", str(data), *TRAIN, "--network.attention", "joint", "--encoder", str(place)]
    assert main([*words, "--steps", "2", "--out", str(out)]) == 0
    assert not (out / "tokenizer.json").exists()
    weights = read_tensors(out / "model.safetensors")
    assert not [name for name in weights if name.startswith("words.")]
    draw = ["sample", str(out), "--prompt", "a red square", "-n", "2", "--steps", "2", "--out"]
    assert main([*draw, str(tmp_path / "one")]) == 0
    assert main(["sample", str(out), "--like", str(tmp_path / "one" / "0001.png"), "--out", str(tmp_path / "two")]) == 0
    assert (tmp_path / "two" / "0001.png").read_bytes() == (tmp_path / "one" / "0001.png").read_bytes()
    assert (
        main(["distill", str(out), "--steps", "1", "--threads", "1", "--batch", "4", "--out", str(tmp_path / "map")])
        == 0
    )
    (place / "model.safetensors").write_bytes(b"gone")
    with pytest.raises(DataError, match="is no file of tensors"):
        load(out, Walk(steps=2)).sample(2)


def test_diversity_is_none_of_equal_pictures_and_one_of_unlike_ones(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of one caption: all alike, or as unlike as the real ones are."""
    model = load(run)
    held = measure.some(model.recipe.open(model.run).held_out, 24, told=True)
    space = measure.of_pictures("pca", held.x)
    real, rng = space(held.x), torch.Generator().manual_seed(0)
    texts = tuple(dict.fromkeys(held.captions))
    assert len(texts) > 4

    def alike(model: Any, asked: Any, negative: Any, name: str) -> torch.Tensor:
        return held.x[[held.captions.index(text) for text in asked.captions]]

    def unlike(model: Any, asked: Any, negative: Any, name: str) -> torch.Tensor:
        return held.x[torch.randint(len(held.x), (len(asked.captions),), generator=rng)]

    monkeypatch.setattr(measure, "drawn_for", alike)
    assert measure.diversity(model, held, space, real, 4)[0].value < 1e-6
    monkeypatch.setattr(measure, "drawn_for", unlike)
    found = measure.diversity(model, held, space, real, 16)[0]
    assert found.value == pytest.approx(1, abs=0.15)
    assert found.n == 16 * len(texts)
    assert measure.diversity(model, held, space, real, 1) == []


def test_a_shown_picture_is_its_pixels_to_numpy() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(np.asarray(Shown(pixels, "a thing")), pixels)


def test_options_are_the_words_of_the_command(run: Path) -> None:
    recipe = load(run).recipe
    assert isinstance(recipe, Captions)
    assert recipe.encoder == "own"
    assert recipe.network.patch is not None
    assert recipe.network.attention in ("cross", "joint")


@pytest.fixture(scope="module")
def coded(run: Path) -> Path:
    """A run that learned the codes of an autoencoder of the same squares, made by the field's own verb."""
    data, coder, out = run.parent / "squares", run.parent / "coder", run.parent / "coded"
    words = ["captions", "autoencoder", str(data), "--side", "16", "--latent", "4", "--factor", "2", "--width", "8"]
    quick = ["--threads", "1", "--previews", "1", "--precision", "fp32", "--snapshots", "0", "--batch", "8"]
    assert main([*words, *quick, "--steps", "30", "--out", str(coder)]) == 0
    words = ["train", "captions", str(data), *TRAIN, "--latent", str(coder), "--steps", "4", "--out", str(out)]
    assert main(words) == 0
    return out


def test_codes_are_learned_and_pictures_drawn(coded: Path, tmp_path: Path) -> None:
    model = load(coded)
    batch = fetch(model.recipe.open(model.run).train, range(4))
    assert batch.x.shape == (4, 4, 8, 8)
    assert model.facts.shape == (3, 16, 16)
    assert model.settings["channels"] == 4
    shutil.rmtree(coded.parent / "coder")  # a run needs nothing of it
    out, again = tmp_path / "out", tmp_path / "again"
    assert main(["sample", str(coded), "--prompt", "a red square", "-n", "3", "--seed", "3", "--out", str(out)]) == 0
    assert main(["sample", str(coded), "--like", str(out / "0002.png"), "--out", str(again)]) == 0
    first, second = (np.asarray(Image.open(place / "0002.png")) for place in (out, again))
    assert first.shape == (16, 16, 3)
    assert np.array_equal(first, second)


def test_an_autoencoder_of_a_table_takes_its_pictures_along(tmp_path: Path) -> None:
    from sfumato.fields.captions.autoencode import Autoencode

    data = folder(tmp_path / "squares", 30)
    rows = "".join(f"squares/{number:03d}.png,a square\n" for number in range(30))
    (tmp_path / "list.csv").write_text("file_name,text\n" + rows, encoding="utf-8")
    assert Autoencode(data).pictures(tmp_path / "run") == data  # a folder is read where it is
    found = Autoencode(tmp_path / "list.csv").pictures(tmp_path / "run")
    assert sorted(path.read_bytes() for path in found.iterdir()) == sorted(
        path.read_bytes() for path in data.glob("*.png")
    )
    words = [
        "--side",
        "16",
        "--factor",
        "2",
        "--width",
        "8",
        "--steps",
        "2",
        "--batch",
        "4",
        "--threads",
        "1",
        "--previews",
        "0",
    ]
    out = tmp_path / "coder"
    assert (
        main(["captions", "autoencoder", str(tmp_path / "list.csv"), *words, "--snapshots", "0", "--out", str(out)])
        == 0
    )
    shutil.rmtree(data)
    assert main(["resume", str(out), "--steps", "3"]) == 0


def test_codes_are_measured_as_pictures(coded: Path, run: Path) -> None:
    of_codes, of_pixels = (load(place).recipe.open(Run(place)).held_out for place in (coded, run))
    one, other = (measure.some(pairs, 20, told=True) for pairs in (of_codes, of_pixels))
    assert torch.equal(one.x, other.x)  # the real pictures, not what the autoencoder makes of them
    drawn = measure.drawn_for(load(coded), measure.some(of_codes, 4, told=True))
    assert drawn.shape == (4, 3, 16, 16)
    assert drawn.abs().max() <= 1


def test_a_unet_goes_the_same_way(run: Path, tmp_path: Path) -> None:
    """Trained, sampled, made again; and its pictures differ from word to word."""
    out = tmp_path / "run"
    words = [word for word in TRAIN if word not in ("--network.width", "32")]
    words += ["--network.body", "unet", "--network.width", "16", "--network.patch", "4"]
    assert main(["train", "captions", str(run.parent / "squares"), *words, "--steps", "6", "--out", str(out)]) == 0
    model = load(out, Walk(steps=2, w=3.0))
    assert model.settings["body"] == "unet"
    one, two = (model.sample(1, prompt=text)[0].pixels for text in ("a red square on the left", "a blue square"))
    assert not np.array_equal(one, two)
    assert (
        main(["sample", str(out), "--prompt", "a red square", "-n", "1", "--steps", "2", "--out", str(tmp_path / "a")])
        == 0
    )
    like = ["sample", str(out), "--like", str(tmp_path / "a" / "0000.png"), "--out", str(tmp_path / "b")]
    assert main(like) == 0
    assert (tmp_path / "a" / "0000.png").read_bytes() == (tmp_path / "b" / "0000.png").read_bytes()
