"""`sfumato finetune RUN --prefer PAIRS` and `--reward MODULE:FUNCTION`: a run learns which of its samples are better.

A reward goes round by round: the run draws, its user's function judges, and it learns from the best and the worst (DiffusionNFT).
Each round is a run inside the run, rounds/NUMBER, and a line of rounds.jsonl; one that was stopped is gone on with where it was.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong, decoding, options_meet_the_core, typed
from sfumato.jobs.card import card
from sfumato.jobs.config import Configuration
from sfumato.jobs.distill import take_over
from sfumato.jobs.finetune import costed, settled, tunable
from sfumato.jobs.judge import Judge
from sfumato.jobs.model import Model, load, task_of
from sfumato.jobs.pairs import take_pairs
from sfumato.jobs.prefer import PreferOptions, Preferring, frozen
from sfumato.jobs.recipe import Say, say
from sfumato.jobs.seal import seal, unchanged
from sfumato.jobs.train import starting
from sfumato.jobs.tune import BASE, LORA, FinetuneOptions, read_items, save_items
from sfumato.jobs.walk import Walk
from sfumato.training.careful import Careful
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError, write_text

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 10
"""Of a round, unless asked otherwise."""
DRAWN = "drawn.safetensors"
"""In a round's cache: the samples that it learns from."""


def prefer(
    base: Path,
    pairs: Path,
    options: PreferOptions,
    tuned: FinetuneOptions,
    training: TrainOptions,
    out: Path,
    tell: Say = say,
) -> Run:
    """Let the run ``base`` learn from pairs of which one was preferred (diffusion DPO), in the new run ``out``.

    Raises RunError if ``base`` is not finished or a flow map, or ``out`` holds a run already; DataError for pairs that do not
    fit; Stopped on a signal (go on with `sfumato resume`).
    """
    from sfumato.training import loop

    source, run = Run(base), Run(out)
    config = tunable(source, run)
    if not config.recipe.tunable:
        raise RunError(f"{source.path}: runs of this field cannot learn from pairs yet; give a --reward")
    preferring = Preferring(options, tuned)
    with starting(run):
        _begun(source, run, config)
        count = take_pairs(config.recipe, config.recipe.facts(source), pairs, run, tell)
        seal(run)
        with options_meet_the_core():
            task = task_of(Configuration(config.recipe, training, prefer=preferring), run)
            training = costed(task, settled(training, config, tuned, task.network), tell)
        tell(f"pairs     {count}, a tenth of which is held out: loss {math.log(2):.3f} where nothing is learned")
        write_text(run.config, Configuration(config.recipe, training, prefer=preferring).to_yaml())
    loop.train(task, run, training)
    preferring.finished(run, task, training, tell)
    with Careful(tell)("README.md"):
        card(run)
    return run


