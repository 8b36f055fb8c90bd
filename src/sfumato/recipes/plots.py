"""Pictures of a run: drawn with matplotlib (extra ``plots``), imported when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#718096"


def _figure(width: float = 6.5, height: float = 4.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def available() -> bool:
    """Whether matplotlib is installed."""
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def by_level(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Held-out loss per noise level, from the records of log.jsonl that have it: early ones pale, the last one dark."""
    figure, axes = _figure()
    for i, record in enumerate(records):
        last = i == len(records) - 1
        axes.plot(record["levels"], record["by_level"], color=BLUE, alpha=1 if last else 0.15 + 0.4 * i / len(records),
                  lw=2.2 if last else 1, label=f"step {record['step']}" if last or i == 0 else None)  # fmt: skip
    axes.axhline(1, color=GREY, lw=0.8, ls="--")
    axes.text(records[-1]["levels"][-1], 1, "knows nothing", color=GREY, va="bottom", ha="right", fontsize=8)
    axes.set_yscale("log")
    axes.set_xlabel("noise level, ln(sigma / alpha)   (left: nearly data, right: nearly noise)")
    axes.set_ylabel("held-out mean squared error of v")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def training(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Training and held-out loss against steps."""
    figure, axes = _figure()
    rows = [r for r in records if "loss" in r]
    held = [r for r in records if "held_out" in r]
    axes.plot(
        [r["step"] for r in rows],
        [r["loss"] for r in rows],
        color=BLUE,
        alpha=0.35,
        lw=1,
        label="training, each 10th step",
    )
    axes.plot(
        [r["step"] for r in held],
        [r["held_out"] for r in held],
        color=ORANGE,
        marker="o",
        ms=3,
        label="held out, averaged weights",
    )
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def against_steps(curves: Mapping[str, Mapping[int, float]], floor: float, name: str, path: Path) -> None:
    """Quality against the number of sampling steps, one curve a solver, and the floor of real held-out data."""
    figure, axes = _figure()
    for (label, curve), colour in zip(curves.items(), (BLUE, ORANGE, "#38a169", "#805ad5"), strict=False):
        axes.plot(list(curve), list(curve.values()), marker="o", ms=4, color=colour, label=label)
    axes.axhline(floor, color=GREY, ls="--", lw=1)
    axes.text(
        max(max(c) for c in curves.values()),
        floor,
        "real held-out pictures",
        color=GREY,
        va="bottom",
        ha="right",
        fontsize=8,
    )
    axes.set_xscale("log")
    ticks = sorted({steps for curve in curves.values() for steps in curve})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("sampling steps")
    axes.set_ylabel(name)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
