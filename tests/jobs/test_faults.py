"""Faults of use: what is damaged, unfinite, too large or begun twice is said in a line, and nothing is written or lost by it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.errors import NonFiniteSample, Wrong
from sfumato.fields.images.recipe import Images
from sfumato.jobs import train as job
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.card import card
from sfumato.jobs.config import Configuration, read_config
from sfumato.jobs.methods import MethodOptions
from sfumato.jobs.model import load
from sfumato.jobs.sample import sample
from sfumato.jobs.strict import ConfigError
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training import checkpoint, measure
from sfumato.training.ema import read_snapshots
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError, sealed, unsealed
from tests.training.small import child

from .small import SMALL, sfumato, write_data, write_pictures


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, never to be changed."""
    folder = tmp_path_factory.mktemp("faults")
    assert sfumato("train", *write_data("classes", folder), *SMALL, "--threads", "1", "--out", folder / "run") == 0
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def one_line(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command says of a fault: one line, and exit status 1."""
    capsys.readouterr()
    assert sfumato(*words) == 1
    said = capsys.readouterr().err
    assert said.startswith("sfumato: ")
    assert said.count("\n") == 1, said
    assert len(said) < 500
    return said


def flip(file: Path, at: int, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


# ---- nothing unfinite is shown -------------------------------------------------------------------------------------------


def spoil(model, low: float, value: float):
    """The model, whose answers for the second row are ``value`` below the time of this noise level."""
    inner = model.denoiser.network

    class Spoilt(torch.nn.Module):
        def forward(self, x, level, **condition):
            answer = inner(x, level, **condition).clone()
            if float(level.reshape(-1)[0]) < low:
                answer[1] = value
            return answer

        given = inner.given

    denoiser = dataclasses.replace(model.denoiser, network=Spoilt())
    return dataclasses.replace(model, denoiser=denoiser)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_no_pictures(value: float, finished: Path, tmp_path: Path):
    walk = Walk(solver="euler", steps=8, grid="uniform", eta=0.0, w=1.0, batch=4)
    model = spoil(load(finished, walk), 0.0, value)  # level 0 is t = 1/2 on the straight schedule
    with pytest.raises(NonFiniteSample, match="sample 1: not finite from step ") as caught:
        sample(model, 3, model.recipe.Ask(), tmp_path / "s")
    said = str(caught.value)
    assert "by the solver euler" in said
    at = float(said.partition("at t = ")[2].partition(",")[0])
    assert at == pytest.approx(0.375)  # the first stop below one half
    assert f"from step {1 + round((1 - at) * 8)} of 8 on" in said
    assert not (tmp_path / "s").exists()
    with pytest.raises(NonFiniteSample):
        model.sample(3)


def test_an_earlier_set_stays_where_the_new_one_is_not_finite(finished: Path, tmp_path: Path):
    model = load(finished, Walk(steps=2, batch=4))
    sample(model, 3, model.recipe.Ask(), tmp_path / "s")
    before = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    with pytest.raises(NonFiniteSample):
        sample(spoil(model, 99.0, float("nan")), 3, model.recipe.Ask(), tmp_path / "s")
    assert {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before


def test_a_field_may_look_after_bad_rows_itself(finished: Path):
    model = spoil(load(finished, Walk(solver="euler", steps=4, batch=4)), 99.0, float("nan"))
    queries = model.recipe.queries(model, model.recipe.Ask(), 3)
    (drawn,) = model.draw(queries, range(3), finite=False)
    assert drawn.x.isfinite().flatten(1).all(1).tolist() == [True, False, True]


NUMBERS = [(kind, f.name) for kind in (
    MethodOptions, Walk, Drawing, TrainOptions, OptimOptions, DistillOptions,
) for f in dataclasses.fields(kind) if "float" in str(f.type)]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_no_option_is_nan(kind: type, name: str):
    usual = {f.name: f.default for f in dataclasses.fields(kind)}[name]
    value = (float("nan"), 0.1) if isinstance(usual, tuple) else float("nan")
    with pytest.raises(Wrong, match=f"^{name} = .*nan"):
        kind(**{name: value})
    if name not in ("clip", "save_seconds"):  # where infinity means: no limit
        value = (0.05, float("inf")) if isinstance(usual, tuple) else float("inf")
        with pytest.raises(Wrong):
            kind(**{name: value})


@pytest.mark.parametrize("verb", [TrainOptions, Drawing])
def test_a_seed_fits_into_63_bits(verb: type):
    assert verb(seed=2**63 - 1).seed == 2**63 - 1
    for seed in (2**63, 2**128 - 1, -(2**63)):
        with pytest.raises(Wrong, match="63 bits"):
            verb(seed=seed)


def test_a_cpu_samples_in_fp32_even_where_it_multiplies_bf16(finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sfumato.training.objective.bf16_pays", lambda device: True)
    drawn = []
    for batch in (1, 8):
        model = load(finished, Walk(steps=4, batch=batch))
        assert model.denoiser.network.bf16 is False
        queries = model.recipe.queries(model, model.recipe.Ask(), 4)
        drawn.append(torch.cat([part.x for part in model.draw(queries, range(4))]))
    assert (drawn[0] - drawn[1]).abs().max() < 1e-4
    assert load(finished, drawing=Drawing(precision="bf16")).denoiser.network.bf16


# ---- memory --------------------------------------------------------------------------------------------------------------


def test_sampling_halves_the_batch_where_memory_ends(finished: Path, capsys: pytest.CaptureFixture[str]):
    model = load(finished, Walk(steps=3, batch=8, w=1.0))
    inner = model.denoiser.network
    sizes: list[int] = []

    class Small(torch.nn.Module):
        def forward(self, x, level, **condition):
            sizes.append(len(x))
            if len(x) > 3:
                raise torch.OutOfMemoryError("out of memory")
            return inner(x, level, **condition)

        given = inner.given

    small = dataclasses.replace(model, denoiser=dataclasses.replace(model.denoiser, network=Small()))
    for found, wanted in zip(small.sample(5), model.sample(5), strict=True):
        assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1
    assert sizes[:3] == [8, 4, 2]
    assert "out of memory with 8 samples at once: 4 from here on (--batch 4)" in capsys.readouterr().err


@pytest.mark.parametrize("fits", [True, False])
def test_a_plan_that_does_not_fit_learns_in_pieces(fits: bool, tmp_path: Path, monkeypatch, capsys):
    words, tried = write_data("array", tmp_path), []

    def measured(task, options, batch):
        tried.append(options.accumulate)
        if not fits or options.accumulate < 4:
            raise torch.OutOfMemoryError("out of memory")
        return measure.Cost(0.1, 0.1, 1)

    monkeypatch.setattr(measure, "measure_threads", measured)
    code = sfumato("train", *words, *SMALL, "--out", tmp_path / "run")
    said = capsys.readouterr().err
    if fits:
        assert code == 0
        assert tried == [1, 2, 4]
        assert read_config(Run(tmp_path / "run")).training.accumulate == 4
        assert "out of memory with 4 samples at once: --accumulate 4" in said
    else:
        assert code == 1
        assert tried == [1, 2, 4, 8]
        assert said.splitlines()[-1].startswith("sfumato: out of memory even with one sample of the batch of 8")
        assert not (tmp_path / "run").exists()


# ---- checksums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["model", "snapshot"])
def test_every_flipped_bit_of_weights_is_found(part: str, run: Path):
    files = {"model": run / "model.safetensors", "snapshot": run / "snapshots" / "step-00000005.safetensors"}
    file = files[part]
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    head = 8 + int.from_bytes(whole[:8], "little")
    look = {"model": lambda: checkpoint.read_tensors(file), "snapshot": lambda: read_snapshots(run / "snapshots")}[part]
    look()
    for at in [*range(8), *rng.integers(8, head, 150).tolist(), *rng.integers(head, len(whole), 60).tolist()]:
        flip(file, at, int(rng.integers(8)))
        with pytest.raises(checkpoint.CheckpointError, match=str(file)) as caught:
            look()
        assert "\n" not in str(caught.value)
        file.write_bytes(whole)


def test_weights_without_a_checksum_are_those_of_older_revisions(run: Path):
    from safetensors.torch import save_file

    weights, about = checkpoint.read_weights(run / "model.safetensors")
    save_file(weights, run / "model.safetensors", about)
    assert load(run, Walk(steps=2)).sample(1)
    save_file(weights, run / "model.safetensors")
    with pytest.raises(RunError, match="does not say of which network it is"):
        load(run)


@pytest.mark.parametrize(
    "name", ["cache/split.npz", "cache/pictures.npy", "cache/names.json", "data.json", "checksums.json"]
)
@pytest.mark.parametrize("verb", ["resume", "evaluate", "distill"])
def test_a_flipped_bit_in_what_was_prepared_names_the_file(name: str, verb: str, run: Path, capsys):
    flip(run / name, (run / name).stat().st_size // 2)
    assert str(run / name) in one_line(capsys, verb, run)
    (run / name).unlink()
    if name != "checksums.json":  # a run of an older revision has none
        assert f"{name}: " in one_line(capsys, verb, run)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        '{"angles": [1], "progress": []}',
        '{"angles": [NaN], "progress": [0]}',
        '{"angles": [1' + "0" * 400 + '], "progress": [0]}',
        "x" * 9,
    ],
)
@pytest.mark.parametrize("name", ["walk.json", "grid.json"])
def test_a_damaged_walk_is_one_line(text: str, name: str, run: Path, tmp_path: Path, capsys):
    (run / "walk.json").unlink()
    (run / name).write_text(text)
    assert f"{run / name}: cannot be read" in one_line(capsys, "sample", run, "-n", 1, "--out", tmp_path / "s")


def test_every_flipped_bit_of_a_sealed_file_is_found():
    text = sealed({"angles": [0.1, 0.25], "progress": [0.0, 1.0]})
    assert unsealed(text) == {"angles": [0.1, 0.25], "progress": [0.0, 1.0]}
    assert unsealed(json.dumps({"angles": [0.5]})) == {"angles": [0.5]}
    missed = []
    for at in range(len(text)):
        for bit in range(7):
            changed = text[:at] + chr(ord(text[at]) ^ (1 << bit)) + text[at + 1 :]
            try:
                found = unsealed(changed)
            except ValueError:
                continue
            missed.append((at, found))
    # in the name of the checksum itself it is not found, and there it does no harm: all numbers are as they were
    assert all(found["angles"] == [0.1, 0.25] and found["progress"] == [0.0, 1.0] for _, found in missed)


def test_a_width_edited_in_the_configuration_is_named(run: Path, tmp_path: Path, capsys):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("width: 32", "width: 48").replace("steps: 10\n", "steps: 20\n"))
    assert "is of another network (width was 32 and is 48)" in one_line(capsys, "resume", run)
    (run / "model.safetensors").unlink()
    assert sfumato("sample", run, "-n", 1, "--out", tmp_path / "s") == 1
    assert "is of another network" in capsys.readouterr().err.splitlines()[-1]


# ---- YAML ----------------------------------------------------------------------------------------------------------------


def bomb(depth: int, key: str = "ema") -> str:
    lines = ["  steps: &b0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"  {key}: &b{i} [{','.join([f'*b{i - 1}'] * 10)}]" for i in range(1, depth)]
    return "training:\n" + "\n".join(lines) + "\n"


BOMBS = {
    "aliases of aliases": (bomb(9), "stands for more than 10,000 values"),
    "aliases in a mapping": ("images: {network: &a {width: &b [1,1], depth: *b}}\n" + bomb(7), "stands for more than"),
    "itself": ("training: &a [*a]\n", "a value that contains itself"),
    "very deep": ("training: {ema: " + "[" * 5000 + "]" * 5000 + "}", "nested too deeply"),
    "very long": ("# " + "x" * 2**21 + "\n", "characters; options are"),
    "a number of many digits": ("training: {seed: " + "1" * 6000 + "}", "training.seed"),
    "a date that is none": ("training: {seed: 2001-99-99}", "training.seed"),
    "a long word": ("training: {seed: " + "x" * 5000 + "}", "expected a whole number"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_of_options_is_bounded_before_it_is_unpacked_or_shown(kind: str, run: Path, tmp_path: Path, capsys):
    text, message = BOMBS[kind]
    with pytest.raises(ConfigError, match=message) as caught:
        Configuration.from_yaml(text, "my.yaml", Configuration(Images(Path("photos"))))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    (run / "config.yaml").write_text(text)
    assert message in one_line(capsys, "sample", run, "-n", 1, "--out", tmp_path / "s")


def test_a_few_aliases_are_fine():
    base = Configuration(Images(Path("photos")))
    found = Configuration.from_yaml("training: {ema: &a [0.05, 0.1], optim: {betas: *a}}", "my.yaml", base)
    assert found.training.optim.betas == (0.05, 0.1)


# ---- beginnings and ends -------------------------------------------------------------------------------------------------


def test_a_start_that_fails_leaves_nothing(tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    one_line(capsys, "train", tmp_path / "empty", "--out", tmp_path / "runs" / "deep" / "run")
    assert not (tmp_path / "runs").exists()
    mine = tmp_path / "mine"
    (mine / "samples").mkdir(parents=True)
    (mine / "notes.txt").write_text("keep")
    one_line(capsys, "train", tmp_path / "empty", "--out", mine)
    assert sorted(path.name for path in mine.rglob("*")) == ["notes.txt", "samples"]
    words = write_data("array", tmp_path)
    with monkeypatch.context() as patch:  # as late as can be, and by a signal
        patch.setattr(job, "plan", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert sfumato("train", *words, *SMALL, "--out", tmp_path / "runs" / "run") == 130
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("phase", ["the data are read", "the speed is measured"])
def test_a_signal_before_the_first_step_ends_at_once_and_leaves_nothing(number: int, phase: str, tmp_path: Path):
    words = write_data("pictures", tmp_path)

    def work() -> None:
        where, name = (Images, "prepare") if phase == "the data are read" else (measure, "measure_threads")
        plain = getattr(where, name)

        def called(*arguments, **named):
            signal.raise_signal(number)
            return plain(*arguments, **named)

        setattr(where, name, called)
        raise SystemExit(sfumato("train", *words, *SMALL, "--out", tmp_path / "runs" / "run"))

    assert child(work) == 128 + number
    assert not (tmp_path / "runs").exists()


def test_a_conversion_that_fails_leaves_nothing(finished: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(measure, "measure", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sfumato("distill", finished, "--steps", 2, "--out", tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_the_card_that_cannot_be_written_ends_no_run(tmp_path: Path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "card", full)
    assert sfumato("train", *write_data("array", tmp_path), *SMALL, "--out", tmp_path / "run") == 0
    assert "warning: README.md failed ([Errno 28] No space left on device)" in capsys.readouterr().err


def test_the_card_of_an_unfinished_run_tells_the_step_that_samples_are_of(run: Path):
    card(Run(run))
    assert "- steps: 10 of 10" in (run / "README.md").read_text()
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    card(Run(run))
    assert "- steps: 0 of 10" in (run / "README.md").read_text()


def test_a_run_is_made_longer_and_shorter(run: Path, capsys):
    with pytest.raises(RunError, match="10 steps are done already"):
        job.resume(run, 5)
    assert read_config(Run(run)).training.steps == 10
    with pytest.raises(Wrong):
        job.resume(run, 0)
    said: list[str] = []
    job.resume(run, 14, said.append)
    config = read_config(Run(run))
    assert config.training.steps == 14
    assert checkpoint.newest(run / "checkpoints")[0].name == "step-00000014"
    assert "14 instead of 10: after step 10 the learning rate goes from 25% to 71% of its peak" in said[0]
    assert "rises again" in said[1]
    _, about = checkpoint.read_weights(run / "model.safetensors")
    assert about["step"] == "14"


def test_an_unfinished_run_ends_where_it_is(run: Path):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("steps: 10\n", "steps: 99\n"))
    (run / "model.safetensors").unlink()
    job.resume(run, 10)
    assert (run / "model.safetensors").is_file()


def asked(run: Path, **changes):
    """The command that made the run, as options, with changes."""
    data = read_config(Run(run)).recipe.data
    network = dataclasses.replace(read_config(Run(run)).recipe.network, width=changes.pop("width", 32))
    recipe = Images(Path(changes.pop("data", data)), side=8, labels=True, held_out=0.4, network=network)
    return recipe, dataclasses.replace(TrainOptions(steps=10, batch=8, previews=2, snapshots=2, threads=1), **changes)


@pytest.mark.parametrize(("changes", "message"), [
    ({"steps": 20}, "steps: the run has 10, asked is 20"), ({"seed": 3}, "seed: the run has 0, asked is 3"),
    ({"width": 64}, "network.width: the run has 32, asked is 64"), ({"data": "elsewhere"}, "asked is 'elsewhere'"),
])  # fmt: skip
def test_the_same_command_goes_on_and_another_is_refused_with_the_difference(
    changes, message: str, finished: Path, monkeypatch
):
    job.same_run(Run(finished), *asked(finished))
    open_ = asked(finished)
    job.same_run(
        Run(finished), dataclasses.replace(open_[0], side=None), dataclasses.replace(open_[1], steps=None, batch=None)
    )
    monkeypatch.chdir(Path(open_[0].data).parent)  # the same place by another name
    job.same_run(Run(finished), dataclasses.replace(open_[0], data=Path(open_[0].data.name)), open_[1])
    with pytest.raises(RunError, match="of other options") as caught:
        job.same_run(Run(finished), *asked(finished, **changes))
    assert message in str(caught.value)


def test_one_process_of_several_refuses_and_none_waits_for_it(finished: Path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    agreed: list[bool] = []

    class Two:
        first, world = True, 2

        def agree(self, flag: bool) -> bool:
            agreed.append(flag)
            return flag

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr("sfumato.training.parallel.launched", Two)
    recipe, training = asked(finished, steps=99)
    with pytest.raises(RunError, match="steps: the run has 10, asked is 99"):
        job.train(recipe, training, finished)
    assert agreed == [True]
    Two.first, Two.agree = False, lambda self, flag: True
    with pytest.raises(SystemExit):
        job.train(recipe, training, finished)


# ---- evaluation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "message"), [
    (["-n", "5"], "5 samples are too few"), (["--features", "nothing"], "features = 'nothing'"),
    (["--features", "gone.onnx"], "gone.onnx"), (["--inception", "gone.pth"], "gone.pth"),
])  # fmt: skip
def test_an_evaluation_finds_at_its_start_what_it_lacks(words, message: str, run: Path, capsys, monkeypatch):
    monkeypatch.setattr("sfumato.diffusion.generate", lambda *_, **__: pytest.fail("the network was called"))
    assert message in one_line(capsys, "evaluate", run, "--quick", *words)


def test_pictures_are_written_for_pipes_that_end_early(tmp_path: Path, monkeypatch):
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        flush = write

        def isatty(self) -> bool:
            return False

        encoding = "utf-8"

    write_pictures(tmp_path / "photos")
    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr(Gone, "flush", lambda self: None)
    loop_options = [*SMALL, "--threads", "1"]
    assert sfumato("train", tmp_path / "photos", "--side", "8", *loop_options, "--out", tmp_path / "run") == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_no_verb_lets_other_packages_warnings_through(finished: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder):
    """torch's own of things that are to change, which nobody who trains can mend."""
    assert sfumato("train", *write_data("array", tmp_path), *SMALL, "--threads", "1", "--out", tmp_path / "run") == 0
    assert sfumato("sample", finished, "-n", 2, "--steps", 2, "--out", tmp_path / "s") == 0
    assert sfumato("evaluate", tmp_path / "run", "--steps", 2, "--quick") == 0
    assert [str(each.message) for each in recwarn if not issubclass(each.category, DeprecationWarning)] == []
