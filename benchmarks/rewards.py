"""Rewards against diversity: three ways to please a reward, at equal calls of the network.

    python -m benchmarks.rewards --out OUT [--seeds 0 1 --budget 60000]        draws benchmarks/results/rewards.json
    python -m benchmarks.rewards --figure                                      draws docs/finetune_rewards.png from that

Data: scikit-learn's 1,797 handwritten digits, 8 x 8, each in a colour of its own on a dark ground; a run of them without classes.
Rewards: redness (red less the mean of green and blue, 0 to 1), and the log-probability of class 3 by a classifier.

Ways: NFT by rounds (`finetune --reward`), DPO on pairs of its own samples (`finetune --prefer`), steering (`sample --reward`).
Each may spend ``--budget`` calls (a call: one sample once through the network; a backward pass counts two). Of steering these are
those of the 256 samples that it is judged by, for it pays again each time; of the others those of learning.

Diversity is the mean distance of pairs, over that of the run before: of pixels (what NFT itself watches), and of the hidden
features of a second classifier, trained on other digits and used for nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import sfumato
from benchmarks.common import DOCS, read, store
from sfumato.jobs.judge import Judge
from sfumato.jobs.model import load
from sfumato.jobs.rewarded import rounds
from sfumato.jobs.steering import SteerOptions, steered
from sfumato.training.run import Run

COUNT, STEPS, PARTICLES, CLASS = 256, 20, 12, 3
STRENGTHS = {"redness": (0.0, 4.0, 12.0), "class": (0.15, 0.5)}
BETAS = (20.0, 200.0)
KEPT = (0.0, 0.95)


def digits(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures (1797, 8, 8, 3) of bytes, the grey digits (1797, 64) from 0 to 1, and their classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = found.images / 16
    rng = np.random.default_rng(seed)
    colour = rng.uniform(0.15, 1.0, (len(grey), 1, 1, 3))
    return (grey[..., None] * colour * 255).round().astype(np.uint8), grey.reshape(len(grey), 64), found.target


class Classifier:
    """Of a digit whatever its colour: a small perceptron on what is brightest of the three channels, standardised."""

    def __init__(self, half: int):
        from sklearn.neural_network import MLPClassifier

        pictures, _, classes = digits()
        own = np.arange(len(pictures)) % 2 == half
        self.net = MLPClassifier((64,), alpha=1e-2, max_iter=400, random_state=half).fit(
            self.seen(pictures[own]), classes[own]
        )
        self.accuracy = float(self.net.score(self.seen(pictures[~own]), classes[~own]))

    @staticmethod
    def seen(pictures: np.ndarray) -> np.ndarray:
        grey = np.asarray(pictures, dtype=float).max(-1).reshape(len(pictures), -1)
        return grey / np.maximum(grey.max(1, keepdims=True), 1.0)

    def log_chance(self, things: list[Any], names: list[str]) -> np.ndarray:
        """Reward: log-probability of the class, no less than -10."""
        return np.maximum(self.net.predict_log_proba(self.seen(np.stack(things)))[:, CLASS], -10.0)

    def features(self, things: list[Any]) -> np.ndarray:
        """Of the hidden layer, (n, 64)."""
        return np.maximum(self.seen(np.stack(things)) @ self.net.coefs_[0] + self.net.intercepts_[0], 0)


def redness(things: list[Any], names: list[str]) -> np.ndarray:
    """Reward: red less the mean of green and blue, of the whole picture, -1 to 1."""
    x = np.stack(things).astype(float) / 255
    return x[..., 0].mean((1, 2)) - x[..., 1:].mean((1, 2, 3))


def apart(x: np.ndarray) -> float:
    """Mean distance of pairs."""
    return float(torch.pdist(torch.as_tensor(x.reshape(len(x), -1), dtype=torch.float64)).mean())


class Bench:
    """What all ways are measured by; results by name, written as they come."""

    def __init__(self, out: Path, budget: int):
        self.out, self.budget, self.file = out, budget, out / "results.json"
        out.mkdir(parents=True, exist_ok=True)
        self.judge, self.other = Classifier(0), Classifier(1)
        self.rewards: dict[str, Callable[..., np.ndarray]] = {"redness": redness, "class": self.judge.log_chance}
        self.found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.found.setdefault("classifiers", [self.judge.accuracy, self.other.accuracy])
        self.base = self.trained()

    def trained(self) -> Path:
        """The run of digits."""
        data, run = self.out / "digits.npy", self.out / "run"
        if not (run / "model.safetensors").is_file():
            shutil.rmtree(run, ignore_errors=True)
            np.save(data, digits()[0])
            sfumato.train(data, out=run, steps=2500, batch=32, threads=1, previews=1, network={"width": 64, "depth": 3})
        return run

    def scored(self, things: list[Any], calls: int) -> dict[str, float]:
        """Both rewards with standard errors, and both diversities, of samples."""
        x = np.stack(things).astype(float)
        found: dict[str, float] = {"calls": calls, "pixels": apart(x), "features": apart(self.other.features(things))}
        for name, reward in self.rewards.items():
            values = np.asarray(reward(things, []))
            found |= {name: float(values.mean()), f"{name}_error": float(values.std() / math.sqrt(len(values)))}
            found[f"{name}_deviation"] = float(values.std())
        chances = self.other.net.predict(self.other.seen(np.stack(things)))
        found["classes"] = len(np.unique(chances))
        found["share"] = float((chances == CLASS).mean())
        return found

    def note(self, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """A result under its name, unless it is there."""
        if name in self.found:
            return
        began = time.process_time()
        self.found[name] = {**make(), "cpu_seconds": time.process_time() - began}
        self.file.write_text(json.dumps(self.found, indent=1))
        print(name, {k: round(v, 3) for k, v in self.found[name].items() if isinstance(v, float)}, flush=True)

    def samples(self, run: Path, seed: int) -> list[Any]:
        return list(load(run).sample(COUNT, seed=1000 + seed, steps=STEPS, batch=64))

    def nft(self, reward: str, diversity: float, seed: int) -> dict[str, Any]:
        """Rounds until the budget is spent, or more diversity than that: its course, and what is left of it."""
        out = self.out / f"nft-{reward}-{diversity}-{seed}"
        each = 96 * STEPS + 10 * 16 * 5 + 48 * 16
        count = self.budget // each
        if not (out / "rounds.jsonl").is_file():
            sfumato.finetune(
                self.base, out=out, reward=self.rewards[reward], rounds=count, steps=10 * count, batch=16, threads=1, seed=seed,
                diversity=diversity, optim={"lr": 1e-4},
            )  # fmt: skip
        done = rounds(Run(out))
        course = [[each.calls, each.reward, each.kept] for each in done]
        return {**self.scored(self.samples(out, seed), done[-1].calls), "course": course}

    def pairs(self, reward: str, seed: int) -> tuple[Path, int]:
        """Half of the budget in samples, the best beside the worst: pairs, and what they cost."""
        folder, count = self.out / f"pairs-{reward}-{seed}", self.budget // 2 // STEPS
        if not (folder / "rejected.npy").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            things = load(self.base).sample(count, seed=2000 + seed, steps=STEPS, batch=64)
            values = np.asarray(self.rewards[reward](things, []))
            rng = np.random.default_rng(seed)
            left, right = rng.permutation(count)[: 2 * (count // 2)].reshape(2, -1)
            better = np.where(values[left] > values[right], left, right)
            np.save(folder / "chosen.npy", np.stack([things[i] for i in better]))
            np.save(folder / "rejected.npy", np.stack([things[i] for i in left + right - better]))
        return folder, count * STEPS

    def dpo(self, reward: str, beta: float, seed: int) -> dict[str, Any]:
        """What is left of the budget in steps on these pairs: each forward and back of two, and two by what was before."""
        pairs, spent = self.pairs(reward, seed)
        out, steps = self.out / f"dpo-{reward}-{beta}-{seed}", (self.budget - spent) // (16 * 8)
        if not (out / "README.md").is_file():
            shutil.rmtree(out, ignore_errors=True)
            sfumato.finetune(
                self.base, out=out, prefer=pairs, beta=beta, steps=steps, batch=16, threads=1, seed=seed, previews=1, snapshots=4,
                optim={"lr": 1e-4},
            )  # fmt: skip
        return self.scored(self.samples(out, seed), spent + steps * 16 * 8)

    def steer(self, reward: str, strength: float, seed: int) -> dict[str, Any]:
        """256 samples, each of a population."""
        model = load(self.base)
        pulled = steered(model, Judge(self.rewards[reward], reward), SteerOptions(PARTICLES, strength))
        things = pulled.sample(COUNT, seed=3000 + seed, steps=STEPS)
        return self.scored(things, COUNT * STEPS * PARTICLES)


def figure(found: dict[str, Any]) -> None:
    """Gain in deviations of the run before against diversity kept: a panel for each reward and space."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels, axes = plt.subplots(2, 2, figsize=(10, 8))
    colours = {"nft": "#2b6cb0", "dpo": "#dd6b20", "steer": "#38a169"}
    for row, reward in enumerate(("redness", "class")):
        for column, space in enumerate(("pixels", "features")):
            axis = axes[row][column]
            for name, one in found.items():
                way, _, rest = name.partition("-")
                if way not in colours or not rest.startswith(reward):
                    continue
                seed = name.rpartition("-")[2]  # steering has fresh noise on the way, and is compared with none of it
                before = found[f"before-{seed}" if way != "steer" else f"steer-redness-0.0-{seed}"]
                gain = (one[reward] - before[reward]) / before[f"{reward}_deviation"]
                axis.plot(one[space] / before[space], gain, "o", color=colours[way], label=way)
                if way == "nft" and space == "pixels":
                    start = one["course"][0]
                    axis.plot([c[2] for c in one["course"]], [(c[1] - start[1]) / before[f"{reward}_deviation"] for c in
                              one["course"]], "-", color=colours[way], alpha=0.4, linewidth=1)  # fmt: skip
            axis.axvline(0.95, color="grey", linewidth=0.7, linestyle="--")
            axis.axhline(1.0, color="grey", linewidth=0.7, linestyle="--")
            axis.set_xlabel(f"diversity kept ({space})")
            axis.set_ylabel(f"gain in {reward}, deviations of before")
            handles, labels = axis.get_legend_handles_labels()
            axis.legend(dict(zip(labels, handles)).values(), dict(zip(labels, handles)).keys())
    panels.tight_layout()
    panels.savefig(DOCS / "finetune_rewards.png", dpi=90)


