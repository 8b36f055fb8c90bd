"""The requests that are known: what became of each, what happened on the way, what it made, for how long that is kept."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.serving.problem import Problem

ENDED = ("done", "failed", "cancelled")
GONE = 4096
"""Numbers of requests that are remembered as no longer kept."""
EVENTS = 20_000
"""Events of a request at most; looks beyond that are left out."""


@dataclass(eq=False)
class Job:
    """One request. States: queued, running, done, failed, cancelled."""

    id: str
    run: str
    share: str
    wish: dict[str, Any]
    folder: Path
    rows: int
    command: str = ""
    deadline: float = 300.0
    state: str = "queued"
    why: str = ""
    status: int = 200
    created: float = field(default_factory=time.time)
    began: float | None = None
    ended: float | None = None
    touched: float = field(default_factory=time.monotonic)
    done: int = 0
    of: int = 0
    things: dict[int, dict[str, Any]] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)
    walk: dict[str, Any] = field(default_factory=dict)
    names: list[Any] = field(default_factory=list)
    tries: int = 0
    size: int = 0
    admitted: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def live(self) -> bool:
        return self.state not in ENDED

    def say(self, event: str, **data: Any) -> None:
        """Something happened, for whoever looks."""
        if event in ("preview", "noising", "step") and len(self.events) >= EVENTS:
            return
        self.events.append((event, json.dumps(data)))
        self.size += len(self.events[-1][1])
        self.stir()

    def stir(self) -> None:
        """Wake whoever waits for news."""
        news, self.news = self.news, asyncio.Event()
        news.set()

    async def follow(self, after: int = 0, beat: float = 15.0) -> AsyncIterator[tuple[int, str, str]]:
        """(number, event, data) of every event after one, as they come, until the end; of nothing for a while ("", "")."""
        at = after
        while True:
            while at < len(self.events):
                event, data = self.events[at]
                at += 1
                yield at, event, data
            if not self.live:
                return
            news = self.news
            try:
                await asyncio.wait_for(news.wait(), beat)
            except TimeoutError:
                yield at, "", ""

    async def finished(self) -> None:
        """Until it has ended."""
        while self.live:
            await self.news.wait()

    def shown(self, position: int = 0) -> dict[str, Any]:
        """As people and programs see it."""
        base = f"/v1/samples/{self.id}"
        things = []
        for number, thing in sorted(self.things.items()):
            url = f"{base}/things/{number}"
            things.append({
                "number": number, "name": thing["name"], "file": thing["main"], "url": url, "type": thing["type"],
                "view": f"{url}/view" if thing["view"] else "", "view_type": thing["view_type"], "files": thing["files"],
                "making": thing["making"],
            })  # fmt: skip
        asked = {"n": self.wish["n"], "seed": self.wish["seed"], "query": self.wish["shown"], "walk": self.wish["walk"],
                 "walk_name": self.wish["named"], "format": self.wish["format"], "exact": self.wish["exact"]}  # fmt: skip
        left = None
        if self.live and self.began is not None and self.done:
            left = round((time.time() - self.began) * (self.of - self.done) / self.done, 2)
        return {
            "id": self.id, "run": self.run, "state": self.state, "why": self.why, "position": position,
            "step": {"done": self.done, "of": self.of}, "seconds_left": left, "asked": asked, "walk": self.walk,
            "created": round(self.created, 3),
            "seconds": None if self.began is None else round((self.ended or time.time()) - self.began, 3),
            "command": self.command, "things": things,
            "links": {"self": base, "events": f"{base}/events"},
        }  # fmt: skip


def place_of(number: str, of: int) -> int:
    """Which of so many boards a request of this number is on. Raises ValueError for what is no number."""
    return int(number[:16], 16) % of


class Board:
    """All requests, by their numbers. What has ended is kept for ``keep`` seconds, and ``room`` bytes of it.

    Args:
        place, of: which of several boards this is: all its numbers say so, see :func:`place_of`.
    """

    def __init__(self, folder: Path, keep: float = 900.0, room: int = 512 << 20, place: int = 0, of: int = 1):
        self.folder, self.keep, self.room, self.place, self.of = folder, keep, room, place, of
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.gone: OrderedDict[str, None] = OrderedDict()
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}

    def open(self, run: str, share: str, wish: dict[str, Any], rows: int, command: str, deadline: float) -> Job:
        """A new request, with a folder of its own."""
        number = secrets.token_hex(16)
        while place_of(number, self.of) != self.place:
            number = secrets.token_hex(16)
        folder = self.folder / number
        folder.mkdir(parents=True)
        job = Job(number, run, share, wish, folder, rows, command, deadline)
        self.jobs[number] = job
        return job

    def find(self, number: str, share: str | None = None) -> Job:
        """The request of this number, of a class if one is given. Raises Problem, 404 or 410."""
        job = self.jobs.get(number)
        if job is None or share not in (None, job.share):
            if number in self.gone:
                raise Problem(410, "this request is no longer kept; ask again", expected="a newer one")
            raise Problem(404, "there is no request of this number", "id", "a number that POST /v1/samples gave")
        job.touched = time.monotonic()
        return job

    def live(self) -> list[Job]:
        """Those that have not ended."""
        return [job for job in self.jobs.values() if job.live]

    def end(self, job: Job, state: str, why: str = "", status: int = 200) -> None:
        """A request has ended; once only."""
        if not job.live:
            return
        job.state, job.why, job.status, job.ended = state, why, status, time.time()
        job.say(state, why=why) if why else job.say(state)

    def forget(self, job: Job) -> None:
        """Leave nothing of it but that it was."""
        self.jobs.pop(job.id, None)
        self.gone[job.id] = None
        while len(self.gone) > GONE:
            self.gone.popitem(last=False)
        self.keys = {key: found for key, found in self.keys.items() if found[1] != job.id}
        shutil.rmtree(job.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Forget what is too old, and, where all of it is too much, what was least lately looked at."""
        ended = [job for job in self.jobs.values() if not job.live]
        now = time.monotonic()
        for job in ended:
            if now - job.touched > self.keep:
                self.forget(job)
        kept = sorted((job for job in self.jobs.values() if not job.live), key=lambda job: job.touched)
        total = sum(job.size for job in self.jobs.values())
        for job in kept:
            if total <= self.room:
                break
            total -= job.size
            self.forget(job)


def sized(files: Iterable[Path]) -> int:
    """Bytes of files."""
    return sum(file.stat().st_size for file in files if file.is_file())


def of_state(jobs: Iterable[Job], state: str | None) -> list[Job]:
    """Those of a state, or all."""
    return [job for job in jobs if state is None or job.state == state]


Weights = Mapping[str, float]
