"""docs/benchmarks.md and its plots, from benchmarks/results/*.json alone.

python -m benchmarks.report
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import calls, growth, overhead_peers, seconds, solvers
from benchmarks.common import DOCS, RESULTS, read

INTRODUCTION = """# Benchmarks

Written by `python -m benchmarks.report` from `benchmarks/results/*.json`; `make bench` measures everything anew, peers in
the same run. The peers are installed by the benchmarks themselves, pinned in `benchmarks/peers-constraints.txt`, in an
environment of their own (`.venv-peers`). A figure is a median; beside it stands the range that holds the middle half of
the repeats, or the whole range of the seeds, as said.

torchvision is asked for by three of the peers and has no build for the torch used here. Nothing that is measured needs
it, so `benchmarks/stand_ins/` holds a tiny module of that name with the transforms that denoising-diffusion-pytorch's
folder data set composes (resize, crop, flip, to tensor) and one function that k-diffusion imports. Of k-diffusion the
module `sampling` is loaded, unchanged, without the trainer, the metrics and the CLIP that its package imports first.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def missing(name: str, command: str) -> str:
    return f"Not measured yet: `python -m benchmarks.{command}` writes `results/{name}.json`.\n"


def between(row: dict[str, float], digits: int = 3) -> str:
    if row["median"] >= 1000:
        return f"{row['median']:.1e} ({row['low']:.1e}..{row['high']:.1e})"
    return f"{row['median']:.{digits}f} ({row['low']:.{digits}f}..{row['high']:.{digits}f})"


def short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in rising order, runs of them as 5 to 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


# ---- the five parts ----------------------------------------------------------------------------------------------------


def overhead_part() -> str:
    parts = ["## 1. Overhead\n"]
    alone = read("overhead")
    if alone:
        parts.append("Beside the bare network (`python -m benchmarks.overhead`):\n")
        parts.append(
            table(("what", "against", "ratio"), [(r["what"], r["against"], f"{r['ratio']:.3f}") for r in alone["rows"]])
        )
        parts.append("")
    facts = read("overhead_peers")
    if facts is None:
        return "\n".join([*parts, missing("overhead_peers", "overhead_peers")])
    overhead_peers.draw(facts)
    bare, hand = facts["sampling"]["bare_call_ms"], facts["training"]["sfumato"]["by_hand_ms"]
    parts.append(
        f"Beside peers (`python -m benchmarks.overhead_peers`): one process, one thread, our DiT behind thin adapters, "
        f"{facts['settings']['steps']} steps. A bare call takes {bare['median']:.1f} ms, a training step by hand "
        f"{hand['median']:.0f} ms. Ratio to the bare network, median of {bare['count']} interleaved rounds (middle half):\n"
    )
    rows = [(f"sampling, {name}", between(row)) for name, row in facts["sampling"]["ratios"].items()]
    for name in ("sfumato", "lucidrains"):
        rows.append((f"training step, {name}", between(facts["training"][name]["ratio"])))
    parts.append(table(("what", "ratio"), rows))
    ratios = {name: row["median"] for name, row in facts["sampling"]["ratios"].items()}
    ours = {n: r for n, r in ratios.items() if n.startswith("sfumato")}
    theirs = {n: r for n, r in ratios.items() if not n.startswith("sfumato")}
    cheapest, best = min(theirs, key=lambda n: theirs[n]), min(ours, key=lambda n: ours[n])
    verdict = "below" if ours[best] <= theirs[cheapest] else "**above**"
    parts.append(
        f"\nThe cheapest of ours ({best}, {ours[best]:.3f}) is {verdict} the cheapest peer ({cheapest}, "
        f"{theirs[cheapest]:.3f}).\n"
    )
    parts.append("![overhead](bench_overhead.png)\n")
    return "\n".join(parts)


