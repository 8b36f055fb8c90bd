"""The whole job through the command on small squares: train, sample, again, from frames, on and on, measure, distill."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("av", reason="needs the extra sfumato[video]")
pytest.importorskip("tokenizers", reason="needs the extra sfumato[video]")

from sfumato.cli import main
from sfumato.diffusion import PartlyKnown, Shifted
from sfumato.errors import Wrong
from sfumato.fields.video.films import Film, frames
from sfumato.fields.video.options import ClipAsk, ClipMethod, ClipNetwork
from sfumato.fields.video.recipe import Video
from sfumato.fields.video.rollout import parts
from sfumato.fields.video.writing import film
from sfumato.jobs.config import read_config
from sfumato.jobs.model import Model, load, task_of
from sfumato.jobs.sample import sample
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.loader import fetch
from sfumato.training.run import Run
from tests.fields.video.made import squares

TRAIN = ["--vocab", "280", "--side", "16", "--held-out", "0.25", "--network.width", "32", "--network.depth", "2",
         "--network.text-depth", "1", "--batch", "8", "--optim.lr", "5e-3", "--threads", "1", "--previews", "1",
         "--precision", "fp32", "--snapshots", "0", "--frames", "6", "--fps", "10"]  # fmt: skip
PROMPT = "a red square moving right"
FAST = Walk(steps=3, batch=4)


def packed(path: Path, count: int = 48) -> Path:
    x, texts = squares(count, 6)
    np.savez(path, x=x, labels=np.array(texts))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a run of few steps, a causal one, and a film and pictures to ask with."""
    place = tmp_path_factory.mktemp("video")
    data = packed(place / "squares.npz")
    assert main(["train", "video", str(data), *TRAIN, "--steps", "8", "--out", str(place / "run")]) == 0
    assert main(["train", "video", str(data), *TRAIN, "--network.causal", "--network.attention", "factored",
                 "--steps", "4", "--out", str(place / "causal")]) == 0  # fmt: skip
    x = squares(1, 9, seed=4)[0][0]
    film(x, 10.0, place / "film.mkv", codec=("ffv1", {}))
    for k, name in ((0, "a"), (5, "b")):
        Image.fromarray(x[k]).save(place / f"{name}.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save(place / "mask.png")
    return place


@pytest.fixture
def model(place: Path) -> Model:
    return load(place / "run", FAST)


def clips(model: Model, n: int = 2, **ask: Any) -> np.ndarray:
    """Clips as bytes (n, F, 16, 16, 3)."""
    return np.stack([thing.frames for thing in model.sample(n, **ask)])


def film_of(place: Path) -> np.ndarray:
    return np.stack([frame.pixels for frame in frames(Film(place / "film.mkv"))])


# ---- training --------------------------------------------------------------------------------------------------------


def test_what_was_trained_is_what_was_asked_for(place: Path) -> None:
    run = Run(place / "run")
    config = read_config(run)
    task = task_of(config, run)
    assert isinstance(task.times, PartlyKnown)
    assert task.hidden == {("caption", "caption_mask"): 0.1}
    assert config.recipe.network.patch == 8
    facts = config.recipe.facts(run)
    assert facts.shape == (6, 3, 16, 16)
    assert facts.held > 0
    rows = fetch(task.train, [0, 1])
    assert rows.x.shape == (2, 6, 3, 16, 16)
    assert set(rows.condition) == {"caption", "caption_mask"}
    assert json.loads((place / "run" / "data.json").read_text())["how"] == "the labels of squares.npz"


def test_the_shift_is_the_same_in_training_and_in_sampling(tmp_path: Path) -> None:
    data = packed(tmp_path / "squares.npz", 24)
    assert (
        main(["train", "video", str(data), *TRAIN, "--shift", "2", "--steps", "1", "--out", str(tmp_path / "run")]) == 0
    )
    made = load(tmp_path / "run")
    trained = task_of(read_config(made.run), made.run).process
    assert made.process.schedule == trained.schedule
    assert isinstance(made.process.schedule, Shifted)
    assert made.process.schedule.k == 2


def test_options_that_make_no_sense_are_named() -> None:
    for wrong, said in (
        (lambda: Video(Path("a"), frames=0), "frames = 0"),
        (lambda: Video(Path("a"), fps=0.0), "fps = 0.0"),
        (lambda: Video(Path("a"), method=ClipMethod(times="adaptive")), "method.times"),
        (lambda: ClipMethod(own=0.7, prefix=0.5), "own = 0.7"),
        (lambda: ClipNetwork(attention="factored", depth=1), "depth = 1"),
        (lambda: ClipAsk(hide="3:5"), "mask"),
        (lambda: ClipAsk(order="pyramids"), "order"),
        (lambda: ClipAsk(keep=3), "keep = 3"),
        (lambda: ClipAsk(prefix=Path("a"), first=Path("b")), "first"),
        (lambda: ClipAsk(fill=Path("a")), "fill"),
    ):
        with pytest.raises(Wrong, match=said):
            wrong()


# ---- samples ---------------------------------------------------------------------------------------------------------


def test_a_sample_is_the_same_alone_in_any_list_and_after_reading_its_making(
    place: Path, model: Model, tmp_path: Path
) -> None:
    first = sample(model, 3, ClipAsk(prompt=PROMPT), tmp_path / "a", ".npz")
    assert [path.name for path in first] == ["0000.npz", "0001.npz", "0002.npz", "grid.png"]
    with np.load(first[2]) as stored:
        x, rate = stored["x"], float(stored["fps"])
    assert x.shape == (6, 16, 16, 3)
    assert rate == 10.0
    assert np.array_equal(clips(model, 3, prompt=PROMPT)[2], x)
    (tmp_path / "prompts.txt").write_text(f"a blue square\n{PROMPT}\n")
    many = clips(model, 3, prompts=tmp_path / "prompts.txt")
    assert np.array_equal(many[5], x)  # the third of the second prompt
    assert main(["sample", str(place / "run"), "--like", str(first[2]), "--out", str(tmp_path / "b")]) == 0
    with np.load(
        tmp_path / "b" / "0000.npz" if (tmp_path / "b" / "0000.npz").is_file() else tmp_path / "b" / "0002.npz"
    ) as stored:
        assert np.array_equal(stored["x"], x)


def test_known_frames_stand_where_they_were_given(place: Path, model: Model) -> None:
    x = film_of(place)
    found = clips(model, prompt=PROMPT, first=place / "a.png", last=place / "b.png")
    assert np.array_equal(found[:, 0], x[[0, 0]])
    assert np.array_equal(found[:, 5], x[[5, 5]])
    assert not np.array_equal(found[:, 1], x[[1, 1]])
    found = clips(model, prefix=place / "film.mkv", keep=2, frames=9)
    assert found.shape == (2, 9, 16, 16, 3)
    assert np.array_equal(found[0, :2], x[-2:])
    found = clips(model, fill=place / "film.mkv", hide="2:4", order="rows")
    assert np.array_equal(found[0][[0, 1, 4, 5]], x[[0, 1, 4, 5]])
    found = clips(model, fill=place / "film.mkv", mask=place / "mask.png")
    assert np.array_equal(found[0][:, :, :8], x[:6, :, :8])
    assert not np.array_equal(found[0][:, :, 8:], x[:6, :, 8:])
    assert np.array_equal(
        clips(model, fill=place / "film.mkv", hide="0:6"), clips(model)
    )  # nothing is known: the plain clip


def test_what_cannot_be_asked_for_is_said_in_a_line(place: Path, model: Model, tmp_path: Path) -> None:
    Image.new("RGB", (40, 16)).save(tmp_path / "wide.png")
    for ask, said in (
        ({"first": tmp_path / "wide.png"}, r"wide\.png has 40x16 pixels, and the run learned 16x16"),
        ({"prefix": place / "film.mkv", "keep": 6}, "keep = 6: must be below the 6 frames"),
        ({"context": 6}, "context = 6"), ({"fill": place / "film.mkv", "hide": "4:9"}, "hide = '4:9'"),
        ({"negative": "a hat"}, "with w = 1 nothing is guided"),
    ):  # fmt: skip
        with pytest.raises(Wrong, match=said):
            model.sample(1, **ask)


def test_words_and_guidance_change_clips(place: Path) -> None:
    model = load(place / "run", dataclasses.replace(FAST, w=2.0))
    guided = clips(model, prompt=PROMPT)
    assert not np.array_equal(guided, clips(model, prompt=PROMPT, w=1.0))
    assert not np.array_equal(guided, clips(model, prompt=PROMPT, negative="a blue square"))
    plain = clips(model, prompt=PROMPT, w=1.0)
    assert np.allclose(clips(model, prompt=PROMPT, negative=PROMPT), plain, atol=1)  # led away from itself


@pytest.mark.parametrize("name", ["run", "causal"])
def test_films_go_on_the_same_at_any_length(place: Path, name: str) -> None:
    model = load(place / name, FAST)
    long = clips(model, prompt=PROMPT, frames=16, context=2)
    assert long.shape == (2, 16, 16, 16, 3)
    assert np.array_equal(clips(model, prompt=PROMPT, frames=11, context=2), long[:, :11])
    assert np.array_equal(clips(model, prompt=PROMPT, context=2), long[:, :6])
    other = clips(model, prompt=PROMPT, frames=16, context=2, then="a blue square moving down")
    assert np.array_equal(other[:, :6], long[:, :6])
    assert not np.array_equal(other[:, 6:], long[:, 6:])


def test_of_a_causal_run_what_is_kept_need_not_be_shown_again(place: Path) -> None:
    """The same frames with the ones before in memory and with them in the clip, from the same noise."""
    model = load(place / "causal", FAST)
    clip = model.recipe.queries(model, ClipAsk(prompt=PROMPT), 2)
    (x,) = [new for _, new in parts(model, clip, [0, 1])]
    kept, told = x[:, 4:], clip.told([0, 1])
    network, process, t = model.denoiser, model.process, torch.full((2, 6), 0.6, dtype=torch.float64)
    t[:, :2] = 0.05
    x_t = process.interpolate(torch.cat((kept, torch.zeros_like(x[:, :4])), 1), torch.randn_like(x), t)
    shown, level = process.precondition(x_t, t)
    with torch.no_grad():
        whole = network(x_t, t, **told).x[:, 2:]
        part = network(x_t[:, 2:], t[:, 2:], **told, before=shown[:, :2], before_level=level[:, :2]).x
    assert torch.allclose(whole, part, atol=1e-4)


def test_every_format_is_written_and_read_again(place: Path, model: Model, tmp_path: Path) -> None:
    wanted = clips(model, 1, prompt=PROMPT)[0]
    for suffix in (".mp4", ".webm", ".gif"):
        file, _ = sample(model, 1, ClipAsk(prompt=PROMPT), tmp_path / suffix[1:], suffix)
        found = np.stack([frame.pixels for frame in frames(Film(file))])
        assert found.shape == wanted.shape or suffix == ".gif"  # a moving picture joins frames that are equal
        assert np.abs(found[0].astype(float) - wanted[0]).mean() < 12
    *files, _ = sample(model, 1, ClipAsk(prompt=PROMPT), tmp_path / "png", ".png")
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), wanted)
    assert main(["sample", str(place / "run"), "--like", str(files[0]), "--out", str(tmp_path / "like")]) == 0
    again = sorted((tmp_path / "like").glob("*.png"))
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in again if file.name != "grid.png"]), wanted)


