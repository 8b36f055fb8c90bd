"""The processes that draw, one a device or as many as asked: started, spoken to, and started again where they die."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sfumato.serving.board import Board, Job, sized
from sfumato.serving.problem import of_line
from sfumato.serving.wire import Closed, packed, receive

TRIES = 3
"""Times that a request is begun, where the process that draws it dies, before it is given up."""
PATIENCE = 20
"""Times that a process is started, one after the other, that never becomes ready."""


class Hand:
    """One process that draws. ``ready`` once it has loaded every run."""

    def __init__(self, number: int):
        self.number, self.ready, self.starts = number, asyncio.Event(), 0
        self.process: asyncio.subprocess.Process | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.jobs: dict[str, Job] = {}
        self.figures: dict[str, Any] = {}

    @property
    def rows(self) -> int:
        return sum(job.rows for job in self.jobs.values())

    def send(self, **head: Any) -> None:
        """A message to it; lost where it is not there."""
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(packed(head))


class Pool:
    """See above."""

    def __init__(
        self, board: Board, runs: Mapping[str, Path], workers: int = 1, most: int = 64, threads: int = 0,
        weights: Mapping[str, float] | None = None, say: Callable[[str], None] = print,
    ):  # fmt: skip
        self.board, self.folders, self.most, self.threads, self.say = board, dict(runs), most, threads, say
        self.weights = dict(weights or {})
        self.hands = [Hand(i) for i in range(workers)]
        self.runs: dict[str, dict[str, Any]] = {}
        self.restarts, self.closing, self.broken = 0, False, ""
        self.tasks: list[asyncio.Task[None]] = []
        self.arrivals: deque[tuple[float, int]] = deque(maxlen=256)
        self.looked: Callable[[Job], None] = lambda job: None

    # ---- life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start every process."""
        self.tasks = [asyncio.create_task(self._kept(hand)) for hand in self.hands]

    async def close(self) -> None:
        """Stop every process."""
        self.closing = True
        for hand in self.hands:
            hand.send(op="stop")
        for hand in self.hands:
            if hand.process is not None and hand.process.returncode is None:
                try:
                    await asyncio.wait_for(hand.process.wait(), 5)
                except TimeoutError:
                    hand.process.kill()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def ready(self) -> bool:
        return all(hand.ready.is_set() for hand in self.hands)

    async def _kept(self, hand: Hand) -> None:
        """One process after the other, as long as it is wanted."""
        while not self.closing:
            await self._lived(hand)
            hand.ready.clear()
            hand.writer = None
            if self.closing or self.broken:
                return
            self.restarts += 1
            if hand.starts >= PATIENCE:
                self.broken = "the process that draws ends as soon as it is started; its words stand above"
                return
            await asyncio.sleep(0.2)

    async def _lived(self, hand: Hand) -> None:
        """The life of one process. What it was drawing is asked of the next one."""
        ours, theirs = socket.socketpair()
        hand.starts += 1
        words = [f"{name}={folder}" for name, folder in self.folders.items()]
        environment = surroundings(hand.number, self.threads)
        hand.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sfumato.serving.worker", str(theirs.fileno()), str(self.most), str(self.threads), *words,
            pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        theirs.close()
        reader, hand.writer = await asyncio.open_connection(sock=ours)
        hand.send(op="weights", weights=self.weights)
        for job in [job for job in hand.jobs.values() if job.live]:
            self._begin(hand, job)
        try:
            while True:
                said, body = await receive(reader)
                self._heard(hand, said, body)
        except Closed:
            pass
        hand.writer.close()
        await hand.process.wait()

    # ---- requests ------------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Give a request to the process with least to do."""
        hand = min(self.hands, key=lambda each: (not each.ready.is_set(), each.rows))
        hand.jobs[job.id] = job
        if hand.writer is not None:
            self._begin(hand, job)

    def _begin(self, hand: Hand, job: Job) -> None:
        job.tries += 1
        if job.tries > TRIES:
            self.board.end(job, "failed", "the process that draws died of it; the log says more", 500)
            hand.jobs.pop(job.id, None)
            return
        wish = {name: value for name, value in job.wish.items() if name != "shown"}
        hand.send(op="submit", wish={**wish, "id": job.id, "folder": str(job.folder), "share": job.share})

    def cancel(self, job: Job, why: str = "") -> None:
        """End a request; its rows leave within a step."""
        for hand in self.hands:
            if job.id in hand.jobs:
                hand.send(op="cancel", id=job.id)
                hand.jobs.pop(job.id)
        self.board.end(job, "cancelled", why)

    def rate(self) -> float:
        """Samples a second, lately; 0 where none came."""
        recent = [(when, count) for when, count in self.arrivals if time.monotonic() - when < 60]
        if len(recent) < 2:
            return 0.0
        return sum(count for _, count in recent) / max(1e-3, time.monotonic() - recent[0][0])

    # ---- what a process says ---------------------------------------------------------------------------------------------

    def _heard(self, hand: Hand, said: dict[str, Any], body: bytes) -> None:
        op = said.pop("op")
        if op in ("run", "ready", "beat", "broken"):
            self._of_itself(hand, op, said)
            return
        job = hand.jobs.get(said["id"])
        if job is None or not job.live:
            return
        if op == "admitted":
            job.rows, job.walk, job.names = said["rows"], said["walk"], said["names"]
            job.admitted, job.state = True, "running"
            job.began = job.began or time.time()
            job.say("running", rows=job.rows)
        elif op == "step":
            job.done, job.of = said["done"], max(said["of"], job.rows * said["n"])
            job.say("step", number=said["number"], i=said["i"], n=said["n"], done=job.done, of=job.of)
        elif op in ("preview", "noising"):
            data = base64.b64encode(body).decode()
            job.say(op, number=said["number"], i=said["i"], n=said["n"], type=said["type"], data=data)
        elif op == "thing":
            self._thing(job, said)
        else:
            hand.jobs.pop(job.id, None)
            self._ended(job, op, said)

    def _thing(self, job: Job, said: dict[str, Any]) -> None:
        if said["number"] in job.things:  # told already, before a process died
            return
        main, view = said["main"], said["view"]
        job.things[said["number"]] = {
            "files": said["files"], "main": main, "view": view, "name": said["name"], "making": said["making"],
            "type": media(main), "view_type": media(view) if view else "",
        }  # fmt: skip
        job.size += sized(job.folder / name for name in {*said["files"], *filter(None, [view])})
        self.arrivals.append((time.monotonic(), 1))
        job.say("thing", **next(t for t in job.shown()["things"] if t["number"] == said["number"]))

    def _ended(self, job: Job, op: str, said: dict[str, Any]) -> None:
        if op == "done":
            job.done = job.of
            self.board.end(job, "done")
        elif op == "cancelled":
            self.board.end(job, "cancelled")
        elif op == "refused":
            self.board.end(job, "failed", of_line(said["why"]).detail, 422)
        else:
            why = said["why"] or f"an error of the server ({said['kind']}), in its log under this number"
            self.board.end(job, "failed", why, 500)
        job.stir()

    def _of_itself(self, hand: Hand, op: str, said: dict[str, Any]) -> None:
        if op == "run":
            self.runs[said["name"]] = said
        elif op == "ready":
            hand.starts = 0
            hand.ready.set()
        elif op == "beat":
            hand.figures = said
        else:
            self.broken = said["why"]


