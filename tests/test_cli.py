"""The command: quick help, every way to write an option, and one line for every mistake."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sfumato.jobs import find
from sfumato.jobs import train as job
from sfumato.jobs.config import read_config
from sfumato.training.run import Run
from tests.jobs.small import SMALL, sfumato, write_data, write_pictures

VERBS = ("demo", "inspect", "train", "resume", "sample", "evaluate", "distill", "compare", "serve", "export", "doctor")
RUNS = Path(__file__).parent / "runs" / "a3fdda3"


def in_a_process(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)


# ---- help ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [
    ["--help"], ["train", "--help"], ["train", "policy", "--help-all"], ["train", "tables", "--help"], ["train", "--stepps", "3"],
    ["evaluate", str(RUNS / "policy"), "--help"], ["train", "x", "--epochs", "3"], ["--version"], [],
])  # fmt: skip
def test_words_about_the_command_need_no_torch(words: list[str]):
    code = (
        "import sys; sys.argv = ['sfumato', *sys.argv[1:]]\n"
        "from sfumato.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('HEAVY', sorted({'torch', 'numpy', 'PIL', 'matplotlib', 'safetensors'} & set(sys.modules)))"
    )
    done = in_a_process(code, *words)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


def test_the_status_stands_whatever_threads_still_do():
    """A thread in the middle of torch would abort the process as Python ends; what waits for the end runs all the same."""
    code = (
        "import atexit, threading, time, torch\n"
        "from sfumato import cli\n"
        "big = torch.randn(300, 300)\n"
        "def busy():\n"
        "    while True: big @ big\n"
        "for _ in range(3): threading.Thread(target=busy, daemon=True).start()\n"
        "atexit.register(print, 'left')\n"
        "cli.main = lambda: print('said') or 7\n"
        "time.sleep(0.1)\n"
        "cli.command()"
    )
    done = in_a_process(code)
    assert (done.returncode, done.stdout.split()) == (7, ["said", "left"]), done.stderr


def test_what_torch_says_of_itself_is_not_said_to_people():
    """Torch 2.14 deprecates a function that it calls itself; other warnings of the future are shown."""
    code = (
        "import sys, warnings\n"
        "from sfumato import cli\n"
        "def main():\n"
        "    warnings.warn('`torch.jit.script` is deprecated. Please switch', FutureWarning)\n"
        "    warnings.warn(sys.argv[1], FutureWarning)\n"
        "    return 0\n"
        "cli.main = main\n"
        "cli.command()"
    )
    done = in_a_process(code, "another of them")
    assert "another of them" in done.stderr
    assert "torch.jit" not in done.stderr


FIELDS = """
import sys
from pathlib import Path
import sfumato.fields
home = Path(sys.argv.pop(1))
for name in sys.argv.pop(1).split():
    (home / name).mkdir(exist_ok=True)
    (home / name / "__init__.py").write_text(f'"The line of {name}."')
    (home / name / "recipe.py").write_text("raise SystemExit('imported')")