def test_frames_appear_as_they_come(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "stream"
    words = [
        "video",
        "stream",
        str(place / "run"),
        "--prompt",
        PROMPT,
        "--frames",
        "11",
        "--steps",
        "3",
        "--batch",
        "4",
    ]
    assert main([*words, "--out", str(out)]) == 0
    files = sorted(out.glob("*.png"))
    assert [file.name for file in files] == [f"{k:06d}.png" for k in range(11)]
    wanted = clips(load(place / "run", FAST), 1, prompt=PROMPT, frames=11)[0]
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), wanted)
    said = capsys.readouterr().out
    assert "frames 0 to 5" in said
    assert "frames a second" in said
    assert main(["video", "stream", str(tmp_path), "--out", str(tmp_path / "b")]) == 1


# ---- measuring, converting -------------------------------------------------------------------------------------------


def test_a_run_is_measured_against_what_was_held_out(place: Path) -> None:
    assert main(["evaluate", str(place / "run"), "-n", "12", "--steps", "2"]) == 0
    found = json.loads((place / "run" / "metrics.json").read_text())
    for name in (
        "psnr_words",
        "ssim_words",
        "psnr_first",
        "psnr_changes",
        "psnr_between",
        "frechet_distance",
        "kernel_distance",
    ):
        assert name in found["metrics"] if "metrics" in found else name in json.dumps(found)
    assert "first frame held: psnr" in " ".join(found["remarks"])
    assert (place / "run" / "report.png").is_file()


