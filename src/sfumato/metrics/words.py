"""What a table of metrics says, in sentences. Each follows from all of its row: value, interval and floor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sfumato.metrics.table import Row

INCEPTION = ("fid", "kid")  # of a space of their own, whichever space the other rows are of
DISTANCES = ("kernel_distance", "frechet_distance", "sliced_wasserstein", *INCEPTION)
NOT_FID = (
    "frechet_distance is measured between features of the space named here, not of the Inception network: it is not the FID "
    "of papers and must not be set beside theirs (`sfumato evaluate RUN --inception FILE` measures that)"
)


# The floor is one draw too, as uncertain as the value, so a difference is sqrt 2 times as uncertain as the interval says. An
# alarm is at four standard deviations: six are looked for in a table of two spaces, and at three 2 of 40 honest sets had one.
BEYOND, ALARM = 2**0.5, 4 * 2**0.5 / 1.6449


def above_floor(row: Row) -> bool:
    """Whether a distance is larger than that of real items beyond chance (one-sided, 95%)."""
    return row.floor is not None and row.value - BEYOND * (row.value - row.low) > row.floor


def below_floor(row: Row) -> bool:
    """Whether a distance is smaller than that of real items far beyond chance: no honest sample is."""
    by_chance = ALARM * (row.high - row.value)
    return row.metric in DISTANCES and row.floor is not None and row.value + by_chance < row.floor


def alarms(rows: Iterable[Row]) -> list[Row]:
    """The distances that are too small to be honest: below the floor far beyond chance; or a Frechet distance of less than a
    fifth of its floor while the kernel distance sees a difference, which happens where samples were made for its moments."""
    by = {row.metric: row for row in rows}
    kernel = by.get("kernel_distance")
    seen = kernel is not None and above_floor(kernel)

    def fitted(row: Row) -> bool:
        return seen and row.metric == "frechet_distance" and row.floor is not None and row.value < row.floor / 5

    return [row for row in by.values() if below_floor(row) or fitted(row)]


def sentences(rows: Iterable[Row]) -> list[str]:
    """A sentence or two for each kind of metric that is there; nothing for others."""
    by = {row.metric: row for row in rows}
    said = [_distance(by[name]) for name in DISTANCES[:1] if name in by]
    said += [
        f"ALARM: {row.metric} is below the floor ({_number(row.value)}, floor {_number(row.floor)}) far beyond chance: real "
        "items of the same kind are farther away; the samples are copies, or were chosen or trained by this very distance"
        for row in alarms(by.values())
    ]
    if {"precision", "recall"} <= set(by):
        said.append(_shares(by["precision"], by["recall"]))
    if "classifier_accuracy" in by:
        said.append(_told(by["classifier_accuracy"]))
    if "copied" in by:
        said.append(_copied(by["copied"]))
    if "frechet_distance" in by:
        said.append(NOT_FID)
    return said


def agreement(spaces: Mapping[str, Iterable[Row]], who: str = "the samples", whom: str = "the data") -> list[str]:
    """Whether several feature spaces say the same of the kernel distance; an alarm where one of them alone is too good: a model
    can be trained, or chosen, to be near in one."""
    rows = {name: tuple(found) for name, found in spaces.items()}
    kernels = {name: row for name, found in rows.items() for row in found if row.metric == "kernel_distance"}
    apart = {name for name, row in kernels.items() if above_floor(row)}
    low = [name for name, found in rows.items() if any(row.metric not in INCEPTION for row in alarms(found))]
    both = len(kernels) == 2
    said = []
    if low:
        said.append(
            f"ALARM: below the floor in {', '.join(low)}: nearer to {whom} than other real items are, far beyond chance"
        )
    are = "is" if " " not in who else "are"
    if apart and apart != set(kernels):
        blind = ", ".join(name for name in kernels if name not in apart)
        said.append(
            f"the spaces differ: {who} {are} told from {whom} in {', '.join(sorted(apart))}, and not in {blind}"
        )
    elif apart:
        said.append(f"{who} {are} told from {whom} in {'both spaces' if both else 'every space'}")
    elif not low:
        said.append(f"{who} {are} not told from {whom} in {'either space' if both else 'any space'} by kernel distance")
    return said


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _distance(row: Row) -> str:
    """How far from the data, beside how far other real items are."""
    there = f"kernel_distance: {_number(row.value)} from the data, where as many other real items are at {_number(row.floor)}"
    if row.floor is None:
        return there
    if above_floor(row):
        return f"{there}: the samples differ from the data beyond chance (0 is no difference)"
    if below_floor(row):
        return f"{there}: nearer than real items are, see the alarm"
    return f"{there}: with {row.n} samples no difference is seen by this distance"


def _shares(precision: Row, recall: Row) -> str:
    return (
        f"precision: {precision.value:.0%} of the samples lie where data lies (other real items: {_share(precision)}); recall: "
        f"the samples reach {recall.value:.0%} of the data (other real items: {_share(recall)})"
    )


def _share(row: Row) -> str:
    return "unknown" if row.floor is None else f"{row.floor:.0%}"


def _told(row: Row) -> str:
    guess = max(0.5, row.floor or 0.5)
    verdict = "more than chance" if row.low > guess else "which is not more than chance"
    return (
        f"classifier_accuracy: a simple classifier is right about {row.value:.0%} of samples and data ({verdict}: it gets "
        f"{_share(row)} of other real items right, and 50% is guessing)"
    )


def _copied(row: Row) -> str:
    near = f"copied: {row.value:.0%} of the samples are nearer to a training item than nearly all real items are"
    if row.low > max(0.05, row.floor or 0.0):
        return f"{near}, more than chance: it has learned some by heart"
    return f"{near} (other real items: {_share(row)}), no sign of learning by heart"
