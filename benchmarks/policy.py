"""Policies in closed loop, beside behaviour cloning with the same network and the same seconds of training.

    python -m benchmarks.policy push_t --data PUSHT.zarr [--seconds 600] [--seeds 0 1 2]
    python -m benchmarks.policy meta_world [--seconds 600] [--seeds 0]

push_t: success and greatest reward over the field's 50 episodes (seeds 100000 to 100049) and over 200, at 100 to 1 steps
of the policy and of the flow map made from it, with the time of a chunk; and over the training. What is seen are the nine
points of the T that Diffusion Policy's figures from states rest on, and the state, for the place of the agent. meta_world:
ten tasks, one policy that is told the task, from 50 scripted demonstrations of each, which are made first. Two trainings run
at once, one thread each, and then two trials; the budget is CPU seconds, so that a busy machine favours nobody. Runs and
trials that are done are kept in --folder and not repeated. Results: benchmarks/results/policy_*.json, figures in docs/.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import store, within_seconds
from benchmarks.policy_report import FIELD, draw_fan, report_meta_world, report_push_t
from sfumato.fields.policy.acting import Policy
from sfumato.fields.policy.measure import session_of
from sfumato.fields.policy.recipe import PolicyRecipe
from sfumato.fields.policy.simulators.environments import make
from sfumato.fields.policy.simulators.recording import RecordOptions, record
from sfumato.fields.policy.simulators.rollout import FIELD_SEEDS, Rollouts, rollout
from sfumato.fields.policy.simulators.world import META_WORLD, PUSH_T
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.config import read_config
from sfumato.jobs.distill import distill
from sfumato.jobs.model import load
from sfumato.jobs.train import resume, train
from sfumato.jobs.walk import Walk
from sfumato.training.ema import Snapshot, read_snapshots
from sfumato.training.options import TrainOptions
from sfumato.training.run import write_text

KINDS = ("policy", "cloning", "map")
STEPS = {"policy": (100, 16, 8, 4, 2, 1), "cloning": (1,), "map": (100, 16, 8, 4, 2, 1)}
OBSERVATIONS = ("keypoint", "state")
TASKS = (
    "reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "drawer-close-v3", "button-press-topdown-v3",
    "peg-insert-side-v3", "window-open-v3", "window-close-v3",
)  # fmt: skip
"""Meta-World's MT10."""


# ---- training ------------------------------------------------------------------------------------------------------------


def learn(
    kind: str, seed: int, data: Path, folder: Path, seconds: float, observations: tuple[str, ...] | None = None
) -> Path:
    """Train one policy for so many CPU seconds, or convert it (``map``), unless it is there. Returns its run."""
    torch.set_num_threads(1)
    out = folder / f"{kind}-{seed}"
    if (out / "model.safetensors").is_file():
        return out
    begin = time.process_time()
    options = TrainOptions(seed=seed, previews=1, snapshots=6, threads=1)
    if (out / "config.yaml").is_file():
        resume(out)
    elif kind == "map":
        distill(folder / f"policy-{seed}", DistillOptions(), dataclasses.replace(options, snapshots=0), out)
    else:
        recipe = PolicyRecipe(data, observations, cloning=kind == "cloning")
        options = within_seconds(recipe, options, seconds, folder / f"{kind}-{seed}-probe")
        train(recipe, options, out)
    with (out / "cpu_seconds").open("a") as file:
        file.write(f"{time.process_time() - begin}\n")
    return out


def cpu_seconds(out: Path) -> float:
    """What the training of a run took, over all its beginnings."""
    return sum(map(float, (out / "cpu_seconds").read_text().split()))


# ---- trials --------------------------------------------------------------------------------------------------------------


