"""The names of before fields had folders: they still work, and say where they went."""

from __future__ import annotations

import importlib

import pytest

from sfumato.recipes import GONE

NAMES = [
    ("base.MethodOptions", "sfumato.jobs.methods"), ("base.NetworkOptions", "sfumato.networks.options"),
    ("base.DistillOptions", "sfumato.jobs.adapt"), ("base.read_facts", "sfumato.jobs.facts"),
    ("configuration.Configuration", "sfumato.jobs.config"), ("configuration.kind", "sfumato.jobs.find"),
    ("job.train", "sfumato.jobs.train"), ("job.sample", "sfumato.jobs.sample"), ("job.load", "sfumato.jobs.model"),
    ("model.Model", "sfumato.jobs.model"),
    ("distillation.distill", "sfumato.jobs.distill"),
    ("inspection.inspect", "sfumato.jobs.inspect"), ("plots.report", "sfumato.jobs.plots"),
    ("evaluation.evaluate", "sfumato.fields.images.measure"), ("evaluation.draw_samples", "sfumato.jobs.evaluate"),
    ("images.Images", "sfumato.fields.images.recipe"), ("images.to_bytes", "sfumato.data.sheet"),
    ("openmoji.draw", "sfumato.fields.captions.openmoji"), ("demo.demo", "sfumato.fields.captions.demo"),
    ("policy.PolicyRecipe", "sfumato.fields.policy.recipe"), ("policy.Policy", "sfumato.fields.policy.acting"),
    ("acting.Controller", "sfumato.fields.policy.acting"), ("chunks.Chunks", "sfumato.fields.policy.data"),
    ("cloning.Regression", "sfumato.fields.policy.cloning"), ("trials.TrialOptions", "sfumato.fields.policy.measure"),
    ("rollout.share_bounds", "sfumato.metrics.intervals"), ("recording.record", "sfumato.fields.policy.simulators.recording"),
    ("filming.film", "sfumato.fields.policy.simulators.filming"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "place"), NAMES)
def test_an_old_name_is_what_it_was_and_says_where_it_is(old: str, place: str):
    module, name = old.split(".")
    with pytest.warns(DeprecationWarning, match=rf"sfumato\.recipes\.{old} is now (sfumato[\w.]+)\.{name};") as caught:
        found = getattr(importlib.import_module(f"sfumato.recipes.{module}"), name)
    assert found.__module__ == place
    said = str(caught[-1].message).split(" is now ")[1].split(";")[0].rpartition(".")[0]
    assert getattr(importlib.import_module(said), name) is found


@pytest.mark.parametrize("name", sorted(GONE))
def test_a_name_that_is_nothing_any_more_says_what_does_its_work(name: str):
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'; use sfumato") as caught:
        getattr(importlib.import_module("sfumato.recipes.openmoji"), name)
    place = str(caught.value).split("; use ")[1].split()[0].split(".")
    known = importlib.import_module(".".join(place[: 5 if place[1] == "fields" else 4][:-1]))
    assert hasattr(known, place[4 if place[1] == "fields" else 3])


def test_a_name_that_never_was_is_none():
    with pytest.raises(ImportError):
        from sfumato.recipes.images import Nonsense  # noqa: F401
    with pytest.raises(ImportError):
        import sfumato.recipes.nonsense  # noqa: F401