sfumato.fields.__path__.append(str(home))
from sfumato.cli import main
try: main(["--help"])
except SystemExit as error: assert not error.code, error
print("LOADED", len(sys.modules), sorted(name for name in sys.modules if name.startswith("sfumato.fields.")))
"""


def test_the_help_lists_all_fields_and_imports_none_but_the_plain_one(tmp_path: Path):
    """So that it does not grow slower with more fields: what is loaded is counted, not timed."""
    few, many = (in_a_process(FIELDS, str(tmp_path), names).stdout for names in ("one", "one two three four five six"))
    loaded = [text.split("LOADED ")[1] for text in (few, many)]
    assert loaded[0] == loaded[1]
    assert all(name.startswith("sfumato.fields.images") for name in re.findall(r"sfumato[\w.]+", loaded[0]))
    assert int(loaded[0].split()[0]) < 1000  # twice what it was at first
    assert re.search(r"^  six +The line of six\.$", many, re.M)
    for name in find.names():
        assert re.search(rf"^  {name} +{re.escape(find.line(name)[:30])}", few, re.M)
        assert find.line(name)


@pytest.mark.slow
def test_the_help_takes_a_moment():
    """CPU seconds of 0.26 when this was written; an import of torch alone takes 1.8."""
    best = 9.0
    for _ in range(5):
        before = os.times()
        in_a_process("import sys; from sfumato.cli import main; main(['--help'])")
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    assert best < 0.8


@pytest.mark.parametrize(("run", "there", "absent"), [
    ("classes", ["--label", "Class to draw from", "--solver", "--like", "--walk"], ["--task", "--environment"]),
    ("policy", ["--label", "Task to draw for", "--solver"], ["Class to draw from"]),
])  # fmt: skip
def test_the_help_of_sample_is_that_of_the_runs_field(run: str, there, absent, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        sfumato("sample", Path(__file__).parent / "runs" / "a3fdda3" / run, "--help")
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert [word for word in there if word not in out] == []
    assert [word for word in absent if word in out] == []


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_every_verb_has_help(verb: str | None, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        sfumato(*([verb] if verb else []), "--help")
    assert not caught.value.code
    out = capsys.readouterr().out
    if verb is None:
        assert all(name in out for name in VERBS)
    if verb in ("train", "inspect"):
        assert all(option in out for option in ("--steps", "--optim.lr", "--network.width", "--side", "--labels"))
    if verb in ("sample", "evaluate"):
        assert all(option in out for option in ("--steps", "--solver", "--seed"))


PAGES = [[], *([verb] for verb in VERBS), ["train", "policy"], ["train", "tables"], ["inspect", "tables"],
         *([verb, str(RUNS / run)]
           for verb in ("sample", "evaluate") for run in ("classes", "policy", "classes_map"))]  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_help_is_one_screen(words: list[str], width: int, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        sfumato(*words, "--help")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= width + len(str(RUNS))  # where it repeats the folder that was given


@pytest.mark.parametrize("words", [["evaluate", "classes"], ["sample", "classes"]])
def test_help_mixes_no_fields(words: list[str], capsys: pytest.CaptureFixture[str]):
    pages = {}
    for name in ("classes", "policy"):
        with pytest.raises(SystemExit):
            sfumato(words[0], RUNS / name, "--help-all")
        pages[name] = capsys.readouterr().out
    with pytest.raises(SystemExit):
        sfumato(words[0], "--help-all")
    nothing = capsys.readouterr().out
    assert "--vector" in pages["classes"]
    assert "--vector" not in pages["policy"]
    assert "--vector" not in nothing
    assert "--environment" not in pages["classes"] + nothing
    assert ("--environment" in pages["policy"]) == (words[0] == "evaluate")


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]):
    from sfumato.cli import _options
    from sfumato.jobs import find
    from sfumato.jobs.verbs import VERBS as CLASSES

    for verb in CLASSES:
        for name in find.names():
            bare = [option.name for option in _options(verb, name) if len(option.words) < 5]
            assert bare == [], f"{verb} {name}"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]):
    import sfumato as package

    with pytest.raises(SystemExit) as left:
        sfumato("--version")
    assert not left.value.code
    assert capsys.readouterr().out == f"sfumato {package.__version__}\n"


# ---- options -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch):
    """What `train` is asked to do, without doing it."""
    found: list = []

    def train(recipe, training, out):
        found.append((recipe, training, out))
        return Run(out)

    monkeypatch.setattr(job, "train", train)
    return found


@pytest.mark.parametrize("words", [
    ["--optim.lr", "3e-4", "--side", "16", "--labels"], ["optim.lr=3e-4", "side=16", "--labels"],
    ["--optim.lr=3e-4", "--side=16", "--labels"], ["--labels", "--side", "16", "optim.lr=3e-4"],
])  # fmt: skip
def test_options_may_be_written_in_three_ways(words: list[str], asked):
    assert sfumato("train", "photos", *words) == 0
    ((recipe, training, out),) = asked
    assert training.optim.lr == 3e-4
    assert recipe.side == 16
    assert recipe.labels
    assert recipe.data == Path("photos")
    assert out == Path("runs/photos")


@pytest.mark.parametrize(("given", "name"), [(".", "here"), ("..", "above"), ("./a.npy", "a"), ("x=1/y", "y")])
def test_a_run_is_named_after_its_data(given: str, name: str, asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = tmp_path / "above" / "here"
    (here / "x=1" / "y").mkdir(parents=True)
    monkeypatch.chdir(here)
    assert sfumato("train", given) == 0
    assert asked[0][2] == Path("runs") / name


def test_a_file_of_options_is_overridden_by_the_command_line(asked, tmp_path: Path):
    config = tmp_path / "my.yaml"
    config.write_text(
        "images:\n  data: elsewhere\n  side: 24\ntraining:\n  steps: 7\n  optim: {lr: 3e-4, betas: [0.5, 0.6]}\n"
    )
    assert sfumato("train", "photos", "--config", config, "--steps", "9") == 0
    assert sfumato("train", "--config", config, "--out", "there") == 0
    assert sfumato("train", f"--config={config}", "photos", "optim.lr=1e-2") == 0
    config.write_text("training: {steps: 3}\n")
    assert sfumato("train", "photos", "--config", config) == 0
    first, second, third, fourth = asked
    assert (fourth[0].data, fourth[1].steps) == (Path("photos"), 3)
    assert (first[0].data, first[0].side, first[1].steps) == (Path("photos"), 24, 9)
    assert first[1].optim.betas == (0.5, 0.6)
    assert (second[0].data, second[1].steps, second[2]) == (Path("elsewhere"), 7, Path("there"))
    assert (third[1].steps, third[1].optim.lr, third[1].optim.betas) == (7, 1e-2, (0.5, 0.6))


def test_the_configuration_of_a_run_makes_the_same_run(tmp_path: Path):
    words = write_data("array", tmp_path)
    assert sfumato("train", *words, *SMALL, "--out", tmp_path / "one") == 0
    assert sfumato("train", "--config", tmp_path / "one" / "config.yaml", "--out", tmp_path / "two") == 0
    assert read_config(Run(tmp_path / "one")) == read_config(Run(tmp_path / "two"))
    losses = [[r.get("loss") for r in Run(tmp_path / name).records()] for name in ("one", "two")]
    assert losses[0] == losses[1]
    assert any(losses[0])


@pytest.mark.parametrize(("words", "right"), [
    (["train", "photos", "--stepps", "3"], "--steps"), (["train", "photos", "optim.lrr=3"], "--optim.lr"),
    (["sample", "run", "--sovler", "euler"], "--solver"), (["train", "photos", "--network.kind", "dot"], "dit"),
    (["trian", "photos"], "train"), (["train", "photos", "--mehtod.times", "uniform"], "--method.times"),
    (["train"], "PATH"), (["train", "photos", "--steps", "many"], "whole number"),
    (["train", "photos", "--steps"], "--steps wants N"),
    (["train", "photos", "--ema", "0.1"], "--ema wants 2 values"), (["train", "photos", "labels=perhaps"], "true or false"),
    (["train", "photos", "more"], "does not know what to do with 'more'"), (["train", "photos", "-x"], "no option -x"),
    (["train", "photos", "--out", "--stepps", "3"], "--out wants PATH"),
    (["train", "policy", "d", "--observations", "state", "--stepps", "3"], "did you mean --steps"),
    (["photos"], "no verb 'photos'"), (["eval", "run"], "evaluate"), (["generate", "run"], "sample"),
    (["."], "sfumato train ."),
    # what other tools call it
    (["train", "photos", "--epochs", "3"], "--steps N or --minutes M"), (["train", "photos", "--batch-size", "3"], "--batch N"),
    (["train", "photos", "--bs=3"], "--batch N"), (["train", "photos", "lr=3"], "--optim.lr"),
    (["train", "photos", "--learning_rate", "3"], "--optim.lr"),
    (["train", "photos", "--device", "cuda"], "CUDA_VISIBLE_DEVICES"),
    (["train", "photos", "--num-workers", "3"], "--workers N"), (["train", "photos", "--output", "x"], "--out PATH"),
    (["train", "photos", "--resume"], "sfumato resume RUN"),
    (["train", "photos", "--cfg", "3"], "--w X is one of `sfumato sample`"),
    (["train", "--data", "photos"], "sfumato train PATH"), (["train", "photos", "--resolution", "64"], "--side N"),
    (["sample", "run", "--num_samples", "3"], "-n N"), (["sample", "run", "--guidance-scale", "3"], "--w X"),
    (["sample", "run", "--num-inference-steps", "3"], "--steps N"),
    (["resume", "run", "--epochs", "3"], "resume RUN --steps N"),
    (["sample", "--ckpt", "run"], "sfumato sample RUN"), (["train", "photos", "--wandb"], "log.jsonl"),
    (["train", "tables", "rows.csv", "--side", "3"], "--side N is one of `sfumato inspect`"),
])  # fmt: skip
def test_what_is_misspelt_is_answered_with_what_is_right(words, right, asked, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        sfumato(*words)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert right in err
    assert len(err.splitlines()) == 1
    assert err.startswith("sfumato: ")
    assert asked == []


@pytest.mark.parametrize(("words", "what"), [
    (["--label", "a=1"], ("ask.label", "a=1")), (["--label=a=1"], ("ask.label", "a=1")), (["label=a=1"], ("ask.label", "a=1")),
    (["--out", "seed=3"], ("out", Path("seed=3"))), (["--out", "lr=0.1"], ("out", Path("lr=0.1"))),
    (["--w", "-1.5"], ("walk.w", -1.5)), (["--w=-1.5"], ("walk.w", -1.5)), (["w=-1.5"], ("walk.w", -1.5)),
    (["--vector", "-1", "2"], ("ask.vector", (-1.0, 2.0))), (["vector=-1,2"], ("ask.vector", (-1.0, 2.0))),
    (["--guide-from", "0.1"], ("walk.guide_from", 0.1)), (["--guide_from", "0.1"], ("walk.guide_from", 0.1)),
    (["guide-from=0.1"], ("walk.guide_from", 0.1)), (["-n", "4"], ("n", 4)), (["-n4"], ("n", 4)), (["n=4"], ("n", 4)),
    (["--n", "1e3"], ("n", 1000)), (["--solver", "churn:churn=2.5,low=0.75"], ("walk.solver", "churn:churn=2.5,low=0.75")),
    (["--steps", "None"], ("walk.steps", None)), (["--label", "None"], ("ask.label", None)),
    (["--label=--odd"], ("ask.label", "--odd")), (["--seed", "1", "--seed", "2"], ("drawing.seed", 2)),
])  # fmt: skip
def test_a_value_is_what_was_typed(words: list[str], what: tuple):
    from operator import attrgetter

    from sfumato.cli import _parse

    name, value = what
    for given in (["sample", "run", *words], ["sample", *words, "--", "run"]):
        made = _parse(given)
        assert attrgetter(name)(made) == value
        assert made.run == Path("run")


@pytest.mark.parametrize(("words", "labels", "uncertainty"), [
    (["--labels"], True, False), (["labels=true"], True, False), (["labels=false"], False, False),
    (["--labels=no"], False, False),
    (["--no-labels"], False, False), (["--labels", "true"], True, False), (["--method.uncertainty"], False, True),
    (["--labels", "--no-labels"], False, False), (["--method.no-uncertainty"], False, False),
    (["method.uncertainty=1"], False, True),
])  # fmt: skip
def test_switches_are_turned_on_and_off(words: list[str], labels: bool, uncertainty: bool, asked):
    assert sfumato("train", "photos", *words) == 0
    assert (asked[0][0].labels, asked[0][0].method.uncertainty) == (labels, uncertainty)


def test_names_with_signs_of_equality_are_kept(asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed=3").mkdir()
    assert sfumato("train", "seed=3", "seed=4") == 0  # a folder in its place, then an option
    assert sfumato("train", "photos", "seed=3") == 0
    assert sfumato("train", "tables", "rows.csv", "--kind", "AGE=category", "SEX=category", "steps=3") == 0
    assert sfumato("train", "tables", "rows.csv", "--kind", "steps=number") == 0
    first, second, third, fourth = asked
    assert (first[0].data, first[1].seed) == (Path("seed=3"), 4)
    assert (second[0].data, second[1].seed) == (Path("photos"), 3)
    assert fourth[0].kind == ("steps=number",)
    assert dict(fourth[0]._kinds()) == {"steps": "number"}
    assert (third[0].kind, third[1].steps) == (("AGE=category", "SEX=category"), 3)


@pytest.mark.parametrize("given", ["--epochs 10", "--epochs=10", "epochs=10", "--num_train_epochs 10"])
def test_epochs_are_told_in_steps(given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_pictures(tmp_path / "photos", 24)
    with pytest.raises(SystemExit):
        sfumato("train", tmp_path / "photos", *given.split(), "--batch-size", "8")
    assert "10 epochs of these about 24 in batches of 8: --steps 30" in capsys.readouterr().err


def test_resume_passes_its_steps_only_when_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    seen: list = []

    def resume(out: Path, **more: int) -> Run:
        seen.append(more)
        return Run(out)

    monkeypatch.setattr(job, "resume", resume)
    assert sfumato("resume", tmp_path) == 0
    assert sfumato("resume", tmp_path, "--steps", "500") == 0
    assert seen == [{}, {"steps": 500}]


# ---- one line for every mistake ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that mistakes are made with."""
    folder = tmp_path_factory.mktemp("world")
    write_pictures(folder / "photos", 20)
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("a")
    (folder / "file").write_text("not a picture")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text("images: {data: photos}")
    (folder / "torn").mkdir()
    (folder / "torn" / "config.yaml").write_text("images: {data: photos}\ntraining:\n  stepps: 3\n")
    (folder / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "typo.yaml").write_text("training:\n  batch: 8\n  stepps: 3\n")
    (folder / "wrong.yaml").write_text("training:\n  steps: lots\n")
    np.save(folder / "nan.npy", np.array([[1.0, 2.0], [np.nan, 3.0]]))
    np.save(folder / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    (folder / "cut.npy").write_bytes((folder / "nan.npy").read_bytes()[:-8])
    return folder


MISTAKES = {
    "a missing folder": ("train {w}/none", "{w}/none: no such folder"),
    "a missing array": ("train {w}/none.npy", "{w}/none.npy: file not found; expected a .npy or .npz file"),
    "a file for a folder": ("train {w}/file", "{w}/file: not a folder; expected pictures in it"),
    "an empty folder": ("train {w}/empty", "{w}/empty: no pictures in it or its sub-folders"),
    "a folder without pictures": ("inspect {w}/texts", "found 1 .txt"),
    "labels without sub-folders": ("train {w}/photos --labels", "each picture must lie in a sub-folder named after it"),
    "NaN in an array": ("train {w}/nan.npy", "{w}/nan.npy[1]: contains NaN or infinity"),
    "objects in an array": ("train {w}/objects.npy", "save plain numbers instead"),
    "an array cut short": ("train {w}/cut.npy", "truncated"),
    "a place that is a file": ("train {w}/photos --out {w}/file/run", "choose another folder with --out"),
    "a run that is there": ("train {w}/photos --out {w}/run", "go on with `sfumato resume {w}/run`, or give another --out"),
    "to resume no run": ("resume {w}/photos", "{w}/photos: not a run (no config.yaml)"),
    "to resume nothing": ("resume {w}/none", "{w}/none: not a run (no config.yaml)"),
    "to sample no run": ("sample {w}/photos", "give the folder that `sfumato train --out` made"),
    "to score no run": ("evaluate {w}/photos", "give the folder that `sfumato train --out` made"),
    "to sample too early": ("sample {w}/run", "data.json: cannot be read"),
    "a side of nothing": ("train {w}/photos --side 0", "side = 0: must be at least 4 pixels"),
    "no steps": ("train {w}/photos --steps 0", "steps = 0: must be at least 1"),
    "fewer steps than none": ("train {w}/photos --steps -5", "steps = -5: must be at least 1"),
    "all held out": ("train {w}/photos --held-out 1", "held_out = 1.0: must be a share between 0 and 1"),
    "no workers": ("train {w}/photos --workers -1", "workers = -1: must be 0 or more"),
    "pieces that do not fit": ("train {w}/photos --batch 8 --accumulate 3", "accumulate = 3: must be a divisor of the batch 8"),
    "equal averages": ("train {w}/photos --ema 0.1 0.1", "ema = (0.1, 0.1): must be two different widths"),
    "a patch for a U-Net": ("train {w}/photos --network.kind unet --network.patch 2 --out {o}", "kind unet has no patches"),
    "a patch that does not fit": ("train {w}/photos --side 8 --network.patch 3 --out {o}", "3"),
    "an MLP for pictures": ("train {w}/photos --network.kind mlp --out {o}", "kind mlp cannot take items of shape (3, 12, 12)"),
    "options that are missing": ("train {w}/photos --config {w}/none.yaml", "--config wants a YAML file"),
    "options that are no text": ("train {w}/photos --config {w}/bad.yaml", "{w}/bad.yaml: cannot be read (not UTF-8 text)"),
    "options without a file": ("train {w}/photos --config", "--config wants a YAML file"),
    "options misspelt": ("train --config {w}/typo.yaml", "typo.yaml:3: unknown key 'training.stepps'; did you mean 'steps'?"),
    "options of a wrong kind": ("train --config {w}/wrong.yaml", "wrong.yaml:2: training.steps = 'lots': expected a whole"),
    "a run with a torn configuration": ("resume {w}/torn", "config.yaml:3: unknown key 'training.stepps'"),
    "a demo over something else": ("demo --out {w}/photos", "{w}/photos: is not empty and not an earlier demo"),
    "a demo over a file": ("demo --out {w}/file", "{w}/file: "),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_a_remedy(
    mistake: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command, message = MISTAKES[mistake]
    words = command.format(w=world, o=tmp_path / "out").split()
    if words[0] == "train" and "--out" not in words:
        words[2:2] = ["--out", str(tmp_path / "out")] if words[1] != "--config" else []
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    assert sfumato(*words) == 1
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("look at pictures")]
    assert len(lines) == 1
    assert lines[0].startswith("sfumato: ")
    assert message.format(w=world) in lines[0]
    assert out == ""
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_the_missing_right_to_write_is_one_line(world: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    write = Path.write_bytes

    def denied(path: Path, data: bytes) -> int:
        if path.name.startswith(".writable"):
            raise PermissionError(13, "Permission denied", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", denied)
    assert sfumato("train", world / "photos", "--out", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert (
        err == f"sfumato: {tmp_path / 'out'}: cannot write here (Permission denied); choose another folder with --out\n"
    )


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def broken(*_):
        raise KeyError("ours")

    monkeypatch.setattr(job, "resume", broken)
    with pytest.raises(KeyError):
        sfumato("resume", "anything")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_more_is_one_line(number: int, monkeypatch, capsys: pytest.CaptureFixture[str]):
    def full(*_):
        raise OSError(number, os.strerror(number), "runs/x/file")

    monkeypatch.setattr(job, "resume", full)
    assert sfumato("resume", "anything") == 1
    said = f"sfumato: runs/x/file: cannot be written ({os.strerror(number)}); free some space, or write elsewhere with --out\n"
    assert capsys.readouterr().err == said


def test_a_full_disk_among_samples_names_the_folder(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = shutil.copytree(Path(__file__).parent / "runs" / "a3fdda3" / "classes", tmp_path / "run")
    monkeypatch.setattr(Image.Image, "save", full)
    assert sfumato("sample", run, "-n", 2, "--steps", 1, "--out", tmp_path / "s") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"sfumato: {tmp_path / 's'}: cannot be written (No space left on device); free some space")


def test_another_error_of_the_system_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(job, "resume", broken)
    with pytest.raises(OSError, match="Input/output"):
        sfumato("resume", "anything")


def test_a_path_with_spaces_is_offered_in_quotes(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = shutil.copytree(world / "run", tmp_path / "my run")
    assert sfumato("train", world / "photos", "--out", run) == 1
    assert f"go on with `sfumato resume '{run}'`" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
def test_an_interrupt_and_a_closed_pipe_end_quietly(error, code: int, monkeypatch, capsys: pytest.CaptureFixture[str]):
    def stop(*_):
        raise error

    monkeypatch.setattr(job, "resume", stop)
    assert sfumato("resume", "anything") == code
    assert "Traceback" not in capsys.readouterr().err


def test_the_status_of_a_stopped_training_is_the_signal(monkeypatch, capsys: pytest.CaptureFixture[str]):
    from sfumato.training.loop import Stopped

    def stop(*_):
        raise Stopped(143)

    monkeypatch.setattr(job, "resume", stop)
    assert sfumato("resume", "anything") == 143
    assert capsys.readouterr().err == "sfumato: stopped by SIGTERM\n"


def test_it_runs_as_a_module(world: Path):
    done = subprocess.run(
        [sys.executable, "-m", "sfumato", "resume", str(world / "none")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == f"sfumato: {world}/none: not a run (no config.yaml); give the folder that `sfumato train --out` made\n"
    )


def test_every_option_of_a_run_is_an_option_of_the_command(capsys: pytest.CaptureFixture[str]):
    from sfumato.fields.images.recipe import Images
    from sfumato.jobs.strict import to_plain
    from sfumato.training.options import TrainOptions

    def names(tree: dict, path: str = "") -> list[str]:
        return [
            n for key, v in tree.items() for n in (names(v, f"{path}{key}.") if isinstance(v, dict) else [path + key])
        ]

    with pytest.raises(SystemExit):
        sfumato("train", "--help-all")
    out = capsys.readouterr().out
    plain = json.loads(json.dumps({**to_plain(TrainOptions()), **to_plain(Images(Path("x")))}))
    missing = [n for n in names(plain) if n != "data" and f"-{n.replace('_', '-')}" not in out.replace("--no-", "--")]
    assert missing == []
