"""The end of a campaign: its probability, samples of failures that are right in law, their files, modes and page."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.errors import DataError, decoding
from sfumato.fields.failure.campaign import Round, Say, Setting, _keep, metric_of
from sfumato.fields.failure.cases import Failures
from sfumato.fields.failure.data import Calls, Spent
from sfumato.fields.failure.law import Law
from sfumato.fields.failure.modes import Modes, modes
from sfumato.fields.failure.moves import Population, begun, drawn_again, guided, pcn, tuned
from sfumato.fields.failure.page import write
from sfumato.fields.failure.probability import ISLANDS, Verdict, Weighed, islands, ladder, verdict, weighing
from sfumato.training.leaving import Stopped, go_on
from sfumato.training.run import Run, write_text

MOVES = 8
"""Moves of the samples at most."""
ENOUGH = 50
"""Effective size of weighed draws from which the samples begin at them."""


@contextmanager
def resumable(run: Run) -> Iterator[None]:
    """A signal in the training of a round says how the whole campaign is gone on with."""
    try:
        yield
    except Stopped as error:
        raise Stopped(error.code, f"in a campaign whose calls are saved: {go_on(run.path, True)}") from error


def estimated(
    setting: Setting, done: Sequence[Round], calls: Calls, words: Sequence[str | int], total: int
) -> tuple[Verdict, Weighed | None]:
    """Both estimators on about ``total`` calls each of their shares, and the verdict."""
    o, n = setting.options, setting.facts.n
    reached = bool(done) and done[-1].level <= 0
    first = calls.next
    a = b = weighed = None
    plain = Population(np.zeros((0, n)), np.zeros(0))
    if o.islands and done:
        steps = ladder(setting, done)
        size = max(10, round(o.islands * total / (ISLANDS * len(steps))))
        a, plain = islands(steps, size, 2 * o.pairs, n, calls, (*words, "islands"))
    if o.weighing and done:
        chain = setting.chain(done[-1].number, 0.0)
        b, weighed = weighing(chain, plain, round(o.weighing * total), n, calls, (*words, "weighing"))
    return verdict(a, b, calls.next - first, reached), weighed


def ended(setting: Setting, done: Sequence[Round], calls: Calls, say: Say) -> Verdict:
    """What is left after the rounds: the probability, the samples, the files. Returns the verdict."""
    found, weighed = estimated(setting, done, calls, ("estimate", setting.seed), setting.facts.calls)
    say(f"p         {found.line()}")
    shutil.copyfile(setting.folder(done[-1].number).model, setting.run.model) if done else None
    walk = setting.folder(done[-1].number).walk if done else None
    if walk is not None and walk.is_file():
        shutil.copyfile(walk, setting.run.walk)
    failures, moved = samples(setting, done, calls, weighed)
    if failures is not None:
        written(setting, failures)
    report(setting, done, calls, found, failures, moved)
    return found


def samples(
    setting: Setting, done: Sequence[Round], calls: Calls, weighed: Weighed | None
) -> tuple[Failures | None, list[dict[str, float]]]:
    """Failures that are right in law: weighed draws drawn again by their weights, then moved until the mean nll of two moves
    agrees within its error, or the calls are spent. And what the moves were like."""
    o, words = setting.options, ("samples", setting.seed)
    if not done or done[-1].level > 0:
        return None, []
    count = o.samples
    now = _begun(setting, weighed, done, count)
    if now is None:
        return None, []
    chain, b, begin = setting.chain(done[-1].number, 0.0), done[-1].b, done[-1].begin
    metric = metric_of(setting.folder(done[-1].number))
    told: list[dict[str, float]] = []
    before = math.nan
    for move in range(MOVES):
        try:
            if calls.left < 2 * len(now):
                raise Spent("")
            now, network, _ = guided(now, 0.0, chain, begin, calls, (*words, move), "samples")
            now, taken = pcn(now, 0.0, b, metric, calls, (*words, move), "samples")
        except Spent:
            break
        b, begin = tuned(b, float(taken.mean())), begun(begin, float(network.mean()), o.walk)
        each = (now.x**2).sum(1) / 2
        nll, error = float(each.mean()), float(each.std() / math.sqrt(len(now)))
        told.append({"nll": nll, "error": error, "network": float(network.mean()), "pcn": float(taken.mean())})
        if move >= 2 and abs(nll - before) < error:
            break
        before = nll
    numbers, path = calls.found(now.x)
    cases = now.x if path is None else path
    return Failures(now.x, now.r, path, numbers, modes(now.x, cases, setting.facts.symmetry == "negate")), told


def _begun(setting: Setting, weighed: Weighed | None, done: Sequence[Round], count: int) -> Population | None:
    """Failures that the last moves begin from, by their weights; of the last population where there are few of these."""
    from sfumato.fields.failure.campaign import population
    from sfumato.fields.failure.chain import uniforms

    f = np.zeros(1) if weighed is None else weighed.failing()
    if weighed is not None and f.sum() ** 2 >= ENOUGH * (f**2).sum() > 0:
        start = float(uniforms(("samples", setting.seed, "start"), 1)[0])
        places = np.searchsorted(np.cumsum(f) / f.sum(), (start + np.arange(count)) / count).clip(0, len(f) - 1)
        return weighed.drawn.of(places)
    last = population(setting.run, done[-1].number)
    last = last.of(last.r <= 0)
    return drawn_again(last, count, ("samples", setting.seed, "again")) if len(last) else None


# ---- files ---------------------------------------------------------------------------------------------------------------


def written(setting: Setting, failures: Failures) -> None:
    """failures.csv, failures.npz, and failures/ID.npz of each mode's cases and the likeliest others: enough to replay."""
    run, facts = setting.run, setting.facts
    order = np.argsort(-failures.log_likelihood(), kind="stable")
    x, r, path = failures.x[order], failures.robustness[order], failures.trajectory
    told, of, call = failures.log_likelihood()[order], failures.modes.of[order], failures.call[order]
    lines = ["id,robustness,log_likelihood,mode,round,call,seed"]
    at = _round_of(run, call)
    for i in range(len(x)):
        lines.append(
            f"{i},{r[i]!r},{told[i]!r},{of[i] + 1},{at[i]},{call[i]},{setting.seed}".replace("np.float64(", "").replace(
                ")", ""
            )
        )
    write_text(run.path / "failures.csv", "\n".join(lines) + "\n")
    arrays = {"x": x, "robustness": r, "mode": of, "call": call}
    if path is not None:
        arrays["trajectory"] = path[order]
    _keep(run.path, "failures.npz", **arrays)
    folder = run.path / "failures"
    folder.mkdir(exist_ok=True)
    physical = Law.of(facts.shape, facts.law).physical(x)
    for i in range(len(x)):
        more = {} if path is None else {"trajectory": path[order[i]]}
        _keep(folder, f"{i:04d}.npz", x=x[i], physical=physical[i], robustness=r[i], **more)