def sheet(bench: Bench, seed: int) -> None:
    """16 samples of before and of each way, as rows."""
    rows = [("before", bench.base)]
    rows += [
        (path.name, path) for path in sorted(bench.out.glob(f"*-{seed}")) if (path / "model.safetensors").is_file()
    ]
    pictures = [np.concatenate(list(load(path).sample(16, seed=5, steps=STEPS)), 1) for _, path in rows]
    whole = np.concatenate(pictures, 0)
    Image.fromarray(whole).resize((whole.shape[1] * 5, whole.shape[0] * 5), 0).save(bench.out / f"sheet-{seed}.png")
    (bench.out / f"sheet-{seed}.txt").write_text("\n".join(name for name, _ in rows) + "\n")


def main() -> None:
    """Every way of both rewards, the cheapest first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--budget", type=int, default=60_000)
    parser.add_argument("--figure", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.out is not None:
        bench = Bench(asked.out, asked.budget)
        for seed in asked.seeds:
            bench.note(f"before-{seed}", lambda: bench.scored(bench.samples(bench.base, seed), 0))  # noqa: B023
            for reward in bench.rewards:
                for kept in KEPT:
                    bench.note(f"nft-{reward}-{kept}-{seed}", lambda: bench.nft(reward, kept, seed))  # noqa: B023
                for beta in BETAS:
                    bench.note(f"dpo-{reward}-{beta}-{seed}", lambda: bench.dpo(reward, beta, seed))  # noqa: B023
                for strength in STRENGTHS[reward]:
                    bench.note(f"steer-{reward}-{strength}-{seed}", lambda: bench.steer(reward, strength, seed))  # noqa: B023
            sheet(bench, seed)
        store("rewards", bench.found)
    if asked.figure:
        found = read("rewards")
        assert found is not None, "measure first: --out OUT"
        figure(found)


if __name__ == "__main__":
    main()
