"""How samples are drawn: what can be asked for, and what is done where nothing is asked for.

Four layers, each filling what the one before left open: what was asked, what a conversion brings, what the field does, and
what suits the process. Solvers and grids are spelt with their own parameters: ``churn:churn=2.5,low=0.75``.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from sfumato.errors import Wrong, check

if TYPE_CHECKING:
    from sfumato.diffusion import Guess, Solver
    from sfumato.diffusion.grids import Grid


@dataclass(frozen=True)
class Walk:
    """The walk from noise to data. What is not given is chosen: by the run's conversion, by its field, by its process."""

    steps: int | None = None
    """Steps from noise to data (for all solvers but heun, dpmpp_2s, churn and predictor_corrector, calls of the network)."""
    tol: float | None = None
    """Instead of steps: as many as each sample needs to keep its error below this, in units of the data's spread."""
    solver: str | None = None
    """euler, ancestral, heun, dpmpp_2m, dpmpp_2s, ab2, ab3, ab4, unipc, churn, euler_maruyama, predictor_corrector, adaptive;
    leap for flow maps, descent for equilibrium matching, confidence, random_order, entropy_bound and remask for tokens; fit,
    which is fitted to this run for the steps asked for (once, in 30 s). With parameters: churn:churn=2.5,low=0.75 or
    leap:gamma=1,mean=true. One for each part of a product: "states=euler; values=dpmpp_2m"."""
    eta: float | None = None
    """Fresh noise of euler and dpmpp_2m (the solver where none is given beside it): 0 none (deterministic), 1 as much as DDPM.
    Some mends a network's errors."""
    grid: str | None = None
    """Where the steps are: auto (equal error, measured), cosine, uniform, karras, logsnr; karras:sigma_min=0.03."""
    shift: float | None = None
    """Above 1 the steps move to more noise, below 1 to less: on the straight schedule the stops have this many times the
    noise for the signal."""
    batch: int | None = None
    """Samples computed at once."""
    w: float | None = None
    """Guidance strength, where there is something to guide by: 0 unconditional, 1 conditional, above 1 guided."""
    guide_from: float | None = None
    """Guide only at times from this one ..."""
    guide_to: float | None = None
    """... to this one (0 is data, 1 is noise); plainly conditional outside."""
    guide_by: str | None = None
    """How w above 1 pushes: plain, or apg, of which the part that over-saturates pictures is left out (apg:parallel=0.2 keeps a
    fifth of it, limit=9 bounds the norm of the push)."""

    def __post_init__(self) -> None:
        low, high = self.guide_from or 0.0, 1.0 if self.guide_to is None else self.guide_to
        check(
            self,
            (self.steps is None or self.steps >= 1, "steps", "at least 1"),
            (self.tol is None or 0 < self.tol < math.inf, "tol", "above 0"),
            (self.steps is None or self.tol is None, "tol", "given without steps: it chooses them"),
            (self.eta is None or 0 <= self.eta < math.inf, "eta", "0 or more"),
            (self.shift is None or 0 < self.shift < math.inf, "shift", "above 0"),
            (self.batch is None or self.batch >= 1, "batch", "at least 1"),
            (self.w is None or math.isfinite(self.w), "w", "a finite number"),
            (0 <= low <= high <= 1, "guide_from", "at most guide_to, both from 0 to 1"),
        )

    def over(self, base: Walk) -> Walk:
        """This, with what it leaves open as ``base`` has it. Of steps and tol the one given here stands."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) is not None}
        chosen = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)} | given
        if "tol" in given:
            chosen["steps"] = None
        elif "steps" in given:
            chosen["tol"] = None
        return Walk(**chosen)


USUAL = Walk(steps=20, solver="euler", eta=0.0, grid="auto", shift=1.0, batch=16, w=1.5, guide_from=0.0, guide_to=1.0,
             guide_by="plain")  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """Which network, and which noise."""

    seed: int = 0
    """Sample i depends on the seed and i alone."""
    ema: float | None = None
    """Width of the average to use (default: the run's first; any other is rebuilt from the snapshots)."""
    loops: int | None = None
    """Rounds of the middle blocks of a network trained with loops (default: the most of its training)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the network's arithmetic. auto: on a CPU fp32, by which a sample is the same in any batch to about 1e-5 (in bf16 to
    about 0.1); on an accelerator bf16, unless the run was trained in fp32."""
    lora: tuple[str, ...] = ()
    """Low-rank changes to add, of runs that were tuned from this one: FILE (or the run), or FILE=0.5 for half of it."""

    def __post_init__(self) -> None:
        check(
            self,
            (abs(self.seed) < 2**63, "seed", "a whole number of at most 63 bits"),
            (self.ema is None or 0 < self.ema < 0.28, "ema", "a width between 0 and 0.28"),
            (self.loops is None or self.loops >= 1, "loops", "at least 1"),
        )


DESCENT = 250
"""Calls of the network that a descent makes at most, unless asked otherwise."""


def is_fit(walk: Walk) -> bool:
    """Whether this walk has a solver that is fitted to its run; see `fits.py`."""
    return (walk.solver or "").partition(":")[0].strip() == "fit"


# ---- spelling --------------------------------------------------------------------------------------------------------


def spelt(what: str, text: str, known: Mapping[str, Any]) -> Any:
    """What ``name`` or ``name:key=value,key=value`` stands for: one of ``known`` (frozen dataclasses, or functions whose
    keywords are the parameters), with its parameters changed.

    Raises Wrong for an unknown name, key, or a value of another type, and says what is close.
    """
    name, _, rest = text.partition(":")
    name = name.strip()
    if name not in known:
        raise Wrong(f"{what} = {text!r}: must be one of {', '.join(known)}{_close(name, known)}")
    base = known[name]
    if not rest.strip():
        return base
    graded = any(type(other) is type(base) and other.order != base.order for other in known.values() if _ordered(base))
    parameters, changes = _parameters(base, graded), {}
    for item in rest.split(","):
        key, sign, value = (part.strip() for part in item.partition("="))
        if not sign or key not in parameters:
            can = ", ".join(f"{key}={usual}" for key, usual in parameters.items()) or "none"
            raise Wrong(f"{what} = {text!r}: {name} has no parameter {key!r}; it has {can}{_close(key, parameters)}")
        changes[key] = _value(what, text, key, value, parameters[key])
    if not dataclasses.is_dataclass(base):
        return partial(base, **changes)
    try:
        return dataclasses.replace(base, **changes)  # type: ignore[type-var]
    except ValueError as error:
        raise Wrong(f"{what} = {text!r}: {error}") from error


def _close(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def _ordered(base: Any) -> bool:
    return dataclasses.is_dataclass(base) and "order" in {f.name for f in dataclasses.fields(base)}


def _parameters(base: Any, graded: bool = False) -> dict[str, Any]:
    """The numbers and switches of a dataclass or function, with their usual values. The order is one of a class that is
    known in several orders (``graded``), and what it is of the others."""
    if dataclasses.is_dataclass(base):
        names = [f.name for f in dataclasses.fields(base) if f.init and (graded or f.name != "order")]
        values = {name: getattr(base, name) for name in names}
    else:
        every = inspect.signature(base).parameters.values()
        values = {p.name: p.default for p in every if p.default is not inspect.Parameter.empty}
    return {name: value for name, value in values.items() if isinstance(value, (bool, int, float))}


def _value(what: str, text: str, key: str, value: str, usual: Any) -> Any:
    try:
        if isinstance(usual, bool):
            return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
        number = float(value)
        if isinstance(usual, int):
            if number != int(number):
                raise ValueError
            return int(number)
        if not math.isfinite(number) and key != "rho":
            raise ValueError
        return number
    except (KeyError, ValueError, OverflowError):
        kind = (
            "true or false" if isinstance(usual, bool) else "a whole number" if isinstance(usual, int) else "a number"
        )
        raise Wrong(f"{what} = {text!r}: {key} must be {kind}, not {value!r}") from None


def solvers_of(process: Any) -> dict[str, Any]:
    """Every solver that walks the world of a process, by name."""
    from sfumato.diffusion import SOLVERS
    from sfumato.diffusion.unmasking import TOKEN_SOLVERS

    return {name: each for name, each in {**SOLVERS, **TOKEN_SOLVERS}.items() if process.states in each.states}


ONLY = {
    "leap": "leap is for flow maps, which `sfumato distill` makes",
    "descent": "descent is for equilibrium matching, --method.process equilibrium of `sfumato train`",
}
"""Solvers that only some runs have."""


def _walks(text: str, process: Any, own: Mapping[str, Any]) -> Any:
    """The solver that a text spells, for the world of a process. Raises Wrong, and says which world another one is for."""
    from sfumato.diffusion import SOLVERS
    from sfumato.diffusion.unmasking import TOKEN_SOLVERS

    name, fitting = text.partition(":")[0].strip(), {**solvers_of(process), **own}
    elsewhere = {**SOLVERS, **TOKEN_SOLVERS}.get(name)
    if name not in fitting and (name in ONLY or elsewhere is not None):
        why = ONLY[name] if elsewhere is None else f"it walks {' and '.join(elsewhere.states)}, not {process.states}"
        raise Wrong(f"solver = {text!r}: {why}; must be one of {', '.join(fitting)}")
    return spelt("solver", text, fitting)


def solver_of(walk: Walk, process: Any, more: Mapping[str, Any]) -> Solver:
    """The solver of a resolved walk; ``more`` are those that only this run has. Raises Wrong."""
    from sfumato.diffusion import Parts

    text = walk.solver or "euler"
    if re.match(r"\s*\w+\s*=", text):
        if process.states != "parts":
            raise Wrong(f"solver = {text!r}: names parts, and the data of this run has none")
        items = [item.partition("=") for item in text.split(";") if item.strip()]
        named = {name.strip(): of.strip() for name, _, of in items}
        if unknown := [name for name in named if name not in process.moving()]:
            raise Wrong(f"solver = {text!r}: no part {unknown[0]!r}; the parts are {', '.join(process.moving())}")
        return Parts({name: _eta(_walks(of, process.moving()[name], {}), walk, of) for name, of in named.items()})
    return _eta(_walks(text, process, more), walk, text)


def noisy(usual: str | None, process: Any) -> str | None:
    """The solver for fresh noise, where that alone was asked for: the usual one if it draws some, else dpmpp_2m where that
    walks this world."""
    fitting = solvers_of(process)
    draws = hasattr(fitting.get(usual or ""), "eta") or usual not in fitting
    return usual if draws or "dpmpp_2m" not in fitting else "dpmpp_2m"


def _eta(solver: Any, walk: Walk, text: str) -> Any:
    """With the walk's fresh noise, where the solver has that parameter and neither its name (as of ancestral) nor its
    spelling (euler:eta=0) says it."""
    said = {item.partition("=")[0].strip() for item in text.partition(":")[2].split(",")}
    if getattr(solver, "eta", None) == 0.0 and walk.eta and "eta" not in said:
        return dataclasses.replace(solver, eta=walk.eta)
    return solver


def grid_of(walk: Walk, measured: Grid | None) -> Grid:
    """The grid of a resolved walk; ``measured`` is what auto stands for, cosine where nothing was. Raises Wrong."""
    from sfumato import diffusion as d

    grids = {"cosine": d.cosine, "uniform": d.uniform, "karras": d.karras, "logsnr": d.logsnr}
    grid = spelt("grid", walk.grid or "auto", {"auto": measured or d.cosine, **grids})
    return d.ShiftedGrid(grid, walk.shift or 1.0)


@dataclass(frozen=True)
class Plain:
    """Guidance by the whole push, in every world."""

    def fits(self, states: str) -> bool:
        """Whether it guides states of this kind."""
        return True

    def around(self, guess: Guess, w: float, names: Sequence[str], instead: Mapping[str, Any] | None) -> Any:
        """The guided denoiser."""
        from sfumato.diffusion import guide

        return guide(guess, w, names, instead)


@dataclass(frozen=True)
class Projected(Plain):
    """Guidance by what of the push is not parallel to the guess; see `diffusion.apg`."""

    parallel: float = 0.0
    limit: float = math.inf

    def __post_init__(self) -> None:
        check(self, (0 <= self.parallel <= 1, "parallel", "a share from 0 to 1"), (self.limit > 0, "limit", "above 0"))

    def fits(self, states: str) -> bool:
        return states == "vectors"

    def around(self, guess: Guess, w: float, names: Sequence[str], instead: Mapping[str, Any] | None) -> Any:
        from sfumato.diffusion import apg

        if w <= 1:  # nothing is pushed beyond what was asked for: 0 is unconditional, 1 conditional
            return super().around(guess, w, names, instead)
        return apg(guess, w, self.parallel, None if math.isinf(self.limit) else self.limit, names, instead)


def guidance_of(walk: Walk, process: Any) -> Callable[[Guess, Sequence[str], Mapping[str, Any] | None], Guess]:
    """What guides a denoiser on a resolved walk: by which conditions, and what stands instead of them on the weak side. Raises
    Wrong."""
    from sfumato.diffusion import during

    how: Plain = spelt("guide_by", walk.guide_by or "plain", {"plain": Plain(), "apg": Projected()})
    if not how.fits(process.states):
        raise Wrong(f"guide_by = {walk.guide_by!r}: it pushes vectors, and the states of this run are {process.states}")
    w, low, high = walk.w, walk.guide_from or 0.0, 1.0 if walk.guide_to is None else walk.guide_to
    assert w is not None

    def guided(guess: Guess, names: Sequence[str], instead: Mapping[str, Any] | None) -> Guess:
        held = how.around(guess, w, names, instead)
        return held if low <= 0 and high >= 1 else during(held, low, high)

    return guided