def kept(path: Path, play: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON file, which ``play`` fills if it is not there."""
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(play(), indent=1))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def played(policy: Policy, environments: Sequence[str], episodes: int, how: Walk, timed: int = 0) -> Rollouts:
    """The closed loop in the episodes of the field's seeds and after, in this process."""
    makes = {id.removeprefix(META_WORLD): partial(make, id) for id in environments}
    seeds = range(FIELD_SEEDS[0], FIELD_SEEDS[0] + episodes)
    return rollout(makes, partial(session_of, policy, how, None), seeds, workers=1, timed=timed)


def push_t_trial(out: Path, name: str, episodes: int, how: Walk) -> dict[str, Any]:
    """Figures of a run sampled in one way: over the field's episodes, and over all."""
    torch.set_num_threads(1)

    def play() -> dict[str, Any]:
        found = played(Policy.load(out), [PUSH_T], episodes, how)
        field, every = (found.summary(part) for part in (found.episodes[:FIELD], found.episodes))
        return {"steps": how.steps, "field": field, "all": every, "seconds": found.seconds}

    return kept(out / "trials" / f"{name}.json", play)


def push_t_latency(out: Path, steps: int) -> dict[str, float]:
    """Milliseconds of a chunk for one robot. To be taken while nothing else runs."""
    torch.set_num_threads(1)
    return kept(
        out / "trials" / f"latency-{steps}.json",
        lambda: played(Policy.load(out), [PUSH_T], 1, Walk(steps=steps), timed=60).latency(),
    )


def past(out: Path) -> list[Snapshot]:
    """The averages kept while a run was trained, of the width that is sampled, in order."""
    width = read_config(load(out).run).training.ema[0]
    return [each for each in read_snapshots(out / "snapshots") if each.width == width]


def as_it_was(out: Path, then: Snapshot) -> Policy:
    """The policy of a run with the weights of a snapshot."""
    policy = Policy.load(out)
    network: Any = policy.model.denoiser.network
    network.network.load_state_dict(dict(then.weights))
    return policy


def over_training(out: Path, episodes: int, how: Walk) -> list[dict[str, Any]]:
    """Figures of the averages kept during the training, in order."""
    torch.set_num_threads(1)
    snapshots, whole = past(out), cpu_seconds(out)

    def play(then: Snapshot) -> dict[str, Any]:
        found = played(as_it_was(out, then), [PUSH_T], episodes, how).summary()
        return {"step": then.step, "seconds": whole * then.step / snapshots[-1].step, **found}

    return [kept(out / "trials" / f"after-{then.step}.json", partial(play, then)) for then in snapshots]


def push_t(given: argparse.Namespace) -> dict[str, Any]:
    """Everything on Push-T; runs that are missing are trained, two at a time, and then tried, two at a time."""
    folder, seeds = given.folder, given.seeds
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        for kinds in (("policy", "cloning"), ("map",)):
            together(
                pool.submit(learn, kind, seed, given.data, folder, given.seconds, OBSERVATIONS)
                for seed in seeds
                for kind in kinds
            )
        tried = {
            (kind, seed): {
                name: pool.submit(push_t_trial, folder / f"{kind}-{seed}", name, given.episodes, how)
                for name, how in ways(kind).items()
            }
            for kind in KINDS
            for seed in seeds
        }
        learning = {
            (kind, seed): pool.submit(
                over_training, folder / f"{kind}-{seed}", given.learning_episodes, Walk(steps=steps)
            )
            for kind, steps in (("policy", 8), ("cloning", 1))
            for seed in seeds
        }
        together(learning.values())
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for (kind, seed), trials in tried.items():
        out = folder / f"{kind}-{seed}"
        found: dict[str, Any] = {
            "seed": seed, "training_steps": read_config(load(out).run).training.steps,
            "cpu_seconds": cpu_seconds(out), "trials": {name: trial.result() for name, trial in trials.items()},
            "latency_ms": {str(steps): push_t_latency(out, steps) for steps in STEPS[kind]},
        }  # fmt: skip
        if (kind, seed) in learning:
            found["over_training"] = learning[kind, seed].result()
        runs[kind].append(found)
    return {"seconds": given.seconds, "seeds": seeds, "episodes": given.episodes, "runs": runs}


def ways(kind: str) -> dict[str, Walk]:
    """How a run is sampled: in several numbers of steps, the policy once without fresh noise too, and the map without its
    last step to the mean."""
    extra = {
        "policy": {"8, no fresh noise": Walk(steps=8, eta=0.0)},
        "map": {f"{steps}, along the flow": Walk(steps=steps, solver="leap") for steps in (4, 2)},
    }
    return {str(steps): Walk(steps=steps) for steps in STEPS[kind]} | extra.get(kind, {})


def together(waiting: Iterable[Future[Any]]) -> None:
    """Wait for all of them; raises what one of them raised."""
    for each in list(waiting):
        each.result()


# ---- Meta-World ----------------------------------------------------------------------------------------------------------


def expert_plays(task: str, episodes: int) -> list[bool]:
    """Whether the scripted expert succeeds, in the episodes that policies are tried in."""
    environment, won = make(META_WORLD + task), []
    try:
        for seed in range(FIELD_SEEDS[0], FIELD_SEEDS[0] + episodes):
            seen, act, success = environment.reset(seed), environment.expert(), False
            for _ in range(environment.limit):
                step = environment.step(act(seen))
                seen, success = step.observations, bool(step.success)
                if success or step.done:
                    break
            won.append(success)
    finally:
        environment.close()
    return won


def meta_world(given: argparse.Namespace) -> dict[str, Any]:
    """Ten tasks by one policy; demonstrations that are missing are recorded."""
    given.folder.mkdir(parents=True, exist_ok=True)
    data, environments = given.folder / "demonstrations.npz", [META_WORLD + task for task in TASKS]
    if not data.exists():
        print(record(environments, data, RecordOptions(episodes=50)))
    runs = [(kind, seed) for seed in given.seeds for kind in ("policy", "cloning")]
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        together(pool.submit(learn, kind, seed, data, given.folder, given.seconds) for kind, seed in runs)
        experts = [pool.submit(expert_trial, given.folder, task, given.episodes) for task in TASKS]
        trials = {
            (kind, seed, task): pool.submit(
                meta_world_trial, given.folder / f"{kind}-{seed}", task, 8 if kind == "policy" else 1, given.episodes
            )
            for kind, seed in runs
            for task in TASKS
        }
        together([*experts, *trials.values()])
    successes: dict[str, dict[str, list[int]]] = {
        "expert": {task: [each.result()["successes"]] for task, each in zip(TASKS, experts, strict=True)},
        **{
            kind: {task: [trials[kind, seed, task].result()["successes"] for seed in given.seeds] for task in TASKS}
            for kind in ("policy", "cloning")
        },
    }
    facts = {
        f"{kind}-{seed}": {
            "cpu_seconds": cpu_seconds(given.folder / f"{kind}-{seed}"),
            "training_steps": read_config(load(given.folder / f"{kind}-{seed}").run).training.steps,
        }
        for kind, seed in runs
    }
    return {
        "seconds": given.seconds, "seeds": given.seeds, "episodes": given.episodes, "successes": successes, "runs": facts,
    }  # fmt: skip


def expert_trial(folder: Path, task: str, episodes: int) -> dict[str, Any]:
    """In how many episodes the scripted expert succeeds."""
    return kept(folder / "expert" / f"{task}.json", lambda: {"successes": sum(expert_plays(task, episodes))})


def meta_world_trial(out: Path, task: str, steps: int, episodes: int) -> dict[str, Any]:
    """In how many episodes of a task a policy succeeds."""
    torch.set_num_threads(1)

    def play() -> dict[str, Any]:
        found = played(Policy.load(out), [META_WORLD + task], episodes, Walk(steps=steps))
        return {"successes": sum(bool(episode.success) for episode in found.episodes), "seconds": found.seconds}

    return kept(out / "trials" / f"{task}.json", play)


def main() -> None:
    """Measure, print, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("push_t", "meta_world"))
    parser.add_argument("--data", type=Path, help="push_t: the human demonstrations, a zarr replay buffer")
    parser.add_argument("--seconds", type=float, default=600.0, help="CPU seconds of training of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=None, help="default: 0 1 2, of meta_world 0")
    parser.add_argument("--episodes", type=int, default=None, help="default: 200, of meta_world 50 for each task")
    parser.add_argument(
        "--learning-episodes", type=int, default=50, help="push_t: episodes of a point over the training"
    )
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, a thread each")
    parser.add_argument("--folder", type=Path, default=None, help="where runs are kept (default: runs/policy_PART)")
    given = parser.parse_args()
    push = given.part == "push_t"
    if push and given.data is None:
        parser.error("push_t needs --data, the human demonstrations")
    given.folder = given.folder or Path("runs") / f"policy_{given.part}"
    given.seeds = given.seeds if given.seeds is not None else [0, 1, 2] if push else [0]
    given.episodes = given.episodes or (200 if push else 50)
    facts = push_t(given) if push else meta_world(given)
    store(f"policy_{given.part}", facts)
    if push:
        draw_fan(given.folder, given.seeds[0])
    (report_push_t if push else report_meta_world)(facts)


if __name__ == "__main__":
    main()
