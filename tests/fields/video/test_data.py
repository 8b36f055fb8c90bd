"""Films cut into clips, with what is said of each, apart from those that are held out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="needs the extra sfumato[video]")
pytest.importorskip("tokenizers", reason="needs the extra sfumato[video]")

from sfumato.errors import DataError
from sfumato.fields.video.listing import Said, listed
from sfumato.fields.video.recipe import Video
from sfumato.fields.video.stock import Stock
from sfumato.fields.video.writing import film
from sfumato.training.run import Run
from tests.fields.video.made import squares


def prepared(data: Path, place: Path, **more: Any) -> tuple[Any, Stock, list[str]]:
    """The facts, the stock, and what was told."""
    run = Run(place / "run")
    run.create()
    told: list[str] = []
    recipe = Video(data, **{"side": 16, "vocab": 260, **more}).prepare(run, told.append)
    facts = recipe.facts(run)
    return facts, Stock.open(run, facts), told


def lossless(path: Path, x: np.ndarray, rate: float = 10.0) -> Path:
    film(x, rate, path, codec=("ffv1", {}))
    return path


def long_films(folder: Path, count: int, frames: int) -> np.ndarray:
    """Films whose frames all differ, without a cut, losslessly."""
    folder.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(1).integers(0, 120, (count, 1, 16, 16, 3)).repeat(frames, 1).astype(np.uint8)
    x[:, :, 0, 0] += np.arange(frames, dtype=np.uint8)[None, :, None]
    for number, each in enumerate(x):
        lossless(folder / f"{number:02d}.mkv", each)
    return x


def test_films_become_clips_that_do_not_overlap(tmp_path: Path) -> None:
    x = long_films(tmp_path / "films", 12, 20)
    facts, stock, _ = prepared(tmp_path / "films", tmp_path, frames=8)
    assert (facts.size, facts.frames, facts.rate, facts.films) == ((16, 16), 8, 10.0, 12)
    # 8 + 8, and 4 of 8 are half: left out
    assert sorted(stock.clips["first"].tolist()) == sorted(20 * k + 8 * i for k in range(12) for i in range(2))
    for part in (0, 1):
        clips = stock.part(part)
        for item in range(len(clips)):
            which = int(clips.of[item])
            number, at = int(stock.clips["film"][which]), int(stock.clips["first"][which]) % 20
            assert np.array_equal(clips.bytes([item])[0], x[number, at : at + 8])
            assert stock.clips["seconds"][which] == pytest.approx(at / 10)
            assert clips.name(item).endswith(f"{number:02d}.mkv at {at / 10:.2f} s")


def test_of_many_films_whole_ones_are_held_out_of_few_their_ends(tmp_path: Path) -> None:
    long_films(tmp_path / "many", 12, 16)
    _, stock, _ = prepared(tmp_path / "many", tmp_path / "a", held_out=0.3)
    film_of, part = stock.clips["film"], stock.clips["part"]
    assert not set(film_of[part == 0]) & set(film_of[part == 1])
    long_films(tmp_path / "few", 2, 40)
    _, stock, _ = prepared(tmp_path / "few", tmp_path / "b", stride=1, held_out=0.2)
    first, count, part = stock.clips["first"], stock.clips["count"], stock.clips["part"]
    for number in range(2):
        own = stock.clips["film"] == number
        learned = {k for i in np.flatnonzero(own & (part == 0)) for k in range(first[i], first[i] + count[i])}
        kept = {k for i in np.flatnonzero(own & (part == 1)) for k in range(first[i], first[i] + count[i])}
        assert learned
        assert kept
        assert max(learned) < min(kept)


def test_a_rest_of_more_than_half_is_filled_up_and_does_not_count(tmp_path: Path) -> None:
    x = long_films(tmp_path / "films", 12, 14)
    facts, stock, _ = prepared(tmp_path / "films", tmp_path, frames=8)
    assert facts.padded == 12
    clips = stock.part(0)
    short = next(i for i in range(len(clips)) if stock.clips["count"][clips.of[i]] == 6)
    batch = clips.batch(np.array([short]))
    assert batch["weight"].shape == (1, 8, 1, 1, 1)
    assert batch["weight"].flatten().tolist() == [1] * 6 + [0] * 2
    number = int(stock.clips["film"][clips.of[short]])
    assert np.array_equal(clips.bytes([short])[0], x[number, [8, 9, 10, 11, 12, 13, 13, 13]])


def test_units_are_standard(tmp_path: Path) -> None:
    long_films(tmp_path / "films", 12, 16)
    _, stock, _ = prepared(tmp_path / "films", tmp_path)
    x = np.concatenate([stock.part(part).batch(np.arange(len(stock.part(part))))["x"] for part in (0, 1)])
    assert x.dtype == np.float32
    assert abs(float(x.mean())) < 1e-3
    assert abs(float(x.std()) - 1) < 1e-3


def test_of_a_camera_that_stands_still_the_mean_frame_is_taken_away(tmp_path: Path) -> None:
    x = long_films(tmp_path / "films", 2, 40)
    facts, stock, _ = prepared(tmp_path / "films", tmp_path, still=True, held_out=0.3)
    assert facts.still
    learned = stock.part(0)
    frames = np.concatenate([learned.bytes([i])[0] for i in range(len(learned))]) / 127.5 - 1
    mean = np.moveaxis(frames.mean(0), -1, 0)
    assert np.allclose(stock.units.mean, mean, atol=1e-5)
    batch = learned.batch(np.arange(len(learned)))["x"]
    assert np.allclose(batch.mean((0, 1)), 0, atol=1e-4)
    assert float(batch.std()) == pytest.approx(1, abs=1e-3)
    assert np.array_equal(stock.units.bytes(torch.from_numpy(batch)), learned.bytes(np.arange(len(learned))))
    assert len(x) == 2


def test_films_are_cut_where_the_scene_changes(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    one, other = np.full((11, 16, 16, 3), 20, np.uint8), np.full((9, 16, 16, 3), 220, np.uint8)
    one[:, 3], other[:, 5] = 40, 180
    for k in range(2):
        lossless(tmp_path / "films" / f"{k}.mkv", np.concatenate((one, other)))
    _, stock, told = prepared(tmp_path / "films", tmp_path, frames=4)
    assert any(line.startswith("cuts      2 found") for line in told)
    for first, count in zip(stock.clips["first"], stock.clips["count"]):
        assert len({int(stock.frames[k, 0, 0, 0]) for k in range(first, first + count)}) == 1
    starts = sorted(int(first) for first in stock.clips["first"])
    assert starts == [0, 4, 8, 11, 15, 20, 24, 28, 31, 35]  # 3 of 4 are filled up, 1 of 4 is left out


def test_captions_of_a_part_of_a_film_are_of_that_part(tmp_path: Path) -> None:
    long_films(tmp_path, 12, 24)
    rows = [{"file_name": f"{k:02d}.mkv", "text": "all of it"} for k in range(1, 12)]
    rows += [{"file_name": "00.mkv", "text": "the start", "start": 0, "end": 0.8},
             {"file_name": "00.mkv", "text": "the end", "start": 1.6, "end": 9.0}]  # fmt: skip
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    facts, stock, told = prepared(tmp_path, tmp_path / "out", frames=8)
    assert facts.how == "text of metadata.jsonl"
    own = np.flatnonzero(stock.clips["film"] == 11)  # the table's last
    texts = {round(float(stock.clips["seconds"][i]), 3): stock.captions[int(stock.clips["texts"][i])] for i in own}
    assert texts == {0.0: "the start", 0.8: "", 1.6: "the end"}
    assert any("a caption ends at 9 s" in line for line in told)


def test_words_are_found_beside_films_in_tables_folders_and_arrays(tmp_path: Path) -> None:
    x, texts = squares(4)
    for name in ("one", "two"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        lossless(tmp_path / "folders" / name / "a.mkv", x[0])
    assert [said[0].text for said in listed(tmp_path / "folders", "auto").captions] == ["one", "two"]
    (tmp_path / "folders" / "one" / "a.txt").write_text("a square\nanother word for it\n")
    assert listed(tmp_path / "folders", "auto").captions == (
        (Said("a square"), Said("another word for it")),
        (Said(""),),
    )
    np.savez(tmp_path / "x.npz", x=x, labels=np.array(texts))
    found = listed(tmp_path / "x.npz", "auto")
    assert [said[0].text for said in found.captions] == texts
    assert found.how == "the labels of x.npz"
    assert listed(tmp_path / "x.npz", "none").how == "none"


def test_several_captions_of_a_clip_take_turns(tmp_path: Path) -> None:
    x = long_films(tmp_path / "films", 12, 8)
    assert len(x) == 12
    for k in range(12):
        (tmp_path / "films" / f"{k:02d}.txt").write_text("one word\nanother\n" if k % 2 else "only this\n")
    _, stock, _ = prepared(tmp_path / "films", tmp_path)
    clips = stock.part(0)
    assert len(clips) == 2 * len(clips.of)
    for item, clip in enumerate(clips.of):
        both = [clips.caption(item), clips.caption(item + len(clips.of))]
        assert both == (["one word", "another"] if int(stock.clips["film"][clip]) % 2 else ["only this", "only this"])


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def test_broken_films_are_named_and_counted(tmp_path: Path) -> None:
    long_films(tmp_path / "films", 12, 16)
    (tmp_path / "films" / "broken.mp4").write_text("no film")
    with pytest.raises(
        DataError, match=r"1 of 13 films are broken, more than --broken-budget 0\.01 allows; .*broken\.mp4"
    ):
        prepared(tmp_path / "films", tmp_path / "a")
    facts, _, told = prepared(tmp_path / "films", tmp_path / "b", broken_budget=0.1)
    assert facts.films == 12
    assert any("broken.mp4" in line for line in told)


def test_a_film_that_breaks_off_is_used_as_far_as_it_goes_or_refused(tmp_path: Path) -> None:
    long_films(tmp_path / "films", 11, 16)
    rng = np.random.default_rng(3)
    whole = lossless(tmp_path / "whole.mkv", rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8))
    (tmp_path / "films" / "part.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    facts, _, told = prepared(tmp_path / "films", tmp_path / "a", cut=1.0)
    assert facts.films == 12
    assert any("part.mkv" in line and "frames before the break are used" in line for line in told)
    with pytest.raises(DataError, match=r"part\.mkv.*breaks off"):
        prepared(tmp_path / "films", tmp_path / "b", cut=1.0, strict=True)


def test_what_cannot_be_learned_from_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no films in it"):
        listed(tmp_path / "empty", "auto")
    with pytest.raises(DataError, match="no such film, folder or table"):
        listed(tmp_path / "nowhere", "auto")
    x = long_films(tmp_path / "short", 3, 3)
    assert len(x) == 3
    with pytest.raises(DataError, match="no clip of 8 frames in 3 films; give fewer --frames"):
        prepared(tmp_path / "short", tmp_path / "a")
    (tmp_path / "grey").mkdir()
    for k in range(12):
        lossless(tmp_path / "grey" / f"{k}.mkv", np.full((8, 16, 16, 3), 90, np.uint8))
    with pytest.raises(DataError, match=r"1 distinct film|of one colour"):
        prepared(tmp_path / "grey", tmp_path / "b")
    (tmp_path / "short" / "metadata.csv").write_text("file_name,text,start,end\n00.mkv,a,2,1\n")
    with pytest.raises(DataError, match=r"ends at 1 s and starts at 2 s"):
        listed(tmp_path / "short", "auto")


def test_prepared_data_that_are_damaged_say_so(tmp_path: Path) -> None:
    long_films(tmp_path / "films", 12, 16)
    facts, _, _ = prepared(tmp_path / "films", tmp_path)
    run = Run(tmp_path / "run")
    raw = run.cache / "frames.raw"
    raw.write_bytes(raw.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read"):
        Stock.open(run, facts)
    assert dataclasses.replace(facts, frames=8).shape == (8, 3, 16, 16)
