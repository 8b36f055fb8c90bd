"""Docking into two targets whose truth is known: five folds of held-out scaffolds, beside an overlay that needs no model.

    python -m benchmarks.docking --wheel fragmenstein-1.1.3-py3-none-any.whl --folds folds.csv --out OUT
    python -m benchmarks.docking --out OUT --report

314 crystal poses of fragments and leads in Mac1 and in the main protease of SARS-CoV-2 (the wheel is opened as a zip, never
imported), split by Murcko scaffold. For each seed and fold `sfumato train docking` learns from the other four folds on one thread
for so many steps; the ligands of the fold are docked from conformers of their SMILES, templates being known poses of other
scaffolds. OUT gets an .npz a seed and fold as it is done (what is there already is not done again), and results.json.

Of 40 poses of a ligand 24 are drawn by the network and 16 searched for, as `sfumato sample` has it. Ranked is by a logistic
regression on a dozen numbers of a pose, fitted for each fold on the poses of the other folds, which were drawn by networks that
had not learned from those ligands either (of one fold alone: by parts of its scaffolds). Beside it: the overlay on the nearest
known pose; what is drawn alone and what is searched for alone, each with numbers and a ranker of its own; AutoDock Vina, where
`benchmarks.docking_vina` has left OUT/vina.csv. Intervals: 90 %, scaffolds drawn anew.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.fields.docking.asking import SETTLE, Pose, held_out
from sfumato.fields.docking.judged import BINS
from sfumato.fields.docking.measure import RIGHT, certainty, drawn_poses, intact, interval, process_of
from sfumato.fields.docking.options import DockingMethod, PoseNetworkOptions
from sfumato.fields.docking.overlay import overlay
from sfumato.fields.docking.rank import NUMBERS, Ranker, scored
from sfumato.fields.docking.ranking import crossed
from sfumato.fields.docking.recipe import Docking
from sfumato.fields.docking.settling import settled
from sfumato.fields.docking.symmetry import rmsd, symmetries
from sfumato.fields.docking.things import poses_of
from sfumato.jobs.model import Model, load
from sfumato.jobs.train import train
from sfumato.jobs.walk import Walk
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

FOLDS = 5


def unpacked(wheel: Path, folds: Path, out: Path) -> Path:
    """The table of the complexes, with the files that it names beside it."""
    table = out / "index.csv"
    if table.is_file():
        return table
    rows = list(csv.DictReader(folds.open(encoding="utf-8")))
    with zipfile.ZipFile(wheel) as packed:
        for target in sorted({row["target"] for row in rows}):
            (out / target).mkdir(parents=True, exist_ok=True)
            (out / target / "template.pdb").write_bytes(packed.read(f"fragmenstein/demo/{target}_mols/template.pdb"))
        for row in rows:
            file = f"{row['target']}/{row['ligand']}.mol"
            (out / file).write_bytes(packed.read(f"fragmenstein/demo/{row['target']}_mols/{row['ligand']}.mol"))
    lines = [
        f"{r['ligand']},{r['target']},{r['target']}/template.pdb,{r['target']}/{r['ligand']}.mol,{r['fold']}"
        for r in rows
    ]
    table.write_text("\n".join(["id,target,protein,ligand,fold", *lines, ""]))
    return table


def trained(table: Path, out: Path, seed: int, fold: int, options: argparse.Namespace) -> tuple[Model, float]:
    """A run of one seed and fold, and the CPU seconds of its training; conformers are those of the first run."""
    run = Run(out / f"run_{seed}_{fold}")
    if not (run.path / "seconds.json").is_file():  # none, or one that was cut off
        shutil.rmtree(run.path, ignore_errors=True)
        run.create()
        if made := sorted(out.glob("run_*/cache/complexes.json")):
            shutil.copytree(made[0].parent, run.cache, dirs_exist_ok=True)
        method, network = DockingMethod(process=options.process), PoseNetworkOptions(frame=options.frame)
        recipe = Docking(table, fold=fold, network=network, method=method)
        how = TrainOptions(steps=options.steps, batch=options.batch, seed=seed, threads=1, previews=0, snapshots=0,
                           precision="fp32", optim=OptimOptions(lr=options.lr))  # fmt: skip
        begin = time.process_time()
        train(recipe, how, run.path)
        (run.path / "seconds.json").write_text(json.dumps(time.process_time() - begin))
    return load(run.path), json.loads((run.path / "seconds.json").read_text())


def measured(model: Model, n: int) -> dict[str, Any]:
    """The fold's ligands docked: numbers of each pose, RMSD, and the baselines'."""
    store = model.companions.store
    queries = held_out(store, n, process=process_of(model))
    begin = time.process_time()
    poses = drawn_poses(model, queries)
    seconds = time.process_time() - begin
    names = ("x", "x_drawn", "x_searched", "rmsd", "overlay", "overlay5", "centred", "random")
    found: dict[str, list[Any]] = {name: [] for name in names}
    begin = time.process_time()
    for k, case in enumerate(queries.cases):
        own = [pose for pose in poses if pose.number // n == k]
        ways, truth = symmetries(case.ligand.mol), _truth(store, case.known)
        found["x"].append(scored(own))
        found["rmsd"].append(rmsd(np.stack([pose.places for pose in own]), truth, ways))
    scoring = time.process_time() - begin
    for k in range(len(queries.cases)):
        own = [pose for pose in poses if pose.number // n == k]
        for name, searched in (("x_drawn", False), ("x_searched", True)):
            found[name].append(scored([pose for pose in own if queries.searches(pose.number) == searched]))
    begin = time.process_time()
    chance = np.random.default_rng(0)
    for case in queries.cases:
        ways, truth = symmetries(case.ligand.mol), _truth(store, case.known)
        laid = [overlay(case, 0, references) for references in (1, 5)]
        for name, places in zip(("overlay", "overlay5"), laid):
            found[name].append(np.inf if places is None else float(rmsd(places[None], truth, ways)[0]))
        plain = case.conformers[0].double().numpy()
        middle = case.templates[0][0].places.mean(0) if case.templates else case.site.centre
        turn, _ = np.linalg.qr(chance.normal(size=(3, 3)))
        found["centred"].append(float(rmsd((plain + middle)[None], truth, ways)[0]))
        turned = plain @ (turn * np.linalg.det(turn)) + case.site.centre
        found["random"].append(float(rmsd(turned[None], truth, ways)[0]))
    return {
        "names": np.array([case.name for case in queries.cases]),
        "similarity": np.array([case.similarity for case in queries.cases]),
        "target": np.array([store.facts.target[case.known] for case in queries.cases]),
        "scaffold": np.array([store.facts.scaffold[case.known] for case in queries.cases]), "intact": intact(queries, poses),
        "searched": np.array([[queries.searches(k * n + j) for j in range(n)] for k in range(len(queries.cases))]),
        "places": np.concatenate([pose.places for pose in poses]).astype(np.float32),
        "drawing": seconds, "scoring": scoring, "overlaying": time.process_time() - begin,
        **{name: np.array(values) for name, values in found.items()},
    }  # fmt: skip


def _truth(store: Any, number: int | None) -> np.ndarray:
    assert number is not None
    places: np.ndarray = store.known[number].ligand.places
    return places


def few_steps(model: Model, steps: Sequence[int], part: dict[str, Any], ranker: Ranker, every: int) -> dict[str, Any]:
    """For each number of steps, of every so many of a fold's ligands: the shares within 2 A of drawn poses, as they are and
    settled, of ligands with such a one, and of first poses of all 40, what was searched for being the fold's own."""
    store, n = model.companions.store, part["rmsd"].shape[1]
    which = store.held_out[::every]
    queries = held_out(store, n, which, process_of(model), settle=0)
    own = [k for k in range(len(queries)) if not queries.searches(k)]
    sizes = {name: len(known.ligand) for name, known in zip(store.facts.names, store.known)}
    ends = np.cumsum([n * sizes[name] for name in part["names"].tolist()])
    blocks = dict(zip(part["names"].tolist(), np.split(part["places"], ends[:-1])))
    found: dict[str, Any] = {"ligands": len(queries.cases), "drawn": len(own) // len(queries.cases), "poses": n}
    for count in steps:
        begin, walk = time.process_time(), model.walked(Walk(steps=count).over(model.walk))
        drawn = sorted(
            (pose for some in model.draw(queries, own, walk=walk) for pose in poses_of(queries, some)),
            key=lambda pose: pose.number,
        )
        seconds = time.process_time() - begin
        raw, after, first, best = [], [], [], []
        for k, case in enumerate(queries.cases):
            ways, truth = symmetries(case.ligand.mol), _truth(store, case.known)
            mine = [pose for pose in drawn if pose.number // n == k]
            begin = time.process_time()
            settling = settled(case, np.stack([pose.places for pose in mine]), SETTLE)
            seconds += time.process_time() - begin
            every_pose = blocks[case.name].reshape(n, len(case.ligand), 3).astype(np.float64)
            raw.append(rmsd(np.stack([pose.places for pose in mine]), truth, ways) < RIGHT)
            for pose, places in zip(mine, settling):
                every_pose[pose.place] = places
            far = rmsd(every_pose, truth, ways)
            after.append(far[[pose.place for pose in mine]] < RIGHT)
            poses = [Pose(case, k * n + place, place, places) for place, places in enumerate(every_pose)]
            first.append(far[ranker(scored(poses)).argmax()] < RIGHT)
            best.append(far.min() < RIGHT)
        found[str(count)] = {
            "drawn_right": round(float(np.mean(raw)), 4), "best_of_drawn": round(float(np.mean(np.any(raw, 1))), 4),
            "settled_right": round(float(np.mean(after)), 4), "best_of_settled": round(float(np.mean(np.any(after, 1))), 4),
            "top1_of_all": round(float(np.mean(first)), 4), "best_of_all": round(float(np.mean(best)), 4),
            "seconds_a_pose": round(seconds / len(own), 5), "first": [bool(right) for right in first],
        }  # fmt: skip
        print(count, {name: value for name, value in found[str(count)].items() if name != "first"}, flush=True)
    return found


# ---- the table -------------------------------------------------------------------------------------------------------


def only(parts: Sequence[dict[str, Any]], searched: bool) -> list[dict[str, Any]]:
    """Only the poses that were searched for, or that were drawn, with the numbers that they have among themselves."""
    name = "x_searched" if searched else "x_drawn"
    return [{**part, "x": part[name], "rmsd": part["rmsd"][:, part["searched"][0] == searched]} for part in parts]


def ranked(parts: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each ligand of all folds: RMSD of its poses by confidence (L, P), confidence of the first, and by agreement (L, P). The
    ranker of a fold is fitted on the others; of a single fold, by parts of its scaffolds on the other parts."""
    far, sure, agreed = [], [], []
    for f, part in enumerate(parts):
        others = [other for g, other in enumerate(parts) if g != f]
        rankers, where = ([_fitted(others)], np.zeros(len(part["x"]), dtype=int)) if others else _within(part)
        for own, distance, k in zip(part["x"], part["rmsd"], where):
            p = rankers[k](own)
            order = np.argsort(-p, kind="stable")
            far.append(distance[order])
            sure.append(p[order[0]])
            agreed.append(distance[np.argsort(-own[:, 0] + 1e-3 * own[:, 1], kind="stable")])
    return np.array(far), np.array(sure), np.array(agreed)


def _fitted(parts: Sequence[dict[str, Any]]) -> Ranker:
    x = np.concatenate([each["x"].reshape(-1, len(NUMBERS)) for each in parts])
    y = np.concatenate([each["rmsd"].reshape(-1) < RIGHT for each in parts])
    sizes = [each["rmsd"].shape for each in parts]
    return Ranker.fit(
        x, y, np.concatenate([np.repeat(np.arange(rows), poses) + 10_000 * k for k, (rows, poses) in enumerate(sizes)])
    )


def _within(part: dict[str, Any]) -> tuple[list[Ranker], np.ndarray]:
    rows, poses = part["rmsd"].shape
    x, y = part["x"].reshape(-1, len(NUMBERS)), part["rmsd"].reshape(-1) < RIGHT
    return crossed(x, y, np.repeat(np.arange(rows), poses), part["scaffold"].tolist(), 5)


def summary(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one seed over the folds that are done."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if np.ndim(parts[0][name])}
    far, sure, agreed = ranked(parts)
    groups, drawn = joined["scaffold"].tolist(), joined["rmsd"]

    def share(right: np.ndarray, own: np.ndarray | None = None) -> list[float]:
        own = np.ones(len(right), dtype=bool) if own is None else own
        if own.sum() < 2:
            return []
        return [round(v, 4) for v in interval(right[own].astype(float), [g for g, o in zip(groups, own) if o])]

    first, over = far[:, 0] < RIGHT, joined["overlay"] < RIGHT

    def told(own: np.ndarray) -> dict[str, Any]:
        best, by = share(drawn.min(1) < RIGHT, own), paired(own)
        known = {"ligands": int(own.sum()), "top1": share(first, own), "best": best, "overlay": share(over, own)}
        return {**known, "above_overlay": by}

    def paired(own: np.ndarray) -> list[float]:
        if own.sum() < 2:
            return []
        return [round(v, 4) for v in interval((first.astype(float) - over)[own], [g for g, o in zip(groups, own) if o])]

    found: dict[str, Any] = {"ligands": len(first), "folds": len(parts), "poses": drawn.shape[1]}
    found |= {"top1": share(first), "top5": share(far[:, :5].min(1) < RIGHT), "top1_1A": share(far[:, 0] < 1)}
    found |= {"top1_by_agreement": share(agreed[:, 0] < RIGHT), "median": round(float(np.median(far[:, 0])), 3)}
    found |= {f"best_of_{k}": share(drawn[:, :k].min(1) < RIGHT) for k in (1, 5, 10, 40) if k <= drawn.shape[1]}
    found |= {name: share(joined[name] < RIGHT) for name in ("overlay", "overlay5", "centred", "random")}
    found["above_overlay"] = paired(np.ones(len(first), dtype=bool))
    found["without_fold_0"] = told(np.repeat([part["fold"] for part in parts], [len(part["x"]) for part in parts]) > 0)
    alone = {}
    for name, some in (("drawn", only(parts, False)), ("searched", only(parts, True))):
        own, _, _ = ranked(some)
        alone[name] = own[:, 0] < RIGHT
        found[f"{name}_alone"] = {
            "poses": own.shape[1], "top1": share(own[:, 0] < RIGHT), "best": share(own.min(1) < RIGHT),
            "poses_right": round(float((own < RIGHT).mean()), 4),
        }  # fmt: skip
    for name, right in alone.items():
        found[f"above_{name}_alone"] = [round(v, 4) for v in interval(first.astype(float) - right, groups)]
    found["confidence"] = {name: round(v, 4) for name, v in certainty(sure, first.astype(float)).items()}
    found["intact"] = float(np.mean([part["intact"] for part in parts]))
    found["seconds_a_pose"] = round(sum(p["drawing"] + p["scoring"] for p in parts) / drawn.size, 5)
    found["seconds_an_overlay"] = round(sum(p["overlaying"] for p in parts) / len(first), 4)
    found["training_seconds"] = [round(p["training"], 1) for p in parts]
    for target in sorted(set(joined["target"].tolist())):
        found[target] = told(joined["target"] == target)
    for low, high in zip((0.0, *BINS), (*BINS, 1.01)):
        own = (joined["similarity"] >= low) & (joined["similarity"] < high)
        found[f"similarity {low:g} to {min(high, 1):g}"] = told(own)
    return found


def parts_of(out: Path, seed: int) -> list[dict[str, Any]]:
    """What is done of a seed's folds, each with its number."""
    parts = []
    for path in sorted(out.glob(f"fold_{seed}_[0-9].npz")):
        stored = np.load(path, allow_pickle=False)
        part = {name: stored[name] if stored[name].ndim else stored[name].item() for name in stored.files}
        parts.append({**part, "fold": int(path.stem.split("_")[2])})
    return parts


def report(out: Path) -> dict[str, Any]:
    """results.json of all that is done."""
    found: dict[str, Any] = {}
    for seed in sorted({int(path.stem.split("_")[1]) for path in out.glob("fold_*_*.npz")}):
        found[f"seed {seed}"] = summary(parts_of(out, seed))
    if (out / "vina.csv").is_file():
        found["vina"] = _vina(out)
    for path in sorted(out.glob("steps_*_*.json")):
        found[path.stem] = {
            name: {a: b for a, b in value.items() if a != "first"} if isinstance(value, dict) else value
            for name, value in json.loads(path.read_text()).items()
        }
    (out / "results.json").write_text(json.dumps(found, indent=1))
    return found


def _vina(out: Path) -> dict[str, Any]:
    """What Vina's table says: of each target and both, how many ligands, shares of first and best poses, seconds a ligand; and
    of the same ligands our first pose and the overlay's."""
    rows = list(csv.DictReader((out / "vina.csv").open(encoding="utf-8")))
    seeds = {
        seed: parts_of(out, seed) for seed in sorted({int(p.stem.split("_")[1]) for p in out.glob("fold_*_*.npz")})
    }
    ours: dict[str, dict[str, float]] = {}
    for seed, parts in seeds.items():
        names, far = [name for part in parts for name in part["names"].tolist()], ranked(parts)[0]
        ours[f"top1_of_seed_{seed}"] = dict(zip(names, far[:, 0].tolist()))
        ours["overlay"] = dict(zip(names, np.concatenate([part["overlay"] for part in parts]).tolist()))
    found = {}
    for target in ("both", *sorted({row["target"] for row in rows})):
        own = [row for row in rows if target in ("both", row["target"])]
        first, best = (np.array([float(row[name]) for row in own]) < RIGHT for name in ("first", "best"))
        seconds = np.mean([float(row["seconds"]) for row in own])
        found[target] = {"ligands": len(own), "top1": round(float(first.mean()), 4), "best_of_9": round(float(best.mean()), 4),
                         "seconds": round(float(seconds), 2)}  # fmt: skip
        for name, apart in ours.items():
            if all(row["ligand"] in apart for row in own):
                found[target][name] = round(float(np.mean([apart[row["ligand"]] < RIGHT for row in own])), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--folds", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--which", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--process", choices=("heat", "flow", "fragments", "atoms"), default="heat")
    parser.add_argument("--frame", choices=("auto", "receptor", "free"), default="auto")
    parser.add_argument("-n", type=int, default=40)
    parser.add_argument(
        "--few", type=int, nargs="*", default=[], help="numbers of steps to compare on the folds that are done"
    )
    parser.add_argument("--every", type=int, default=2, help="of how many ligands of a fold one is compared")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.report:
        table = unpacked(options.wheel, options.folds, options.out)
        for seed in options.seeds:
            for fold in options.which:
                file = options.out / f"fold_{seed}_{fold}.npz"
                if file.is_file():
                    continue
                model, seconds = trained(table, options.out, seed, fold, options)
                np.savez(file.with_suffix(".part.npz"), training=seconds, **measured(model, options.n))
                file.with_suffix(".part.npz").rename(file)
                print(json.dumps(report(options.out)[f"seed {seed}"]), flush=True)
    if options.few:
        for fold in options.which:
            _compared(options, options.seeds[0], fold)
    print(json.dumps(report(options.out), indent=1))


def _compared(options: argparse.Namespace, seed: int, fold: int) -> None:
    """steps_SEED_FOLD.json, by the run and the poses of a fold that are there, ranked by what the other folds teach."""
    parts = parts_of(options.out, seed)
    others = [part for part in parts if part["fold"] != fold]
    (own,) = (part for part in parts if part["fold"] == fold)
    found = few_steps(load(options.out / f"run_{seed}_{fold}"), options.few, own, _fitted(others), options.every)
    (options.out / f"steps_{seed}_{fold}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
