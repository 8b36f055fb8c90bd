"""The command as functions: the same bytes and the same messages from both.

    run = sfumato.train("photos", steps=100)
    things = sfumato.load(run).sample(8, seed=0, label="flags")
    print(sfumato.evaluate(run))

And training without a field, on data and with a network of one's own:

    run = sfumato.fit(Task(network, Gaussian(), Items({"x": x})), "runs/mine", steps=1000)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong
from sfumato.jobs import find
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.flags import listed
from sfumato.jobs.model import load as _load
from sfumato.jobs.prefer import PreferOptions
from sfumato.jobs.recipe import Recipe
from sfumato.jobs.strict import options
from sfumato.jobs.tune import FinetuneOptions
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.options import ParallelOptions, TrainOptions
from sfumato.training.run import Run

if TYPE_CHECKING:
    from sfumato.jobs.compare import Comparison
    from sfumato.jobs.judge import Reward
    from sfumato.training.objective import Task

Place = str | os.PathLike[str] | Run


def _path(place: Place) -> Path:
    return place.path if isinstance(place, Run) else Path(place)


def train(
    data: Recipe | str | os.PathLike[str], training: TrainOptions | None = None, out: Place | None = None, *,
    field: str | None = None, **given: Any,
) -> Run:  # fmt: skip
    """`sfumato train`: learn from data in a new run directory.

    Args:
        data: where the data is (of failure sampling, the simulator), for the plain field or the one named by ``field``; or a
            recipe, as Images(Path("photos")).
        training: how it is trained; keywords are options of it, or of the field (steps=100, labels=True).
        out: run directory; runs/NAME OF THE DATA unless given.

    Raises Wrong for an unknown keyword, RunError where there is a run already, DataError for bad data.
    """
    from sfumato.jobs.train import train as go

    names = _names(TrainOptions)
    rest = {name: value for name, value in given.items() if name not in names}
    if isinstance(data, Recipe):
        if rest:
            raise Wrong(f"{next(iter(rest))}: give it to the recipe itself")
        recipe = data
    else:
        kind = find.kind(field or find.plain())
        first = next((option for option in listed(kind) if option.positional), None)
        source = os.fspath(data) if first is not None and first.hint is str else Path(data)
        recipe = options(kind, {"data" if first is None else first.path[-1]: source, **rest}, names)
    how = _training(training, {name: value for name, value in given.items() if name in names})
    return go(recipe, how, Path("runs") / recipe.title() if out is None else _path(out))


def _names(*kinds: type) -> set[str]:
    return {f.name for kind in kinds for f in dataclasses.fields(kind)}


def _training(whole: TrainOptions | None, given: Mapping[str, Any], more: set[str] | None = None) -> TrainOptions:
    """How to train, said as a whole or by keywords. Raises Wrong where it is said twice."""
    if whole is None:
        made: TrainOptions = options(TrainOptions, given, more or set())
        return made
    if given:
        raise Wrong(f"{next(iter(given))}: is given by itself, beside `training`; put it in there")
    return whole


def resume(run: Place, steps: int | None = None, parallel: ParallelOptions | None = None) -> Run:
    """`sfumato resume`: go on with a run where its newest whole checkpoint left it, for ``steps`` in all if given, processes laid
    out as ``parallel`` says."""
    from sfumato.jobs.train import resume as go

    more = {name: value for name, value in (("steps", steps), ("parallel", parallel)) if value is not None}
    return go(_path(run), **more)  # type: ignore[arg-type]


def load(run: Place, **given: Any) -> Any:
    """A trained run: a model with ``sample``, or what its field makes of it (a policy, a forecaster).

    Keywords are options of the walk and of the drawing, as in `sfumato sample`: steps, solver, w, seed, precision, ...; and
    ``walk``, the name of a walk that the field knows. Raises RunError, CheckpointError, Wrong.
    """
    model = _model(run, given)
    return model.recipe.ready(model)


def _model(run: Place, given: Mapping[str, Any], more: set[str] | None = None) -> Any:
    walks = _names(Walk)
    walk = {name: value for name, value in given.items() if name in walks}
    rest = {name: value for name, value in given.items() if name not in walks and name != "walk"}
    named = given.get("walk", "usual")
    return _load(_path(run), options(Walk, walk), options(Drawing, rest, {*walks, "walk", *(more or ())}), named)


def evaluate(run: Place, measure: Any = None, ask: Any = None, **given: Any) -> str:
    """`sfumato evaluate`: the report of a run as text.

    ``measure`` and ``ask`` are the field's Measure and Ask, or keywords are options of them (quick=True, n=200); all others
    are as for :func:`load`. Raises RunError, DataError, MetricError, Wrong.
    """
    from sfumato.jobs.config import read_config
    from sfumato.jobs.evaluate import evaluate as go

    recipe = read_config(Run(_path(run))).recipe
    made: list[Any] = []
    for kind, whole in ((recipe.Measure, measure), (recipe.Ask, ask)):
        mine = {name: value for name, value in given.items() if name in _names(kind)}
        if whole is not None and mine:
            raise Wrong(f"{next(iter(mine))}: is given by itself, beside {type(whole).__name__}; put it in there")
        made.append(options(kind, mine) if whole is None else whole)
    own = _names(recipe.Measure, recipe.Ask)
    return go(_model(run, {name: value for name, value in given.items() if name not in own}, own), *made)


def distill(run: Place, out: Place | None = None, training: TrainOptions | None = None, **given: Any) -> Run:
    """`sfumato distill`: make a trained run a flow map in the run directory ``out`` (RUN-map). Keywords are options of the
    conversion and of the training. Raises RunError, Wrong."""
    from sfumato.jobs.distill import distill as go
    from sfumato.jobs.training_verbs import beside

    own, teacher = _names(DistillOptions), _path(run)
    how = options(DistillOptions, {name: value for name, value in given.items() if name in own})
    how_long = _training(training, {name: value for name, value in given.items() if name not in own}, own)
    return go(teacher, how, how_long, beside(teacher) if out is None else _path(out))


def finetune(
    run: Place,
    data: str | os.PathLike[str] | None = None,
    out: Place | None = None,
    training: TrainOptions | None = None,
    *,
    prefer: str | os.PathLike[str] | None = None,
    reward: str | Reward | None = None,
    **given: Any,
) -> Run:
    """`sfumato finetune`: train a run further in the run directory ``out`` (RUN-tuned): on other data, on pairs of which one is
    preferred, or by a reward (module:function, or a function). Keywords are options of the tuning and of the training. Raises
    RunError, DataError, Wrong."""
    from sfumato.jobs import judge, rewarded
    from sfumato.jobs.finetune import finetune as go
    from sfumato.jobs.training_verbs import beside

    if sum(each is not None for each in (data, prefer, reward)) != 1:
        raise Wrong("finetune: one of data, prefer and reward is learned from")
    own, base = _names(FinetuneOptions, PreferOptions), _path(run)
    tuned, preferring = (
        options(kind, {name: value for name, value in given.items() if name in _names(kind)})
        for kind in (FinetuneOptions, PreferOptions)
    )
    how_long = _training(training, {name: value for name, value in given.items() if name not in own}, own)
    place = beside(base, "tuned") if out is None else _path(out)
    if data is not None:
        return go(base, Path(data), tuned, how_long, place)
    if prefer is not None:
        return rewarded.prefer(base, Path(prefer), preferring, tuned, how_long, place)
    assert reward is not None
    return rewarded.reward(base, judge.Judge.of(reward), preferring, tuned, how_long, place)


def compare(a: Any, b: Any, held_out: Any = None, *, features: Sequence[str] = (), seed: int = 0) -> Comparison:
    """`sfumato compare` on arrays or tensors: the samples ``a`` (N, ...) against the real items ``b``, in two feature spaces,
    beside the floor that real items set. Printed it is the table. Raises DataError, MetricError."""
    from sfumato.jobs.compare import compare as go

    return go(a, b, held_out, features=features, seed=seed)


def fit(task: Task, out: Place, training: TrainOptions | None = None, **given: Any) -> Run:
    """Train a network on data of one's own, without a field, in the run directory ``out``; called again it goes on.

    Keywords are options of the training (steps=1000). Sample with ``sfumato.generate``, and the averaged weights from
    ``model.safetensors``. Raises Wrong, RunError.
    """
    from sfumato.jobs.recipe import usual_batch
    from sfumato.training import loop

    training = _training(training, given)
    usual = TrainOptions(batch=usual_batch(len(task.train), 64), steps=1000)
    run = Run(_path(out))
    run.create()
    loop.train(task, run, training.over(usual))
    return run
