"""Several machines, or several devices of one: whole servers behind one door, on Ray Serve (extra `scale`).

    serve run sfumato.serving.scale:application runs=/runs/photos,/runs/sales replicas=4 gpus=1
    python -m sfumato.serving.scale /runs/photos --replicas 2         # on this machine alone, nothing told to anybody

A replica is the engine, the board and the API of `sfumato serve`, without a port. The door checks who comes in, and passes
requests on: those of a number to the replica whose number it is (each gives numbers that say where they belong), those of an
idempotency key to the one that the key belongs to, new ones in turn, to the next where one is full.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.errors import Wrong, install
from sfumato.serving.board import place_of
from sfumato.serving.guard import Receive, Scope, Send, answered
from sfumato.serving.problem import Problem
from sfumato.serving.server import Settings, api_of, guard_of, kind_of, named, tokens

Message = MutableMapping[str, Any]
ELSEWHERE = (429, 503)
"""What a replica says that has no room: another may have."""
KEPT = (
    "type",
    "method",
    "path",
    "raw_path",
    "query_string",
    "headers",
    "http_version",
    "scheme",
    "client",
    "server",
    "state",
)


# ---- a replica -----------------------------------------------------------------------------------------------------------


class Replica:
    """One server without a port: the ``place``-th of ``of``."""

    async def __init__(self, settings: Settings, place: int, of: int):  # type: ignore[misc]
        from sfumato.serving.app import application as app_of

        runs = named(settings.runs)
        kinds, who = {name: kind_of(path) for name, path in runs.items()}, tokens(settings)
        self.room = tempfile.TemporaryDirectory(prefix="sfumato-serve-")
        self.api = api_of(settings, runs, kinds, who, Path(self.room.name), place, of)
        self.app = app_of(self.api, bool(who))
        await self.api.pool.start()
        self.sweeping = asyncio.create_task(self._swept())

    async def _swept(self) -> None:
        while True:
            await asyncio.sleep(5)
            self.api.board.sweep()

    async def answer(self, scope: Message, body: bytes) -> AsyncIterator[Message]:
        """What the API says to a request, message by message of ASGI. Whoever stops listening takes along what waits."""
        said: asyncio.Queue[Message] = asyncio.Queue(64)
        gone, told = asyncio.Event(), False

        async def receive() -> Message:
            nonlocal told
            if told:
                await gone.wait()
                return {"type": "http.disconnect"}
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        work = asyncio.create_task(self.app({**scope, "asgi": {"version": "3.0"}}, receive, said.put))
        self.api.tally.answered(scope["path"], 0, scope.get("state", {}).get("share", ""))
        try:
            while True:
                message = await said.get()
                yield message
                if message["type"] == "http.response.body" and not message.get("more_body", False):
                    return
        finally:
            gone.set()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(work, 1)

    async def close(self) -> None:
        """Stop what draws. A process that ends takes it along without this."""
        self.sweeping.cancel()
        await self.api.pool.close()
        self.room.cleanup()


# ---- the door ------------------------------------------------------------------------------------------------------------


class Door:
    """The way in: an ASGI application before the replicas, whose handles it is given."""

    def __init__(self, settings: Settings, *replicas: Any):
        self.replicas = [each.options(stream=True) for each in replicas]
        self.settings, self.turn = settings, itertools.count()

    def __serve_build_asgi_app__(self) -> Any:
        kinds = {name: kind_of(path) for name, path in named(self.settings.runs).items()}
        return guard_of(self.app, self.settings, kinds, tokens(self.settings))

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request, passed on."""
        if scope["type"] != "http":
            await _begun_and_ended(receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        path, told = scope["path"], {name: scope[name] for name in KEPT if name in scope}
        everybody = {"/v1/samples": _listed, "/metrics": _counted, "/readyz": _all_of_them}
        if scope["method"] == "GET" and path in everybody:
            answers = await asyncio.gather(*(self._whole(place, told, body) for place in range(len(self.replicas))))
            await _sent(send, *everybody[path](answers))
            return
        await self._passed(told, body, receive, send)

    def places(self, scope: Mapping[str, Any]) -> list[int]:
        """Whom to ask, one after the other."""
        of = len(self.replicas)
        parts = scope["path"].split("/")
        if scope["path"].startswith("/v1/samples/"):
            try:
                return [place_of(parts[3], of)]
            except ValueError:
                return [0]
        headers = dict(scope["headers"])
        if (key := headers.get(b"idempotency-key")) is not None:
            share = str(scope.get("state", {}).get("share", "")).encode()
            return [int(hashlib.sha256(share + b"\0" + key).hexdigest(), 16) % of]
        first = next(self.turn) % of
        return [(first + i) % of for i in range(of)]

    async def _passed(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        places = self.places(scope)
        for place in places:
            words = self.replicas[place].answer.remote(scope, body)
            passing = asyncio.ensure_future(_on(words, send, places[-1] == place))
            leaving = asyncio.ensure_future(_left(receive))
            try:
                await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not passing.done():
                    words.cancel()
                    return
                if passing.result():
                    return
            finally:
                passing.cancel()
                leaving.cancel()

    async def _whole(self, place: int, scope: Message, body: bytes) -> tuple[int, bytes, str]:
        status, raw, kind = 503, b"", ""
        async for message in self.replicas[place].answer.remote(scope, body):
            if message["type"] == "http.response.start":
                status = message["status"]
                kind = dict(message["headers"]).get(b"content-type", b"").decode()
            raw += message.get("body", b"")
        return status, raw, kind


async def _on(words: Any, send: Send, last: bool) -> bool:
    """Pass an answer on, unless it says that there is no room and others may have some; whether it was."""
    begun = False
    try:
        async for message in words:
            if message["type"] == "http.response.start" and message["status"] in ELSEWHERE and not last:
                words.cancel()
                return False
            begun = True
            await send(message)
    except Exception:
        if begun:
            raise
        if not last:
            return False
        await answered(Problem(503, "who draws this is not there now", headers={"retry-after": "5"}), send)
    return True


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _begun_and_ended(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _sent(send: Send, status: int, raw: bytes, kind: str) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


Answers = Sequence[tuple[int, bytes, str]]


def _worst(answers: Answers) -> tuple[int, bytes, str]:
    return max(answers, key=lambda answer: answer[0])


def _all_of_them(answers: Answers) -> tuple[int, bytes, str]:
    """Ready where everybody is."""
    return _worst(answers)


def _listed(answers: Answers) -> tuple[int, bytes, str]:
    """The requests of all, the newest first."""
    if _worst(answers)[0] != 200:
        return _worst(answers)
    every = [job for _, raw, _ in answers for job in json.loads(raw)["data"]]
    every.sort(key=lambda job: -job["created"])
    return 200, json.dumps({"data": every}).encode(), answers[0][2]


def _counted(answers: Answers) -> tuple[int, bytes, str]:
    """The numbers of all, each with its replica, those of a name together as Prometheus wants them."""
    if _worst(answers)[0] != 200:
        return _worst(answers)
    heads: dict[str, list[str]] = {}
    for place, (_, raw, _) in enumerate(answers):
        name, new = "", False
        for line in raw.decode().splitlines():
            if line.startswith("# HELP "):
                name = line.split()[2]
                new = name not in heads
                heads.setdefault(name, [])
            if line.startswith("#"):
                if new:
                    heads[name].append(line)
                continue
            front, _, value = line.rpartition(" ")
            bare, _, labels = front.partition("{")
            labels = labels.rstrip("}")
            heads[name].append(f'{bare}{{replica="{place}"{"," if labels else ""}{labels}}} {value}')
    return 200, ("\n".join(line for lines in heads.values() for line in lines) + "\n").encode(), answers[0][2]


# ---- on Ray --------------------------------------------------------------------------------------------------------------


def deployed(settings: Settings, replicas: int, gpus: float = 0, cpus: float = 1) -> Any:
    """The application of Ray Serve: a door before so many replicas, each with so much of a machine. Raises Wrong."""
    try:
        from ray import serve
    except ImportError:
        raise Wrong(f"the package ray is not installed; {install('scale')}") from None
    if replicas < 1:
        raise Wrong(f"replicas = {replicas}: must be 1 or more")
    named(settings.runs), tokens(settings)  # complains here, not on another machine
    most: dict[str, Any] = {"max_ongoing_requests": 10_000, "graceful_shutdown_timeout_s": settings.drain}
    behind = [
        serve.deployment(name=f"replica-{place}", num_replicas=1, ray_actor_options={"num_gpus": gpus, "num_cpus": cpus}, **most)(
            Replica
        ).bind(settings, place, replicas)
        for place in range(replicas)
    ]  # fmt: skip
    door = serve.deployment(name="door", ray_actor_options={"num_cpus": 0}, **most)(serve.ingress()(Door))
    return door.bind(settings, *behind)


def application(arguments: Mapping[str, str]) -> Any:
    """What `serve run` builds: runs=RUN,RUN replicas=2 gpus=1 threads=1 token=FILE host=NAME,NAME. Raises Wrong."""
    known = ("runs", "replicas", "gpus", "cpus", "threads", "token", "host")
    if unknown := [name for name in arguments if name not in known]:
        raise Wrong(f"unknown {unknown[0]!r}; known: {', '.join(known)}")
    if not arguments.get("runs"):
        raise Wrong("runs: none given; give runs=RUN or runs=RUN,RUN")
    try:
        numbers = {name: float(arguments.get(name, usual)) for name, usual in
                   (("replicas", 1), ("gpus", 0), ("cpus", 1), ("threads", 0))}  # fmt: skip
    except ValueError as error:
        raise Wrong(f"replicas, gpus, cpus and threads must be numbers ({error})") from None
    settings = Settings(
        runs=tuple(Path(run).resolve() for run in arguments["runs"].split(",")), threads=int(numbers["threads"]),
        token=Path(arguments["token"]).resolve() if arguments.get("token") else None,
        hosts=tuple(name.lower() for name in arguments.get("host", "").split(",") if name),
    )  # fmt: skip
    return deployed(settings, int(numbers["replicas"]), numbers["gpus"], numbers["cpus"])


def main(words: Sequence[str] | None = None) -> None:
    """On this machine alone: loopback, no dashboard, no statistics of use sent to anybody."""
    parser = argparse.ArgumentParser(prog="python -m sfumato.serving.scale", description=main.__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(words)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    settings = Settings(runs=tuple(run.resolve() for run in asked.runs), port=asked.port, threads=asked.threads)
    door = deployed(settings, asked.replicas, cpus=0)
    import ray
    from ray import serve

    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=max(2, os.cpu_count() or 2))
    serve.start(http_options={"host": "127.0.0.1", "port": asked.port})
    serve.run(door, name="sfumato", blocking=True)


if __name__ == "__main__":
    from sfumato.serving import scale

    scale.main()  # by its name, so that other processes find its classes
