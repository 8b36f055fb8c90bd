"""Bundles drawn by actors of Ray Data, on one machine or many that share the folder (extra `scale`). A bundle is made by the same
code as anywhere, so its bits are the same."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sfumato.errors import DataError, Mendable, install
from sfumato.jobs.bulk import Bulk
from sfumato.training.leaving import Asked

LEAST = (2, 54)
"""Ray before this has known holes."""


class Draws:
    """An actor that holds the run, and makes the bundles that come to it."""

    def __init__(self, bulk: Bulk):
        from sfumato.jobs.bulk_drawing import Drawer

        self.drawer = Drawer(bulk)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """rows: "bundle" (b,), their places; the same again, once they are made."""
        from sfumato.jobs.bulk_drawing import one_thread

        with one_thread():
            for place in map(int, rows["bundle"]):
                bulk = self.drawer.bulk
                if not bulk.sound(bulk.bundle(place)):  # one that Ray asks for again may be there
                    self.drawer.make(place)
        return rows


def draw(bulk: Bulk, places: Sequence[int], count: int, noted: Asked, show: Callable[[int], None]) -> None:
    """Draw the bundles of these places by ``count`` actors of the cluster that RAY_ADDRESS names, or of one that is begun here.

    show: is told the samples that are there of these bundles. Raises DataError where Ray is missing or too old.
    """
    ray = _ray()
    import torch

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    begins_here = not ray.is_initialized()
    if begins_here:
        here: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": max(count + 1, os.cpu_count() or 1)}
        ray.init(include_dashboard=False, log_to_driver=False, **here)
    from ray.data import ActorPoolStrategy, DataContext, from_items

    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        # of an actor's own folder a path means something else
        whole = dataclasses.replace(
            bulk, folder=bulk.folder.resolve(), run=bulk.run.resolve(), ask=_resolved(bulk.ask),
            drawing=dataclasses.replace(bulk.drawing, lora=tuple(map(_placed, bulk.drawing.lora))),
        )  # fmt: skip
        rows = from_items([{"bundle": int(place)} for place in places], override_num_blocks=len(places))
        made = rows.map_batches(
            Draws, fn_constructor_args=(whole,), batch_size=1, num_cpus=1, num_gpus=1 if torch.cuda.is_available() else 0,
            compute=ActorPoolStrategy(size=min(count, len(places))),
        )  # fmt: skip
        done = 0
        for row in made.iter_rows():
            done += len(bulk.bundle(int(row["bundle"])))
            show(done)
            if noted.signal is not None:
                return
    except Exception as error:
        if (ours := _ours(error)) is not None:
            raise Mendable(str(ours)) from None
        raise
    finally:
        if begins_here:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise DataError(f"--ray wants {error.name or 'ray'}, which is not installed; {install('scale')}") from None
    if tuple(map(int, ray.__version__.split(".")[:2])) < LEAST:
        raise DataError(f"ray {ray.__version__} has known holes; install {LEAST[0]}.{LEAST[1]} or later")
    return ray


def _ours(error: BaseException | None) -> Mendable | None:
    """What an actor complained of, from within what Ray makes of it."""
    for _ in range(20):
        if error is None or isinstance(error, Mendable):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _resolved(ask: Any) -> Any:
    """What is asked, with whole paths."""
    every = {field.name: getattr(ask, field.name) for field in dataclasses.fields(ask)}
    return dataclasses.replace(
        ask, **{name: value.resolve() for name, value in every.items() if isinstance(value, Path)}
    )


def _placed(lora: str) -> str:
    """FILE=0.5 with a whole path."""
    path, sign, weight = lora.partition("=")
    return f"{Path(path).resolve()}{sign}{weight}"
