"""`sfumato sample --shard`, `--workers`, `--bundle`: a share of a set drawn into bundles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sfumato.errors import Wrong
from sfumato.jobs.bulk import LARGEST, Bulk, Share, begun, same_command
from sfumato.jobs.bulk_workers import Left, Told
from sfumato.jobs.model import Model
from sfumato.jobs.recipe import say
from sfumato.training.leaving import Asked, Stopped, asked

MOST = 256
"""Processes of a machine at most."""


def bulk(
    model: Model, n: int | None, ask: Any, out: Path | None = None, suffix: str = "", shard: str | None = None,
    workers: int | None = None, size: int | None = None, ray: bool = False,
) -> Bulk:  # fmt: skip
    """Draw a share of a set into the bundles of the folder ``out``, or what is left of it.

    Args:
        n, ask, suffix: as for :func:`~sfumato.jobs.sample.sample`. shard: "I/N", every N-th bundle; None all of them.
        workers: processes that draw, one thread each; size: samples in a bundle. ray: the processes are Ray's.

    Raises Wrong, RunError; Stopped on a signal.
    """
    from sfumato.training.progress import Watch

    share, count = Share.read(shard), 1 if workers is None else workers
    for name, value, most in (("workers", count, MOST), ("bundle", 1 if size is None else size, LARGEST)):
        if not 1 <= value <= most:
            raise Wrong(f"{name} = {value}: must be from 1 to {most:,}")
    if n is not None and n < 1:
        raise Wrong(f"n = {n}: must be at least 1")
    queries = model.recipe.queries(model, ask, n)
    of = begun(model, queries, ask, n, out or Path("samples"), suffix, size)
    own = range(share.place, len(of), share.of)
    left = list(of.left(share))
    total, drawn = (sum(len(of.bundle(k)) for k in every) for every in (own, left))
    if drawn < total:
        say(f"{total - drawn:,} of {total:,} samples are there already")
    told = Told()
    with asked() as noted, Watch("sample", total, total - drawn, unit="samples") as watch:
        done = [total - drawn]

        def show(count: int) -> None:
            done[0] = total - drawn + count
            watch.show(done[0])

        if left and ray:
            from sfumato.jobs.bulk_ray import draw

            draw(of, left, count, noted, show)
        elif left and count > 1:
            from sfumato.jobs import bulk_workers

            told = bulk_workers.draw(of, left, count, noted, show)
        elif left:
            _here(of, model, queries, left, noted, show)
    if told.deaths:
        say(f"{told.deaths} processes died and were begun again; {told.repeated:,} samples were drawn twice for it")
    if noted.signal is not None:
        raise Stopped(128 + noted.signal, f"after {done[0]:,} of {total:,} samples; {same_command(of)}")
    if of.close(queries):
        say(
            f"all {of.total:,} samples are there: {len(of):,} bundles, and {of.folder / 'ledger.csv'} says which is where"
        )
    else:
        say(f"this share is there: {total:,} samples in {len(own):,} of {len(of):,} bundles")
    return of


def _here(
    of: Bulk, model: Model, queries: Any, left: Sequence[int], noted: Asked, show: Callable[[int], None]
) -> None:  # fmt: skip
    """In this process, until all are made or a signal came."""
    from sfumato.jobs.bulk_drawing import Drawer, one_thread

    before = 0

    def look(done: int, begins: bool) -> None:
        show(before + done)
        if noted.signal is not None:
            raise Left

    drawer = Drawer(of, model, queries)
    with one_thread():
        for place in left:
            try:
                drawer.make(place, look)
            except Left:
                return
            before += len(of.bundle(place))
