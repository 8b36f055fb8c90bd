"""Poses as SDF: one record a pose, heavy atoms in the order of the input with its bonds, charges, isotopes and stereo."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.data.writing import appearing
from sfumato.fields.docking.sdf import block
from sfumato.jobs.making import KEY, Making
from sfumato.training.telling import tell

if TYPE_CHECKING:
    from sfumato.fields.docking.asking import Docked, Pose
    from sfumato.fields.docking.companions import Companions


UNLIKE = 0.3
"""Tanimoto similarity below which a ligand is said to be like nothing known."""


def record(pose: Pose, rank: int, making: Making) -> str:
    """A pose as a record: its rank, and all that is known of it."""
    shown = {"rank": rank, "confidence": f"{pose.scores['confidence']:.4f}" if "confidence" in pose.scores else "",
             "seed": making.seed, "sample": pose.place, "conformer": pose.case.conformer(pose.place), "template": pose.template,
             "similarity": f"{pose.case.similarity:.3f}"}  # fmt: skip
    shown |= {name: f"{value:.4f}" for name, value in pose.scores.items() if name != "confidence"}
    own = {name: value for name, value in shown.items() if value != ""}
    mine = dataclasses.replace(making, number=pose.number, name=pose.case.name)
    return block(pose.case.ligand, pose.places, {**own, KEY: mine.text()}, bool(making.ask.get("hydrogens")))


def save(poses: Sequence[Pose], path: Path, making: Making) -> Path:
    """Poses of one case into a file, in this order. Raises DataError."""
    with appearing(path) as file:
        for rank, pose in enumerate(poses, 1):
            file.write(record(pose, rank, making).encode())
    return path


def file_name(name: str, taken: set[str]) -> str:
    """A name that any system takes for a file, other than those taken."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:80] or "ligand"
    found, k = plain, 1
    while found.lower() in taken:
        k += 1
        found = f"{plain}_{k}"
    taken.add(found.lower())
    return found


def write(companions: Companions, queries: Docked, poses: Sequence[Pose], out: Path, making: Making) -> Iterator[Path]:
    """NAME.sdf for each case, its poses ranked, and poses.csv with a row for each pose that was asked for."""
    from sfumato.fields.docking.rank import ranked

    by_case: dict[str, list[Pose]] = {case.name: [] for case in queries.cases}
    for pose in poses:
        by_case[pose.case.name].append(pose)
    rows: list[tuple[Any, ...]] = []
    taken: set[str] = set()
    for name, own in by_case.items():
        if not own:
            continue
        order, file = ranked(companions.ranker, own), file_name(name, taken)
        yield save(order, out / f"{file}.sdf", making)
        rows += [(name, rank, _sure(pose), f"{file}.sdf", "") for rank, pose in enumerate(order, 1)]
    rows += [(name, "", "", "", reason) for name, reason in queries.failed for _ in range(queries.n)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("complex_name", "rank", "confidence", "path", "error"))
    table.writerows(rows)
    with appearing(out / "poses.csv") as file_:
        file_.write(text.getvalue().encode())
    for name, reason in queries.failed:
        tell(f"failed    {name}: {reason}")
    far = [case for case in queries.cases if case.similarity < UNLIKE]
    if far:
        more = f" and {len(far) - 1} more" if len(far) > 1 else ""
        tell(
            f"unlike    {far[0].name}{more}: like no known pose of the receptor (similarity below {UNLIKE:g}), expect less"
        )
    yield out / "poses.csv"


def _sure(pose: Pose) -> str:
    return f"{pose.scores['confidence']:.4f}" if "confidence" in pose.scores else ""
