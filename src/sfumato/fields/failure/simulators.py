"""Simulators by name, and what a campaign asks them through: physical disturbances in, checked answers out.

NAME is a system that is built in, ``module:function`` of the user's own, or ``gymnasium:ID``. Only `train`, `probability` and
`replay` come here: it is their user's code that runs, because they name it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sfumato.errors import DataError, Wrong, one_line
from sfumato.fields.failure.answers import checked
from sfumato.fields.failure.data import Answers
from sfumato.fields.failure.law import Law
from sfumato.fields.failure.spec import Spec
from sfumato.fields.failure.systems import BUILT_IN, System, named
from sfumato.jobs.imported import imported

CHUNK = 1000
"""Disturbances that a batch simulator is given at once."""
GYM = "gymnasium:"


def system(spec: Spec) -> System:
    """The system that a name stands for. Raises Wrong, DataError."""
    if spec.simulator.startswith(GYM):
        from sfumato.fields.failure.lander import system as gym

        found = gym(spec)
    elif spec.simulator in BUILT_IN:
        found = BUILT_IN[spec.simulator]
        if spec.shape not in (None, found.shape) and len(found.shape) == len(spec.shape or ()):
            found = replace(found, shape=spec.shape or found.shape)
    elif ":" in spec.simulator:
        run = imported(spec.simulator, "simulator")
        shape = spec.shape or tuple(getattr(run, "shape", ()))
        if not shape:
            raise Wrong(f"shape: must be given for {spec.simulator}, as --shape 84 or --shape 41 2 (steps, channels)")
        own = getattr(run, "law", ())
        single = spec.single or bool(getattr(run, "single", False))
        found = System(spec.simulator, run, shape, tuple([own] if isinstance(own, str) else own), single=single)
    else:
        raise Wrong(
            f"simulator = {spec.simulator!r}: must be one of {named()}, gymnasium:ID, or module:function of your own"
        )
    if min(found.shape, default=0) < 1 or len(found.shape) > 2:
        raise Wrong(f"shape = {found.shape}: must be (n,) or (steps, channels), each at least 1")
    law = spec.law or found.law
    symmetry = spec.symmetry if spec.symmetry != "none" else found.symmetry
    return replace(found, law=tuple(law), symmetry=symmetry)  # type: ignore[arg-type]


def ran(system: System, physical: np.ndarray) -> Answers:
    """One batch through a batch simulator, which must leave its input alone. Raises DataError."""
    given = physical.copy()
    try:
        answer = system.run(given)
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(
            f"{system.name}: raised {said} for {len(physical)} disturbances of shape {system.shape}"
        ) from error
    if not np.array_equal(given, physical):
        raise DataError(f"{system.name}: changes the disturbances that it is given; let it work on a copy")
    return checked(answer, len(physical), system.name)


@dataclass(frozen=True)
class Asked:
    """A system with its law: disturbances x (B, n), standard normal, to parts of answers as they come."""

    system: System
    law: Law
    workers: int = 1

    def __call__(self, x: np.ndarray) -> Iterator[tuple[np.ndarray, Answers]]:
        if self.system.single:
            from sfumato.fields.failure.pool import one_by_one

            yield from one_by_one(self.system, self.law.physical(x), self.workers)
            return
        for start in range(0, len(x), CHUNK):
            part = x[start : start + CHUNK]
            yield np.arange(start, start + len(part)), ran(self.system, self.law.physical(part))

    def whole(self, x: np.ndarray) -> Answers:
        """All answers in the order of x, kept nowhere: for looks and replays."""
        robustness, path = np.full(len(x), np.nan), None
        for rows, answers in self(x):
            robustness[rows] = answers.robustness
            if answers.trajectory is not None:
                path = np.full((len(x), *answers.trajectory.shape[1:]), np.nan) if path is None else path
                path[rows] = answers.trajectory
        return Answers(robustness, path)


def opened(spec: Spec, workers: int | None = None) -> Asked:
    """The simulator of a recipe, ready to be asked. Raises Wrong, DataError."""
    import os

    found = system(spec)
    return Asked(found, Law.of(found.shape, found.law), workers or os.cpu_count() or 1)


# ---- a first look --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class First:
    """What the first calls say: numbers that the plan of a campaign rests on."""

    calls: int
    spread: float
    middle: float
    tenth: float
    least: float
    failing: int
    seconds: float


def looked(x: np.ndarray, answers: Answers, again: np.ndarray, seconds: float, name: str) -> First:
    """Judge the first calls: x[0] is the nominal run, 0, and ``again`` what its last rows answered when asked a second time.

    Raises DataError where a campaign makes no sense, and says what would.
    """
    r = answers.robustness
    plain = r[1 : len(r)]
    finite = plain[np.isfinite(plain)]
    if not np.isfinite(r[0]) or not len(finite):
        raise DataError(
            f"{name}: robustness of the nominal run, a disturbance of 0, is {r[0]}; a finite number is expected"
        )
    if not np.array_equal(r[-len(again) :], again, equal_nan=True):
        raise DataError(
            f"{name}: gave {r[-1]} and then {again[-1]} for the same disturbance; it must be a "
            "function of it: put the noise into the "
            "disturbance"
        )
    failing = int((finite <= 0).sum())
    share = failing / len(finite)
    if r[0] <= 0:
        turned = "; most runs look like failures: is the sign of the robustness turned?" if share > 0.5 else ""
        raise DataError(
            f"{name}: the nominal run, a disturbance of 0, fails (robustness {r[0]:g}, failure is at most 0){turned}"
        )
    if share > 0.2:
        half = 1.96 * math.sqrt(share * (1 - share) / len(finite))
        raise DataError(
            f"{name}: {failing} of {len(finite)} plain runs fail already, p = {share:.2g} +- "
            f"{half:.1g}: plain Monte Carlo is enough, "
            "no campaign is needed"
        )
    values, counts = np.unique(finite, return_counts=True)
    if len(values) == 1:
        raise DataError(
            f"{name}: robustness is {values[0]:g} whatever the disturbance: there is no way to climb; "
            "give a distance to failure, or a "
            "law that is wider"
        )
    top = int(counts.argmax())
    if counts[top] > 0.5 * len(finite) and values[top] > 0:
        raise DataError(
            f"{name}: robustness is {values[top]:g} in {counts[top]} of {len(finite)} runs: there is "
            "no way to climb; give a number "
            "that falls towards failure"
        )
    middle, spread = float(np.median(finite)), float(finite.std())
    tenth = float(np.quantile(finite, 0.1, method="inverted_cdf"))
    return First(len(r), spread, middle, tenth, float(finite.min()), failing, seconds)


def nominal_first(count: int, n: int) -> np.ndarray:
    """The first disturbances of a campaign, (count, n): 0, and then draws of the law."""
    from sfumato.fields.failure.chain import normals

    x: np.ndarray = normals(("first",), count, n)
    x[0] = 0.0
    return x
