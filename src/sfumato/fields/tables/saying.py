"""What is said of a made table: its scores as text, each beside its floor, and what they mean in words."""

from __future__ import annotations

from collections.abc import Sequence

from sfumato.fields.tables.scoring import Score
from sfumato.fields.tables.trees import detector

NEAR = 0.55  # share of rows nearer to training from which it is an alarm
NAMED = 0.53  # area under the curve of an attack, likewise
ALARM = (
    3 * 2**0.5 / 1.645
)  # half widths of a 90 % interval that are three deviations of a difference of two such scores


def as_text(rows: Sequence[Score], reference: int, who: str) -> str:
    """The scores as aligned plain text, each beside its floor and beside shuffled columns."""
    lines = [("metric", "value", "90% interval", "floor", "shuffled", "better", "n")]
    for row in rows:
        ends = "" if row.low is None or row.high is None else f"[{row.low:.3f}, {row.high:.3f}]"
        others = ("" if value is None else f"{value:.3f}" for value in (row.floor, row.shuffled))
        floor, shuffled = others
        lines.append((row.name, f"{row.value:.3f}", ends, floor, shuffled, row.better, str(row.n)))
    widths = [max(map(len, column)) for column in zip(*lines)]
    head = f"made rows against {who}; {reference} training rows; floor = other real rows, shuffled = columns drawn independently"
    body = ("  ".join((line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:]))).rstrip() for line in lines)
    return "\n".join((head, *body))


def too_good(row: Score) -> bool:
    """Whether a score is better than that of other real rows far beyond chance, which no honest table is."""
    if row.name not in ("shape", "trend") or row.low is None or row.floor is None:
        return False
    return row.value - ALARM * (row.value - row.low) > row.floor


def remarks(rows: Sequence[Score]) -> tuple[str, ...]:
    """What the scores say in words, and the alarm where rows are copies."""
    found = {row.name: row for row in rows}
    told = found["detection"]
    notes = [
        f"Boosted trees ({detector()}) tell made rows from real ones with a score of {told.value:.2f} for {told.n} rows; real "
        f"rows from real ones {told.floor:.2f}, independent columns {told.shuffled:.2f} (1: not at all)."
    ]
    notes += [
        f"ALARM: {row.name} is {row.value:.3f} where other real rows reach {row.floor:.3f}, far beyond chance: real rows of the "
        "same kind are farther away; these are the very rows it is measured by, or were chosen by this score"
        for row in rows
        if too_good(row)
    ]
    copies, near = found["copied"], found.get("nearer_to_training")
    if copies.low is not None and copies.floor is not None and copies.low > copies.floor:
        notes.append(
            f"ALARM: {copies.value:.1%} of the made rows are training rows to the letter, where {copies.floor:.1%} of real "
            "rows repeat a training row: the model knows rows by heart. Train it for fewer steps."
        )
    if near is not None and near.low is not None and near.low > NEAR:
        notes.append(
            f"ALARM: {near.value:.1%} of the made rows lie nearer to a training row than to an equally large set of others "
            "(50% would be right): the model knows rows by heart. Train it for fewer steps."
        )
    return (*notes, *_attacked([row for row in rows if row.name.startswith("attack_by_")], near is not None))


def _attacked(rows: Sequence[Score], apart: bool) -> list[str]:
    """What the attacks found, and what that does not say."""
    if not apart:
        return [
            "No rows were held out, so nothing was attacked and learning by heart could not be seen: give --held-out FILE."
        ]
    if not rows:
        return ["Too few rows are held out to attack: nothing can be said of who was trained on."]
    notes = [
        f"ALARM: an attack by {row.name.removeprefix('attack_by_')} finds out which rows were trained on in {row.value:.0%} of "
        "pairs (50% is guessing): the made rows tell who is in the data. Train it for fewer steps."
        for row in rows
        if row.low is not None and row.low > NAMED
    ]
    worst = max(rows, key=lambda row: row.value)
    return [
        *notes,
        f"Two attacks tell rows that were trained on from others in at most {worst.value:.0%} of pairs (50% is guessing). "
        "Other attacks may do better, and nearer_to_training alone proves little: tables that pass it have been attacked with "
        'success ("The DCR Delusion", arXiv 2505.01524). No score here is a guarantee.',
    ]