def solvers_part() -> str:
    head = "## 2. Error against network calls on exact denoisers\n"
    facts = read("solvers")
    if facts is None:
        return f"{head}\n{missing('solvers', 'solvers')}"
    solvers.draw(facts)
    counts, won = facts["settings"]["counts"], facts["won"]
    doubt = max(max(d.values()) for d in facts["reference_doubt"].values())
    parts = [
        head,
        f"`python -m benchmarks.solvers`: 12 normals, a mixture of five blobs and the softmax denoiser of 256 digits, float64, "
        f"{facts['settings']['rows']} noises, the same for everyone, {len(counts)} numbers of calls from {counts[0]} to "
        f"{counts[-1]}. The error is the root-mean-square distance to the probability flow's end at sigma = 0, in units of "
        f"the data's spread. The reference is the closed form for the normals and otherwise 4000 steps of order 4, from "
        f"which 4000 steps of Heun's method are at most {doubt:.0e} away; errors below {facts['floor']:g} count as equal. "
        "Every sampler is given the level it works at, never a rounded time step, and starts on the same flow. Solvers "
        "with two calls a step take the most steps that fit. Samplers that stop at a smallest sigma (azula, "
        "DPM-Solver-fast) spend their last call on the data guessed there; azula's are also shown walking to 1e-7. "
        "Our grid `auto` is measured once for each data set from other noises (48 calls, not counted: they are made once "
        "for a model, not for a sample).\n",
        f"Our fixed choice, `{facts['fixed']}`, has at most the error of the **best of all peers** in **{won['fixed']} of "
        f"{won['cells']} cells ({won['fixed'] / won['cells']:.1%})**; the best of our solvers in {won['best']} "
        f"({won['best'] / won['cells']:.1%}). NaN: ours {facts['nan']['sfumato']}, peers {facts['nan']['peers']}.\n",
    ]
    rows = []
    for key, cell in facts["cells"].items():
        for n in (5, 10, 20, 50, 128):
            if n in counts:
                i = counts.index(n)
                own, best = (cell[c]["errors"][i] for c in ("fixed", "best"))
                others = [short(cell[c]["errors"][i]) if c in cell else "" for c in solvers.LIBRARIES]
                rows.append((key if n == 5 else "", str(n), short(own), short(best), *others))
    parts.append(table(("schedule / data", "calls", facts["fixed"], "best of ours", *solvers.LIBRARIES), rows))
    parts += ["\n![error against calls](bench_solvers.png)\n", lost_cells(facts)]
    return "\n".join(parts)


WHY = """Why the digits: without blur their denoiser is, below a level of about 0.3, one of the 256 pictures exactly. A solver
whose last step takes the last guess alone (UniPC and DPM-Solver++ of diffusers, most of azula's) lands on it. Ours of
order 2 and up look back once more in the last step, which pays wherever the data has a density (normals, mixture) and
costs here. Which of the two a network's data is cannot be told from its guesses, and data that is to be sampled and not
stored has a density, so it stays."""


def lost_cells(facts: dict[str, Any]) -> str:
    """Every cell where a peer was better than our fixed choice, in runs."""
    if not facts["lost"]:
        return "There is no cell in which a peer was better.\n"
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in facts["lost"]:
        groups.setdefault((cell["schedule"], cell["data"]), []).append(cell)
    rows = []
    for (schedule, data), cells in groups.items():
        worst = max(cells, key=lambda c: (c["ours"] or 1e9) / max(c["peer"], facts["floor"]))
        peers = Counter(c["peer_name"] for c in cells).most_common(3)
        still = [c["calls"] for c in cells if c["best"] is None or c["best"] > max(c["peer"], facts["floor"])]
        rows.append(
            (
                f"{schedule} / {data}", ranges([c["calls"] for c in cells]),
                f"{short(worst['ours'])} against {short(worst['peer'])} at {worst['calls']}",
                ", ".join(f"{name} ({n})" for name, n in peers), ranges(still) or "none",
            )
        )  # fmt: skip
    head = ("schedule / data", "calls at which a peer was better", "worst", "whose", "where all of ours are behind")
    return f"Cells where a peer was better than `{facts['fixed']}`:\n\n{table(head, rows)}\n\n{WHY}\n"


def chosen_how(facts: dict[str, Any]) -> str:
    """Where the sampler of each library comes from."""
    if facts.get("samplers_from"):
        return "Each library's sampler is the one that was best on the demo's pictures."
    return (
        "Each library's sampler is the one that was best with the first seed, of 5 of ours, 10 of diffusers (averaged and "
        "last weights), 4 of each of the others."
    )