def test_a_run_learns_further_from_other_films(place: Path, tmp_path: Path) -> None:
    """In its own units, size and words, beside clips that it drew before."""
    out = tmp_path / "tuned"
    data = packed(tmp_path / "others.npz", 30)
    words = [
        "finetune",
        str(place / "run"),
        "--data",
        str(data),
        "--lora",
        "2",
        "--steps",
        "2",
        "--threads",
        "1",
        "--out",
        str(out),
    ]
    assert main(words) == 0
    before, after = load(place / "run").facts, load(out).facts
    assert (after.mean, after.spread, after.size, after.vocab) == (
        before.mean,
        before.spread,
        before.size,
        before.vocab,
    )
    assert clips(load(out, FAST), prompt=PROMPT).shape == (2, 6, 16, 16, 3)


def test_a_flow_map_is_made_and_takes_known_frames(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "map"
    assert (
        main(["distill", str(place / "run"), "--steps", "2", "--threads", "1", "--previews", "0", "--out", str(out)])
        == 0
    )
    model = load(out, Walk(batch=4))
    assert model.walk.steps == 4
    x = film_of(place)
    found = clips(model, prompt=PROMPT, first=place / "a.png", frames=9)
    assert found.shape == (2, 9, 16, 16, 3)
    assert np.array_equal(found[0, 0], x[0])
    with pytest.raises(Wrong, match="negative: a flow map has learned its guidance"):
        model.sample(1, negative="a hat")


def test_the_large_network_is_of_its_size_and_takes_its_shapes() -> None:
    """Of the class of Wan 2.1 1.3B: width 1536, 30 blocks, 12 heads, latents (21, 16, 60, 104), patch 2, context 4096 wide."""
    from sfumato.fields.video.network import Filmed

    with torch.device("meta"):
        network = Filmed(channels=16, width=1536, depth=30, heads=12, patch=2, context_dim=4096)
        x, states = torch.empty(1, 21, 16, 60, 104), torch.empty(1, 512, 4096)
        mask = torch.ones(1, 512, dtype=torch.bool)
        told = network.given(states, mask)
        assert network(x, torch.empty(1, 21), **told).shape == x.shape
    total = sum(p.numel() for p in network.parameters())
    assert total == pytest.approx(1.172e9, rel=1e-3)  # one layer modulates all blocks, theirs have one each
    with torch.device("meta"):
        wide = Filmed(
            channels=48, width=3072, depth=30, heads=24, patch=2, context_dim=4096, causal=True, attention="factored"
        )
        assert wide(torch.empty(1, 31, 48, 44, 80), torch.empty(1)).shape == (1, 31, 48, 44, 80)
    assert 4.5e9 < sum(p.numel() for p in wide.parameters()) < 6.5e9


def test_bf16_changes_little(place: Path) -> None:
    plain, low = (clips(load(place / "run", FAST, Drawing(precision=name)), prompt=PROMPT) for name in ("fp32", "bf16"))
    assert np.abs(plain.astype(float) - low).mean() < 8