def devices() -> list[str]:
    """The accelerators that may be used here, as CUDA is told of them; none where there is none."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [each.strip() for each in told.split(",") if each.strip()]
    return [str(number) for number in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 28)}
"""How glibc is to keep memory (mallopt(3)): what a batch needs for its layers is had again from the call before, up to 256 MB,
and not given back to the system and fetched anew, page by page, at each of them. Others read none of it."""


def surroundings(number: int, threads: int) -> dict[str, str]:
    """The environment of the process of a number: a device of its own, in turn where there are more processes; threads, 0 as
    torch likes; memory that is kept from call to call, unless it is told otherwise."""
    found = {**MEMORY, **os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if threads:
        found |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if every := devices():
        found["CUDA_VISIBLE_DEVICES"] = every[number % len(every)]
    return found


TYPES = {
    ".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".webp": "image/webp", ".mp4": "video/mp4",
    ".csv": "text/csv; charset=utf-8", ".tsv": "text/plain; charset=utf-8", ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8", ".txt": "text/plain; charset=utf-8", ".py": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8", ".svg": "application/octet-stream",
}  # fmt: skip


def media(name: str) -> str:
    """The type that a file is sent as: nothing that a browser would run."""
    return TYPES.get(Path(name).suffix.lower(), "application/octet-stream")
