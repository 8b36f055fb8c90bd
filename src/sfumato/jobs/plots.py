"""Pictures of a run: drawn with matplotlib (extra ``plots``), imported when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from sfumato.metrics.likelihood import Levels

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
    axes.set_yscale("symlog", linthresh=0.1)  # two steps may be off by a million
    ticks = sorted({steps for curve in curves.values() for steps in curve})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("sampling steps")
    axes.set_ylabel(name)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def level_curve(levels: Levels) -> dict[str, list[float]]:
    """The error of v by noise level, as plain numbers: level, mean over the items, 90% interval."""
    from sfumato.metrics.intervals import mean_interval

    found = [mean_interval(column) for column in levels.v_error.T]
    names = ("error", "low", "high")
    return {"level": levels.levels.tolist(), **{name: list(values) for name, values in zip(names, zip(*found))}}


def report(
    strips: Mapping[str, np.ndarray], curve: Sequence[Mapping[str, float]], floor: float | None,
    levels: Mapping[str, Mapping[str, Sequence[float]]], path: Path, names: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """One picture of a model: rows of pictures over quality against steps and loss per noise level, where they are given.

    Args:
        strips: title -> pictures as bytes, (N, H, W), (N, H, W, 3) or (N, H, W, 4), equally many in each.
        curve: kernel distance with its interval at each number of steps.
        floor: the kernel distance of real held-out pictures.
        levels: title -> curve, from `level_curve`.
        names: what stands below each picture of the first strip, its class.
    """
    from matplotlib.figure import Figure

    count, height, width = next(iter(strips.values())).shape[:3]
    inches = 11.0
    tall = inches * 0.97 * height / width / count + 0.3 + 0.15 * bool(names)  # a strip with its title
    panels = [draw for draw, given in ((_steps, curve), (_levels, levels)) if given]
    sizes = [tall] * len(strips) + [3.6] * bool(panels)
    figure = Figure(figsize=(inches, sum(sizes)), layout="constrained")
    parts: Any = figure.subfigures(len(sizes), 1, height_ratios=sizes) if len(sizes) > 1 else [figure]
    for part, (title, pictures) in zip(parts, strips.items()):
        axes = part.add_subplot()
        axes.imshow(_strip(pictures), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(title, loc="left", fontsize=10, color="#2d3748", pad=3)
        axes.axis("off")
        if names:
            end = axes.get_xlim()[1]
            for i, name in enumerate(names):
                axes.text((i + 0.5) / count * end, axes.get_ylim()[0], _short(name), ha="center", va="top", fontsize=7,
                          color="#2d3748")  # fmt: skip
            names = None
    if panels:
        for axes, draw in zip(parts[-1].subplots(1, len(panels), squeeze=False)[0], panels):
            axes.spines[["top", "right"]].set_visible(False)
            draw(axes, curve, floor, levels)
    figure.savefig(path, dpi=150)


def _short(name: str, most: int = 13) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _strip(pictures: np.ndarray) -> np.ndarray:
    """Pictures side by side with white between them, enlarged by a whole factor."""
    import numpy as np

    size = pictures.shape[1]
    factor = max(1, round(128 / size))
    pictures = pictures.repeat(factor, 1).repeat(factor, 2)
    gap = np.full((pictures.shape[1], max(2, size * factor // 16), *pictures.shape[3:]), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def _steps(axes: Any, curve: Sequence[Mapping[str, float]], floor: float | None, levels: Any) -> None:
    steps, value = ([row[name] for row in curve] for name in ("steps", "kernel_distance"))
    wide = [
        [max(0.0, r["kernel_distance"] - r["low"]) for r in curve],
        [max(0.0, r["high"] - r["kernel_distance"]) for r in curve],
    ]
    axes.errorbar(steps, value, yerr=wide, color=BLUE, marker="o", ms=4, lw=1.8, elinewidth=1, capsize=3)
    if floor is not None:
        axes.axhline(floor, color=GREY, ls="--", lw=1)
        axes.annotate("real held-out pictures", (1, floor), xycoords=("axes fraction", "data"), xytext=(0, 3),
                      textcoords="offset points", ha="right", fontsize=8, color=GREY)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(steps, [f"{s:g}" for s in steps])
    axes.minorticks_off()
    axes.set_xlabel("sampling steps")
    axes.set_ylabel(f"kernel distance, {curve[0]['n']:g} samples, 90 %", fontsize=9)
    axes.set_title("quality against steps", loc="left", fontsize=10, color="#2d3748")


def _levels(axes: Any, curve: Any, floor: float | None, levels: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for (title, found), colour in zip(levels.items(), (BLUE, ORANGE)):
        axes.plot(found["level"], found["error"], color=colour, lw=1.8, label=title)
        axes.fill_between(found["level"], found["low"], found["high"], color=colour, alpha=0.18, lw=0)
    axes.axhline(1, color=GREY, lw=1, ls="--")
    axes.annotate("knows nothing", (1, 1), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
                  ha="right", fontsize=8, color=GREY)  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("noise level, ln(sigma / alpha)   (left: nearly data, right: nearly noise)", fontsize=9)
    axes.set_ylabel("mean squared error of v", fontsize=9)
    axes.set_title("loss per noise level", loc="left", fontsize=10, color="#2d3748")
    axes.legend(frameon=False, fontsize=8)
