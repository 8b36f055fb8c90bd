"""Configuration as YAML: there and back without loss, and one line with file, line and remedy for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sfumato.fields.images.recipe import Images
from sfumato.jobs.config import Configuration
from sfumato.jobs.methods import MethodOptions
from sfumato.jobs.strict import ConfigError, to_plain
from sfumato.networks.options import NetworkOptions
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

share = st.floats(0, 1, exclude_min=True, exclude_max=True)
number = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(0, exclude_min=True, allow_nan=False)
finite = st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False)
count = st.integers(1, 10**12)


def maybe(strategy):
    return st.none() | strategy


networks = st.builds(
    NetworkOptions, kind=st.sampled_from(["auto", "dit", "unet", "mlp"]), width=maybe(count), depth=maybe(count),
    patch=maybe(count),
)  # fmt: skip
methods = st.builds(
    MethodOptions, schedule=st.sampled_from(["linear", "cosine", "vp", "edm", "loglinear"]),
    loss_in=maybe(st.sampled_from(["data", "noise", "v", "velocity"])), times_mean=number, times_std=finite,
    uncertainty=st.booleans(), coupling=st.sampled_from(["independent", "transport"]),
)  # fmt: skip
optims = st.builds(
    OptimOptions, kind=st.sampled_from(["adamw", "muon"]), lr=maybe(st.floats(1e-300, 1e300)),
    betas=st.tuples(share, share), weight_decay=st.floats(0, 1e300), warmup=st.integers(0, 10**9), decay=share,
    clip=positive, momentum=share,
)  # fmt: skip
trainings = st.builds(
    TrainOptions, steps=maybe(count), minutes=maybe(finite), batch=maybe(count),
    seed=st.integers(1 - 2**63, 2**63 - 1), optim=optims,
    ema=st.sampled_from([(0.05, 0.1), (0.2, 1e-5)]), snapshots=st.integers(0, 99),
    compile=st.sampled_from(["auto", "on", "off"]), precision=st.sampled_from(["auto", "bf16", "fp32"]),
    threads=maybe(count), save_seconds=positive,
)  # fmt: skip
paths = st.text(min_size=1).filter(lambda text: "\0" not in text).map(Path)
images = st.builds(
    Images, paths, side=maybe(st.integers(4, 10**6)), labels=st.booleans(), held_out=share, drop=share,
    network=networks, method=methods,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@example(Configuration(Images(Path("a\x85b"))))
@given(st.builds(Configuration, images, trainings))
def test_a_configuration_comes_back_from_yaml_as_it_was(configuration: Configuration):
    text = configuration.to_yaml()
    assert Configuration.from_yaml(text) == configuration
    plain = to_plain(configuration)
    assert yaml.safe_load(text) == {"images": plain.pop("recipe"), **plain}


def read(text: str) -> Configuration:
    return Configuration.from_yaml(text, "my.yaml", base=Configuration(Images(Path("photos"))))


def test_absent_keys_keep_their_value_and_present_ones_count():
    found = read("training:\n  optim:\n    lr: 3e-4\n")
    assert found.training.optim.lr == 3e-4
    assert found.training.optim.betas == OptimOptions().betas
    assert found.recipe.data == Path("photos")
    assert read("") == Configuration(Images(Path("photos")))


@pytest.mark.parametrize(("word", "value"), [("on", "on"), ("off", "off"), ("'off'", "off"), ("auto", "auto")])
def test_the_words_on_and_off_need_no_quotes(word: str, value: str):
    assert read(f"training: {{compile: {word}}}").training.compile == value


MISTAKES = {
    "a misspelt key": ("training:\n  stepps: 3\n", "my.yaml:2: unknown key 'training.stepps'; did you mean 'steps'?"),
    "a key deeper down": (
        "training:\n  optim:\n    lr: 1\n    beta: [0, 0]\n",
        "my.yaml:4: unknown key 'training.optim.beta'; did you mean 'betas'?",
    ),
    "a key like no other": ("zzz: 1\n", "my.yaml:1: unknown key 'zzz'; known: images, training"),
    "a word for a number": (
        "training:\n  steps: many\n",
        "my.yaml:2: training.steps = 'many': expected a whole number",
    ),
    "half a step": ("training: {steps: 1.5}", "my.yaml:1: training.steps = 1.5: expected a whole number"),
    "a truth for a number": ("training: {seed: true}", "my.yaml:1: training.seed = True: expected a whole number"),
    "a number for a truth": ("images: {labels: 1}", "my.yaml:1: images.labels = 1: expected true or false"),
    "a list too short": ("training: {ema: [0.1]}", "my.yaml:1: training.ema = [0.1]: expected 2 values"),
    "a list of words": ("training: {ema: [a, b]}", "expected a number"),
    "a misspelt choice": ("images: {network: {kind: dot}}", "did you mean 'dit'?"),
    "a key twice": ("training:\n  seed: 1\n  seed: 2\n", "my.yaml:3: 'training.seed' is given twice"),
    "a section twice": ("training: {}\nimages: {}\ntraining: {}\n", "my.yaml:3: 'training' is given twice"),
    "a value out of range": ("training:\n  steps: 0\n", "my.yaml:2: training.steps = 0: must be at least 1"),
    "a value for a section": ("training: 3\n", "my.yaml:1: training must be a mapping of names to values"),
    "a list for the whole": ("[1, 2]", "my.yaml:1: the file must be a mapping of names to values"),
    "no YAML": ("training: {steps: 3", "my.yaml: not YAML:"),
    "two documents": ("training: {}\n---\ntraining: {}\n", "my.yaml: not YAML:"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_one_line_with_place_and_remedy(mistake: str):
    text, message = MISTAKES[mistake]
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_has_no_default_must_be_given():
    with pytest.raises(ConfigError, match=r"'images' is missing"):
        Configuration.from_yaml("training: {}")
    with pytest.raises(ConfigError, match=r"'images.data' is missing"):
        Configuration.from_yaml("images: {side: 8}")


@pytest.mark.parametrize("value", [
    "!!python/object/apply:os.system ['touch {canary}']", "!!python/object/new:os.system ['touch {canary}']",
    "!!python/name:os.system", "!!python/object:sfumato.training.options.TrainOptions {{seed: 1}}", "!thing 3", "!!set {{a}}",
])  # fmt: skip
@pytest.mark.parametrize(
    "place", ["{value}", "training: {value}", "training: {{seed: {value}}}", "images: {{data: {value}}}"]
)
def test_tags_that_make_objects_are_refused(value: str, place: str, tmp_path: Path):
    canary = tmp_path / "canary"
    with pytest.raises(ConfigError) as caught:
        read(place.format(value=value.format(canary=canary)))
    assert not canary.exists()
    assert "\n" not in str(caught.value)