def reward(
    base: Path,
    judge: Judge,
    options: PreferOptions,
    tuned: FinetuneOptions,
    training: TrainOptions,
    out: Path,
    tell: Say = say,
) -> Run:
    """Let the run ``base`` learn to please a reward (DiffusionNFT), in the new run ``out``, which can be sampled from the first
    round on.

    Raises RunError as :func:`prefer` does; Wrong for a reward that gives no numbers, and for runs whose states are no vectors;
    Stopped on a signal (go on with `sfumato resume RUN --reward MODULE:FUNCTION`).
    """
    source, run = Run(base), Run(out)
    config = tunable(source, run)
    process = config.recipe.process(config.recipe.facts(source))
    if process.states != "vectors":
        raise Wrong(
            f"reward: is learned by runs whose states are vectors, and those of {source.path} are {process.states}; draw with "
            f"`sfumato sample {typed(source.path)} --reward {judge.name}` instead"
        )
    preferring = Preferring(options, tuned, judge.name)
    with starting(run):
        _begun(source, run, config)
        seal(run)
        with options_meet_the_core():
            task = task_of(Configuration(config.recipe, training, prefer=preferring), run)
            steps = training.steps or STEPS * options.rounds
            training = settled(dataclasses.replace(training, steps=steps), config, tuned, task.network)
        each = max(1, steps // options.rounds)
        tell(
            f"reward    {judge.name}: {options.rounds} rounds, each {options.draws} samples drawn and judged, "
            f"{options.extremes:.0%} of them learned from in {each} steps of batch {training.batch}"
        )
        shutil.copyfile(source.model, run.model)
        if source.walk.is_file():
            shutil.copyfile(source.walk, run.walk)
        write_text(run.config, Configuration(config.recipe, training, prefer=preferring).to_yaml())
    return climb(run, Configuration(config.recipe, training, prefer=preferring), judge, tell)


def _begun(source: Run, run: Run, config: Configuration) -> None:
    unchanged(source)
    take_over(source, run, config.recipe.kept, BASE)


# ---- rounds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """What the weights of one round are worth.

    reward, deviation: mean and standard deviation of a round's samples. variety: how different they are from one another; kept:
    that as a share of what it was before any round. calls: of the network until then, for one sample each, a backward pass as
    two.
    """

    number: int
    reward: float
    deviation: float
    kept: float
    variety: float
    calls: int

    def line(self) -> str:
        """In words."""
        return (
            f"round {self.number}: reward {self.reward:.4g} (deviation {self.deviation:.3g}), diversity {self.kept:.1%} of "
            f"before, {self.calls:,} calls"
        )


def rounds(run: Run) -> list[Round]:
    """The rounds that were judged. Raises DataError."""
    path = run.path / "rounds.jsonl"
    if not path.is_file():
        return []
    with decoding(path, "delete its last line, and that round is made again"):
        return [Round(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line]


def climb(run: Run, config: Configuration, judge: Judge, tell: Say = say) -> Run:
    """All rounds, from those that lie there on; the weights are those of the last that kept its diversity. Raises Stopped."""
    preferring = config.prefer
    assert preferring is not None
    options, done = preferring.options, rounds(run)
    number = max(0, len(done) - 1)
    while True:
        folder = run.sub(f"rounds/{number:04d}")
        if number >= len(done):
            folder.create()
            done.append(_judged(run, config, judge, done, folder))
            write_text(run.path / "rounds.jsonl", "".join(json.dumps(dataclasses.asdict(each)) + "\n" for each in done))
            tell(done[-1].line())
        if number > 1:  # whoever goes on begins at the last line, with the weights of the round before it
            shutil.rmtree(run.sub(f"rounds/{number - 2:04d}").path, ignore_errors=True)
        if done[number].kept < options.diversity:
            tell(
                f"stopped   samples are less different than --diversity {options.diversity:g} allows; the weights are those of "
                f"round {number - 1}: reward {done[number - 1].reward:.4g}, {done[0].reward:.4g} before"
            )
            break
        _kept(run, config, number)
        if number == options.rounds:
            tell(f"reward    {done[-1].reward:.4g}, {done[0].reward:.4g} before")
            break
        if not folder.model.is_file() or (folder.checkpoints).is_dir():
            _learned(run, config, number)
        number += 1
    run.log({"step": number, "reward_before": done[0].reward, "reward": done[-1].reward, "calls": done[-1].calls})
    with Careful(tell)("README.md"):
        card(run)
    return run


def _trained(run: Run, number: int) -> dict[str, Tensor] | None:
    """The weights that round ``number`` draws with, under the names of training; None: those that the run began with."""
    from sfumato.training import checkpoint

    if number == 0:
        return None
    return checkpoint.read_weights(run.sub(f"rounds/{number - 1:04d}").model)[0]


def _model(run: Run, config: Configuration, number: int) -> Model:
    """The run as it draws in a round: plainly conditional, since that is what is learned."""
    assert config.prefer is not None
    model = load(run.path, Walk(w=1.0, batch=config.prefer.options.draws if config.prefer.options.draws < 64 else 48))
    weights = _trained(run, number)
    if weights is not None:
        model.denoiser.network.network.load_state_dict(config.prefer.weights(weights))
    return model


def _judged(run: Run, config: Configuration, judge: Judge, done: list[Round], folder: Run) -> Round:
    """Draws the samples of a round, has them judged, keeps the best and the worst, and says what they are worth."""
    import torch

    from sfumato.adapting.preferences import MERIT, extremes, merits, variety
    from sfumato.diffusion import tree
    from sfumato.training.progress import Watch

    assert config.prefer is not None
    options, number = config.prefer.options, len(done)
    model = _model(run, config, number)
    recipe = model.recipe
    queries = recipe.queries(model, recipe.Ask(), options.draws)
    if len(queries) > options.draws:  # so many of each of several queries
        each = options.draws**2 // len(queries)
        queries = recipe.queries(model, recipe.Ask(), max(2, each))
    count = min(len(queries), options.draws)
    batches: list[Any] = []
    values: list[Tensor] = []
    with Watch(f"round {number}", count, unit="samples") as watch:
        for part in model.draw(queries, range(count), stream=("reward", number)):
            batches.append(tree.to(dict(recipe.items(model, queries, part)), torch.device("cpu")))
            names = [queries.name(i)[0] for i in part.numbers]
            values.append(judge(recipe.things(model, queries, part), names))
            watch.show(sum(map(len, values)))
    items: Any = tree.join(*batches)
    rewards, groups = (
        torch.cat(values),
        alike({k: v for k, v in items.items() if k not in ("x", "weight")}, count),
    )
    merit, x = merits(rewards, groups), torch.cat([leaf.flatten(1).float() for leaf in tree.leaves(items["x"])], 1)
    rows = extremes(merit, groups, options.extremes)
    save_items(folder.cache / DRAWN, {**tree.take(items, rows), MERIT: merit[rows].float()})
    wide = variety(x, groups)
    first = done[0].variety if done else wide
    steps = model.walk.steps or 1
    before = done[-1].calls + _cost(config) if done else 0
    return Round(
        number, float(rewards.mean()), float(rewards.std()), wide / first if first > 0 else 1.0, wide,
        before + steps * count,
    )  # fmt: skip


def _cost(config: Configuration) -> int:
    """Calls of a round's learning: of each row forward and back (3), by the old network, and by that of before; and those of the
    walk that its grid is measured on."""
    assert config.prefer is not None
    options, training = config.prefer.options, config.training
    return _steps(config) * (training.batch or 1) * (5 if options.leash > 0 else 4) + 48 * 16


def _steps(config: Configuration) -> int:
    assert config.prefer is not None
    return max(1, (config.training.steps or STEPS) // config.prefer.options.rounds)


def alike(condition: Mapping[str, Any], count: int) -> Tensor:
    """Numbers (count,), equal where all conditions are: samples of one query. All alike where none has a second sample."""
    import torch

    if not condition:
        return torch.zeros(count, dtype=torch.int64)
    flat = [leaf.reshape(count, -1).double().nan_to_num() for leaf in _leaves(condition)]
    _, groups, sizes = torch.cat(flat, 1).unique(dim=0, return_inverse=True, return_counts=True)
    return groups if int(sizes.max()) > 1 else torch.zeros(count, dtype=torch.int64)


def _leaves(value: Any) -> list[Any]:
    return [leaf for part in value.values() for leaf in _leaves(part)] if isinstance(value, Mapping) else [value]


def _learned(run: Run, config: Configuration, number: int) -> None:
    """The training of a round, from its weights, on its samples."""
    from sfumato.adapting.preferences import Improvement
    from sfumato.diffusion import key
    from sfumato.training import loop

    preferring, folder, training = config.prefer, run.sub(f"rounds/{number:04d}"), config.training
    assert preferring is not None
    kinds, weights = config.recipe.kinds(), _trained(run, number)
    task = task_of(config, run)
    if weights is not None:
        task.network.load_state_dict(weights)
    old = frozen(run, training, kinds, task.process, None if weights is None else preferring.weights(weights))
    before = frozen(run, training, kinds, task.process) if preferring.options.leash > 0 else old
    drawn = read_items(folder.cache / DRAWN, f"samples of round {number}")
    task = dataclasses.replace(
        task, train=drawn, held_out=drawn, written=dict, preview=None,
        criterion=Improvement(old, before, preferring.options.beta or 1.0, preferring.options.leash),
    )  # fmt: skip
    options = dataclasses.replace(
        training, steps=_steps(config), previews=0, snapshots=0, keep=1, save_seconds=1e9,
        seed=key("round", training.seed, number) >> 2, optim=dataclasses.replace(training.optim, decay=0.0),
    )  # fmt: skip
    loop.train(task, folder, options)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)


def _kept(run: Run, config: Configuration, number: int) -> None:
    """The weights of a round as those of the run, and a low-rank change in a file of its own."""
    from sfumato.networks import lora
    from sfumato.training import checkpoint

    preferring, weights = config.prefer, _trained(run, number)
    assert preferring is not None
    if weights is None:
        return
    _, about = checkpoint.read_weights(run.model)
    rank = preferring.tuned.lora
    checkpoint.save_weights(run.model, preferring.weights(weights), {**about, "step": str(number * _steps(config))})
    if rank is not None:
        checkpoint.save_weights(run.path / LORA, lora.factors(weights), lora.settings(rank, preferring.tuned.alpha))


def resumed(run: Run, config: Configuration, judge: Judge | None, tell: Say = say) -> Run:
    """Go on with a run that learns from a reward, which has to be named again: files name no code. Raises RunError."""
    assert config.prefer is not None
    if judge is None:
        raise RunError(config.prefer.again(run))
    return climb(run, config, judge, tell)
