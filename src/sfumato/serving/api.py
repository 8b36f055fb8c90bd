"""What the API does, without HTTP: requests in, problems or jobs out."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import math
import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.errors import Mendable
from sfumato.jobs.making import made
from sfumato.serving.asked import SEED, Asked, Kind, Limits, body_schema, safe, schema, understood
from sfumato.serving.board import Board, Job
from sfumato.serving.hooks import Hooks
from sfumato.serving.metrics import Tally, exposition
from sfumato.serving.pool import Pool
from sfumato.serving.problem import Problem, of_line

WALK_OF_ITS_OWN = ("steps", "tol", "solver", "eta", "grid", "shift", "w", "guide_from", "guide_to", "guide_by")


@dataclass
class Api:
    """See above. ``kinds``: what each run can be asked; ``queue``: samples under way and waiting at most."""

    pool: Pool
    board: Board
    kinds: Mapping[str, Kind]
    limits: Limits = Limits()
    queue: int = 256
    tally: Tally = field(default_factory=Tally)
    hooks: Hooks = field(default_factory=Hooks)
    draining: bool = False

    # ---- asking --------------------------------------------------------------------------------------------------------

    def understood(self, said: Mapping[str, Any]) -> Asked:
        """A body as a request, whose words are those of the run. Raises Problem."""
        asked = understood(said, self.kinds, self.limits)
        choices = self.pool.runs.get(asked.run, {}).get("choices", {})
        for name, words in choices.items():
            value = asked.query.get(name)
            if value is not None and words and value not in words and len(words) < 1000:
                right = f"one of {', '.join(words[:50])}"
                raise Problem(
                    422, f"query.{name} = {str(value)[:60]!r}: must be {right}", f"query.{name}", right, words[0]
                )
        return asked

    def room(self, rows: int) -> None:
        """Complain where so many rows more are too much. Raises Problem, 429 or 503."""
        if self.draining:
            raise Problem(503, "the server is about to end", headers={"retry-after": "30"})
        if self.pool.broken:
            raise Problem(503, "the server cannot draw; its log says why", headers={"retry-after": "60"})
        under_way = sum(job.rows for job in self.board.live())
        if under_way + rows > self.queue:
            self.tally.refused += 1
            wait = max(1, math.ceil(min(rows + under_way, self.queue) / max(self.pool.rate(), 1.0)))
            full = f"{under_way} samples wait or are under way, of {self.queue} at most; ask again in {wait} s"
            raise Problem(429, full, headers={"retry-after": str(min(wait, 3600))})

    def opened(self, asked: Asked, share: str, numbers: tuple[int, ...] | None = None) -> Job:
        """A request under way. Raises Problem."""
        rows = asked.n if numbers is None else len(numbers)
        if asked.webhook:
            self.hooks.check(asked.webhook)
        self.room(rows)
        wish: dict[str, Any] = {
            "run": asked.run, "n": asked.n, "numbers": None if numbers is None else list(numbers), "query": dict(asked.query),
            "walk": asked.walk, "named": asked.named, "seed": asked.seed, "format": asked.format, "previews": asked.previews,
            "film": asked.film, "exact": asked.exact, "files": {name: given[0] for name, given in asked.files.items()},
            "most_rows": max(self.queue, asked.n), "most_steps": self.limits.steps,
        }  # fmt: skip
        wish["shown"] = {**asked.query, **wish["files"]}
        command = self.command(asked)
        job = self.board.open(asked.run, share, wish, rows, command, asked.deadline)
        for name, (file, raw) in asked.files.items():
            place = job.folder / "given" / name
            place.mkdir(parents=True)
            (place / file).write_bytes(raw)
            wish["query"][name] = str(place / file)
        job.say("queued")
        self.pool.submit(job)
        loop = asyncio.get_running_loop()
        late = loop.call_later(asked.deadline, lambda: self.ended_late(job))
        task = loop.create_task(self._noted(job, late, asked.webhook))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def _noted(self, job: Job, late: asyncio.TimerHandle, webhook: str) -> None:
        await job.finished()
        late.cancel()
        self.tally.ended[job.state] += 1
        self.board.sweep()
        if webhook and (job.admitted or job.status != 422):  # whoever is refused knows at once
            await self.hooks.tell(webhook, job.id, {"type": f"samples.{job.state}", "data": job.shown()})

    @property
    def busy(self) -> bool:
        """Whether something is under way, or somebody has still to be told."""
        return bool(self.board.live()) or bool(self._tasks)

    def ended_late(self, job: Job) -> None:
        """A request is past its deadline."""
        if job.live:
            self.pool.cancel(job, f"not done within {job.deadline:g} s")

    def asked_for(self, body: bytes, said: Mapping[str, Any], share: str, key: str | None) -> Job:
        """The request of a body; of one with a key that was told before, what was opened then. Raises Problem."""
        digest = hashlib.sha256(body).hexdigest()
        if key is not None:
            if not 1 <= len(key) <= 200 or not key.isprintable():
                raise Problem(422, "Idempotency-Key: must be 1 to 200 printable characters", "Idempotency-Key")
            known = self.board.keys.get((share, key))
            if known is not None and known[1] in self.board.jobs:
                if known[0] != digest:
                    raise Problem(409, "this key was given with another body", "Idempotency-Key", "another key")
                return self.board.jobs[known[1]]
        job = self.opened(self.understood(said), share)
        if key is not None:
            self.board.keys[(share, key)] = (digest, job.id)
        return job

    async def admitted(self, job: Job, seconds: float = 30.0) -> None:
        """Until it is known whether it makes sense. Raises Problem where not, and forgets it."""
        until = time.monotonic() + seconds
        while job.state == "queued" and time.monotonic() < until and self.pool.ready:
            news = job.news
            try:
                await asyncio.wait_for(news.wait(), max(0.01, min(1.0, until - time.monotonic())))
            except TimeoutError:
                continue
        self.raise_refused(job)

    def raise_refused(self, job: Job) -> None:
        """Complain where it made no sense."""
        if job.state == "failed" and job.status == 422:
            asks = tuple(f.name for f in dataclasses.fields(self.kinds[job.run].ask))
            problem = of_line(job.why)
            name = problem.field
            problem.field = f"query.{name}" if name in asks else f"walk.{name}" if name in WALK_OF_ITS_OWN else name
            self.board.forget(job)
            raise problem

    # ---- looking -------------------------------------------------------------------------------------------------------

    def shown(self, job: Job) -> dict[str, Any]:
        """A request as it is seen."""
        before = 0
        if job.state == "queued":
            before = sum(other.rows for other in self.board.live() if other.created < job.created)
        return job.shown(before)

    def run(self, name: str) -> dict[str, Any]:
        """A run as it is seen: what can be asked, how it is drawn, what this machine can do with it. Raises Problem."""
        if name not in self.kinds:
            raise Problem(404, f"there is no such run here; served are {', '.join(self.kinds)}", "run")
        kind, known = self.kinds[name], self.pool.runs.get(name, {})
        table = known.get("table", [])
        return {
            "name": name, "field": kind.field, "formats": list(kind.formats), "weights": known.get("weights", ""),
            "walk": known.get("walk", {}), "guided": known.get("guided", False), "cap": known.get("cap", 0),
            "table": table, "ready": bool(known), "choices": known.get("choices", {}),
            "solvers": known.get("solvers", []), "query": schema(kind.ask, known.get("choices")),
            "body": body_schema(dataclasses.replace(kind), "", self.limits, known.get("choices")),
        }  # fmt: skip

    def metrics(self) -> str:
        """For Prometheus."""
        live = {"queued": 0, "running": 0}
        for job in self.board.live():
            live[job.state] += job.rows
        caps = {name: run.get("cap", 0) for name, run in self.pool.runs.items()}
        kept = sum(job.size for job in self.board.jobs.values())
        return exposition(self.tally, live, self.pool.hands, caps, self.pool.restarts, kept, self.hooks.told)

    # ---- making again --------------------------------------------------------------------------------------------------

    def making(self, raw: bytes, name: str) -> dict[str, Any]:
        """What a thing says of its making, in the words of a request. Raises Problem."""
        with tempfile.TemporaryDirectory(prefix="sfumato-") as room:
            file = Path(room) / safe(name)
            if raw.lstrip()[:1] == b"{":  # the making itself, as it lies beside a thing
                (Path(room) / "thing.txt.json").write_bytes(raw)
                file = Path(room) / "thing.txt"
            file.write_bytes(raw)
            try:
                found = made(file)
            except Mendable:
                raise Problem(
                    422, "carries no making of sfumato", expected="a file that sfumato drew, or its .json"
                ) from None
        runs = [name for name, run in self.pool.runs.items() if run["weights"] == found.weights]
        walk = {key: value for key, value in found.walk.items() if value is not None and key in WALK_OF_ITS_OWN}
        if "tol" in walk:
            walk.pop("steps", None)
        return {
            "run": runs[0] if runs else None, "made_by": found.run[-80:], "weights": found.weights, "seed": found.seed,
            "number": found.number, "query": found.ask, "walk": walk, "suffix": found.suffix, "name": found.name,
        }  # fmt: skip

    def remake(self, raw: bytes, name: str, share: str) -> Job:
        """The thing of a file made again, in its bits. Raises Problem."""
        found = self.making(raw, name)
        if found["run"] is None:
            raise Problem(
                422, f"was made of weights that are not served here ({found['weights']})", expected="a run with them"
            )
        if found["number"] is None or found["number"] >= 1_000_000 or abs(found["seed"]) > SEED:
            raise Problem(422, "says no number of a sample that can be drawn again")
        said = {"run": found["run"], "seed": found["seed"], "walk": found["walk"], "exact": True}
        query = {key: value for key, value in found["query"].items() if value is not None}
        if found["suffix"] in self.kinds[found["run"]].formats:
            said["format"] = found["suffix"]
        asked = self.understood({**said, "query": query})
        return self.opened(dataclasses.replace(asked, n=found["number"] + 1), share, (found["number"],))

    # ---- words ---------------------------------------------------------------------------------------------------------

    def command(self, asked: Asked) -> str:
        """The command that draws the same."""
        kind = self.kinds[asked.run]
        usual = json.loads(
            json.dumps({f.name: getattr(kind.ask(), f.name) for f in dataclasses.fields(kind.ask)}, default=str)
        )
        words = ["sfumato", "sample", asked.run, "-n", str(asked.n), "--seed", str(asked.seed)]
        walk = ({"walk": asked.named} if asked.named != "usual" else {}) | asked.walk
        query = {**asked.query, **{name: file for name, (file, _) in asked.files.items()}}
        query = {name: value for name, value in query.items() if value != usual.get(name)}
        for name, value in {**query, **walk}.items():
            if value is None:
                continue
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
                continue
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [flag, *(f"{each:g}" if isinstance(each, float) else str(each) for each in values)]
        if asked.format:
            words += ["--format", asked.format]
        return shlex.join(words)
