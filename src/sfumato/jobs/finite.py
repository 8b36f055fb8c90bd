"""Samples that are not finite, and memory that is too small for them: what is said, and what is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sfumato.errors import NonFiniteSample
from sfumato.jobs.recipe import say
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from sfumato.diffusion import Drawn
    from sfumato.diffusion.tree import Tree


def unfinite(x: Tree) -> list[int]:
    """The rows of a tree (b, ...) in which some number is not finite."""
    from sfumato.diffusion import tree

    bad: set[int] = set()
    for value in tree.leaves(x):
        if value.is_floating_point():
            bad |= set((~value.isfinite().reshape(len(value), -1).all(1)).nonzero()[:, 0].tolist())
    return sorted(bad)


def whence(draw: Callable[..., Iterator[Drawn]], begin: Any) -> str:
    """At which step and time a batch stopped being finite, in words: it is drawn again, and looked at after each step.

    Args:
        draw: called with begin and look, gives the batch once more. begin: process, z, times, query -> first state and times.
    """
    times: list[Any] = []
    found: list[int] = []

    def noting(process: Any, z: Tree, own: Tree, query: Mapping[str, Tree]) -> tuple[Tree, Tree]:
        x_t, stops = begin(process, z, own, query)
        times[:] = [stops]
        return x_t, stops

    def look(numbers: Sequence[int], step: int, steps: int, x: Tree) -> None:
        if not found and unfinite(x):
            found.extend((step, steps))

    for _ in draw(begin=noting, look=look):
        pass
    if not found:
        return " after the last step, at t = 0"
    t = times[0][found[0] - 1]
    at = "" if isinstance(t, Mapping) or t.ndim else f", at t = {float(t):.4g}"  # of products each part has its own
    return f" from step {found[0]} of {found[1]} on{at}"


def refused(numbers: Sequence[int], where: str, solver: str | None) -> NonFiniteSample:
    """What to say of samples of these numbers."""
    more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
    return NonFiniteSample(
        f"sample {numbers[0]}{more}: not finite{where}, by the solver {solver}; nothing of it is kept. Try other --steps, "
        "another --solver, or less --w"
    )


def smaller(batch: int, error: BaseException) -> int:
    """Half the batch where memory ran out. Raises the error where it is another one, RunError where it cannot be halved."""
    from sfumato.training.memory import is_short, release

    if not is_short(error):
        raise error
    release()
    if batch == 1:
        raise RunError("out of memory with one sample at a time: free some, or use a machine with more") from error
    say(f"out of memory with {batch} samples at once: {batch // 2} from here on (--batch {batch // 2})")
    return batch // 2