def _round_of(run: Run, call: np.ndarray) -> list[str]:
    """The round that each call was made in; "end" for those after all rounds."""
    from sfumato.fields.failure.campaign import rounds

    ends = np.array([each.next for each in rounds(run)])
    return [str(int(place) + 1) if place < len(ends) else "end" for place in np.searchsorted(ends, call, side="right")]


def stored(run: Run) -> Failures:
    """The failures of a run that has ended. Raises DataError."""
    path = run.path / "failures.npz"
    if not path.is_file():
        raise DataError(
            f"{run.path}: has no failures.npz: the campaign has not ended, or found none; `sfumato resume` goes on"
        )
    with decoding(path, "resume the run, and it is written again"):
        with np.load(path, allow_pickle=False) as file:
            x, r, of, call = (np.asarray(file[name]) for name in ("x", "robustness", "mode", "call"))
            trajectory = np.asarray(file["trajectory"]) if "trajectory" in file else None
        if x.ndim != 2 or not len(x) == len(r) == len(of) == len(call):
            raise DataError(f"{path}: its arrays differ in length; restore it from a copy")
    return Failures(x, r, trajectory, call, modes_again(x, of, trajectory))


def modes_again(x: np.ndarray, of: np.ndarray, trajectory: np.ndarray | None) -> Modes:
    """Modes whose split is known."""
    from sfumato.fields.failure.modes import Mode, axes

    points = axes(x if trajectory is None else trajectory)
    told = []
    for i in range(int(of.max()) + 1):
        rows = np.flatnonzero(of == i)
        typical = int(rows[((points[rows] - points[rows].mean(0)) ** 2).sum(1).argmin()])
        told.append(Mode(len(rows) / len(x), int(rows[(x[rows] ** 2).sum(1).argmin()]), typical))
    return Modes(of, tuple(told), math.nan)


def report(
    setting: Setting,
    done: Sequence[Round],
    calls: Calls,
    found: Verdict,
    failures: Failures | None,
    moved: list[dict[str, float]],
) -> None:
    """report.json and the page."""
    told: dict[str, Any] = {
        "simulator": setting.facts.simulator, "calls": calls.next, "by": calls.by, "errors": calls.errors,
        "probability": found.plain(), "rounds": [asdict(each) for each in done], "moves": moved,
        "note": found.line(),
    }  # fmt: skip
    if failures is not None:
        order = np.argsort(np.argsort(-failures.log_likelihood(), kind="stable"), kind="stable")
        told["samples"] = {
            "count": len(failures.x), "failing": float((failures.robustness <= 0).mean()),
            "nll": float((failures.x**2).sum(1).mean() / 2),
        }  # fmt: skip
        told["modes"] = [
            {
                "share": m.share,
                "p": m.share * found.p,
                "likeliest": int(order[m.likeliest]),
                "typical": int(order[m.typical]),
            }
            for m in failures.modes.modes
        ]
    write_text(setting.run.path / "report.json", json.dumps(told, indent=1, default=float))
    write(setting.run, setting.facts, told, failures)


def read_report(run: Run) -> dict[str, Any]:
    """report.json. Raises DataError."""
    path = run.path / "report.json"
    if not path.is_file():
        raise DataError(
            f"{run.path}: has no report.json: the campaign has not ended; `sfumato resume {run.path}` goes on"
        )
    with decoding(path, "resume the run, and it is written again"):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def place(run: Run, number: int) -> Path:
    """The replay file of a failure. Raises DataError."""
    path = run.path / "failures" / f"{number:04d}.npz"
    if not path.is_file():
        raise DataError(f"{path}: there is no such failure; ids are the first column of {run.path / 'failures.csv'}")
    return path