def seconds_part() -> str:
    parts = ["## 3. Quality per second"]
    found = {path.stem: facts for path in sorted(RESULTS.glob("seconds*.json")) if (facts := read(path.stem))}
    if not found:
        return "\n".join([*parts, "", missing("seconds", "seconds")])
    for name, facts in found.items():
        seeds_ = len(facts["seeds"])
        parts.append(
            f"\n`python -m benchmarks.seconds --seconds {facts['seconds']:.0f} --side {facts['side']}` "
            f"(all of it: `make bench`), {facts['data']}: {facts['seconds']:.0f} CPU seconds of training for each library, "
            f"{seeds_} seed{'s' * (seeds_ > 1)}, {facts['samples']} samples. "
            f"{chosen_how(facts)} Kernel distance and sliced Wasserstein distance to the training pictures, precision, "
            f"recall; median (range of the seeds). Real held-out pictures: {facts['floor']['value']:.3f}.\n"
        )
        rows = []
        for who, row in facts["rows"].items():
            rows.append((who, between(row["kernel"]), between(row["sliced"]), f"{row['precision']['median']:.2f}",
                         f"{row['recall']['median']:.2f}", row["sampler"]))  # fmt: skip
        parts.append(table(("library", "kernel", "sliced W.", "precision", "recall", "sampler"), rows))
        networks = [
            (name, f["network"], f"{f['parameters'] / 1e6:.2f} M", ", ".join(str(r["steps"]) for r in runs),
             ", ".join(f"{r['cpu_seconds']:.0f}" for r in runs))
            for name, runs in facts["runs"].items() for f in runs[:1]
        ]  # fmt: skip
        parts += ["", table(("library", "network", "parameters", "training steps", "CPU seconds"), networks)]
        drawn = [row["precision"]["median"] for name, row in facts["rows"].items() if not name.startswith("sfumato")]
        if drawn and max(drawn) < 0.05:
            parts.append(
                "\nNo peer draws pictures yet after these seconds (precision 0, distances of noise): a U-Net of the same number "
                "of parameters takes several times as long for a step, and the peers' recipes expect many more of them. The "
                "table says what these seconds buy on a CPU, not what hours would, and the ratios say no more than this."
            )
        for calls_, ratio in facts["ratio_to_best_peer"].items():
            parts.append(f"\nOurs over the best peer's kernel distance at {calls_} calls: **{ratio:.2g}**.")
        if name == "seconds":
            seconds.draw(facts)
            parts.append("\n![quality per second](bench_seconds.png)")
    return "\n".join([*parts, ""])


def calls_part() -> str:
    head = "## 4. Quality per network call\n"
    facts = read("calls")
    if facts is None:
        return f"{head}\n{missing('calls', 'calls')}"
    calls.draw(facts)
    rows = [(name, *(calls.shown(curve[str(n)]) for n in calls.CALLS)) for name, curve in facts["curves"].items()]
    rows.append(("real held-out pictures", calls.shown(facts["floor"]), *[""] * (len(calls.CALLS) - 1)))
    failed = [
        f"{name} at {n} calls"
        for name, curve in facts["curves"].items()
        for n in calls.CALLS
        if curve[str(n)] is None or curve[str(n)]["value"] > 1.5
    ]
    return "\n".join(
        [
            head,
            f"`python -m benchmarks.calls`: one network ({facts['run']['steps']} training steps, pictures of "
            f"{facts['run']['shape'][-1]} pixels), conditional, not guided; kernel distance of {facts['count']} samples to the "
            "training pictures with its 95 % interval over draws of the samples.\n",
            table(("solver, grid", *(f"{n} calls" for n in calls.CALLS)), rows),
            f"\nWith {facts['count']} samples the intervals are wide; the noises are the same in every row, so rows compare "
            f"better than their intervals say. Failed, with a distance above 1.5: {'; '.join(failed) or 'none'}. These "
            "grids are made for schedules of bounded noise; on the straight one, whose noise has no bound, their first step is a "
            "leap that a method of high order turns into a large error.\n",
            "![quality against calls](bench_calls.png)\n",
        ]
    )


def growth_part() -> str:
    head = "## 5. Growth\n"
    facts = read("growth")
    if facts is None:
        return f"{head}\n{missing('growth', 'growth')}"
    growth.draw(facts)
    rows = []
    for axis, points in facts["axes"].items():
        for i, point in enumerate(points):
            power = facts["exponents"][axis]["seconds"] if i == len(points) - 1 else None
            rows.append((growth.AXES[axis][0] if i == 0 else "", str(point[axis]), between(point["seconds"]),
                         f"{point['memory']:.3f}", "" if power is None else f"{power:.2f}"))  # fmt: skip
    base = ", ".join(f"{name} {value}" for name, value in facts["base"].items() if value)
    return "\n".join(
        [
            head,
            f"`python -m benchmarks.growth`: every point is a process of its own, one thread, DiT of width 192 and depth 6; "
            f"where not varied: {base}. Seconds: median (middle half). Memory: the peak beyond that of the imports, GB. The last "
            "column is the power of the value with which the seconds grow between the last two points.\n",
            table(("what", "value", "seconds", "memory", "power"), rows),
            "\n![growth](bench_growth.png)\n",
        ]
    )


PARTS: tuple[Callable[[], str], ...] = (overhead_part, solvers_part, seconds_part, calls_part, growth_part)


def main() -> None:
    """Write the page."""
    DOCS.mkdir(exist_ok=True)
    page = "\n".join([INTRODUCTION, *(part() for part in PARTS)])
    (DOCS / "benchmarks.md").write_text(page.rstrip() + "\n")
    print(DOCS / "benchmarks.md")


if __name__ == "__main__":
    main()
