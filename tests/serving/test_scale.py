"""Replicas behind one door: who is asked what, with whole servers in this process in place of Ray's, and with Ray where it is."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from sfumato.errors import Wrong
from sfumato.serving import scale
from sfumato.serving.board import place_of
from sfumato.serving.server import Settings
from tests.serving.small import ROOT, Server, taken
from tests.serving.test_http import numbers, offline


class Words:
    """An answer that comes message by message and can be given up, as a handle of Ray gives it."""

    def __init__(self, messages: AsyncIterator[Any]):
        self.messages, self.given_up = messages, False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.messages

    def cancel(self) -> None:
        self.given_up = True


class Handle:
    """A handle of a replica of this process, or of none that lives."""

    def __init__(self, replica: Any):
        self.replica, self.asked = replica, list[str]()
        self.answer = self

    def options(self, stream: bool) -> Handle:
        assert stream
        return self

    def remote(self, scope: dict[str, Any], body: bytes) -> Words:
        self.asked.append(f"{scope['method']} {scope['path']}")
        return Words(self.replica.answer(scope, body) if self.replica is not None else self._dead())

    async def _dead(self) -> AsyncIterator[Any]:
        raise RuntimeError("the actor died")
        yield


async def asked(app: Any, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Status, body and headers of an answer."""
    raw = b"" if body is None else json.dumps(body).encode()
    told = {"host": "localhost", "content-type": "application/json", "content-length": str(len(raw)), **headers}
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http",
             "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in told.items()],
             "http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
             "asgi": {"version": "3.0"}}  # fmt: skip
    said, sent = list[dict[str, Any]](), False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: Any) -> None:
        said.append(dict(message))

    await app(scope, receive, send)
    found = b"".join(each.get("body", b"") for each in said)
    names = {name.decode(): value.decode() for name, value in said[0]["headers"]}
    return said[0]["status"], json.loads(found) if "json" in names.get("content-type", "") else found, names


def behind_a_door(folder: Path, replicas: int, does: Callable[..., Any], **settings: Any) -> None:
    """So many replicas of a run, a door before them, and what is done there."""
    runs = taken(folder, "vectors")

    async def main() -> None:
        told = Settings(runs=tuple(runs), threads=1, **settings)
        before, behind = Path.cwd(), list[Any]()
        os.chdir(folder)
        try:
            for place in range(replicas):
                one = scale.Replica.__new__(scale.Replica)
                await scale.Replica.__init__(one, told, place, replicas)
                behind.append(one)
            while not all(each.api.pool.ready for each in behind):
                await asyncio.sleep(0.05)
            handles = [Handle(each) for each in behind]
            await does(scale.Door(told, *handles).__serve_build_asgi_app__(), handles)
        finally:
            for one in behind:
                await one.close()
            os.chdir(before)

    asyncio.run(main())


def test_a_request_is_found_where_it_was_opened_and_lists_hold_all(tmp_path: Path):
    async def does(app: Any, handles: list[Handle]) -> None:
        ids = []
        for seed in range(4):
            body = {"run": "vectors", "seed": seed, "walk": {"steps": 2}}
            status, job, _ = await asked(app, "POST", "/v1/samples", body, prefer="wait=60")
            assert (status, job["state"]) == (200, "done")
            ids.append(job["id"])
        assert {place_of(number, 2) for number in ids} == {0, 1}  # in turn
        for number in ids:
            status, job, _ = await asked(app, "GET", f"/v1/samples/{number}")
            assert (status, job["id"]) == (200, number)
            mine, other = handles[place_of(number, 2)], handles[1 - place_of(number, 2)]
            assert f"GET /v1/samples/{number}" in mine.asked
            assert f"GET /v1/samples/{number}" not in other.asked
        _, listed, _ = await asked(app, "GET", "/v1/samples")
        assert [job["id"] for job in listed["data"]] == ids[::-1]
        _, text, _ = await asked(app, "GET", "/metrics")
        lines = text.decode().splitlines()
        assert sum(line.startswith("# TYPE sfumato_samples_total") for line in lines) == 1
        assert {line.partition(" ")[0] for line in lines if line.startswith("sfumato_worker_ready")} == {
            f'sfumato_worker_ready{{replica="{place}",worker="0"}}' for place in (0, 1)
        }
        assert (await asked(app, "GET", "/v1/samples/nonsense"))[0] == 404
        assert (await asked(app, "GET", "/readyz"))[0] == 200

        keyed = [await asked(app, "POST", "/v1/samples", {"run": "vectors", "walk": {"steps": 1}}, idempotency_key="k")
                 for _ in range(4)]  # fmt: skip
        assert len({job["id"] for _, job, _ in keyed}) == 1
        assert (await asked(app, "POST", "/v1/samples", {"run": "vectors", "seed": 1}, idempotency_key="k"))[0] == 409

    behind_a_door(tmp_path, 2, does)


def test_where_one_is_full_or_gone_the_next_is_asked(tmp_path: Path):
    async def does(app: Any, handles: list[Handle]) -> None:
        body = {"run": "vectors", "n": 2, "walk": {"steps": 1}}
        handles[0].replica.api.draining = True
        for _ in range(2):
            assert (await asked(app, "POST", "/v1/samples", body, prefer="wait=60"))[0] == 200
        assert handles[0].asked  # it was asked, and had no room
        assert (await asked(app, "GET", "/readyz"))[0] == 503
        alive, handles[0].replica = handles[0].replica, None
        for _ in range(2):
            assert (await asked(app, "POST", "/v1/samples", body, prefer="wait=60"))[0] == 200
        handles[1].replica = None
        status, problem, headers = await asked(app, "POST", "/v1/samples", body)
        assert (status, headers["retry-after"]) == (503, "5")
        assert "not there" in problem["detail"]
        handles[0].replica = alive

    behind_a_door(tmp_path, 2, does)


def test_the_door_lets_in_whom_the_server_lets_in(tmp_path: Path):
    (tmp_path / "tokens").write_text("lab:0123456789abcdef0123\n")

    async def does(app: Any, handles: list[Handle]) -> None:
        assert (await asked(app, "GET", "/v1/runs"))[0] == 401
        assert (await asked(app, "GET", "/v1/runs", authorization="Bearer 0123456789abcdef0123"))[0] == 200
        assert (await asked(app, "GET", "/v1/runs", host="evil.example"))[0] == 403
        assert handles[0].asked == ["GET /v1/runs"]  # nobody else came further than the door

    behind_a_door(tmp_path, 1, does, token=tmp_path / "tokens")


def test_what_cannot_be_deployed_is_said():
    pytest.importorskip("ray")
    for words, right in ({}, "runs: none"), ({"runs": "x", "replica": "2"}, "unknown 'replica'"), (
            {"runs": "x", "replicas": "two"}, "must be numbers"):  # fmt: skip
        with pytest.raises(Wrong, match=right):
            scale.application(words)


@pytest.mark.slow
def test_two_replicas_on_ray_draw_what_is_drawn_offline(tmp_path: Path):
    pytest.importorskip("ray")
    (run,) = taken(tmp_path, "vectors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "server.log"
    known = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAY_TMPDIR": "/tmp",
             "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])}  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "sfumato.serving.scale", str(run), "--port", str(port)],
                                   cwd=tmp_path, env=known, stdout=out, stderr=out, start_new_session=True)  # fmt: skip
        try:
            server = Server(process, port, log)  # type: ignore[arg-type]
            end = time.monotonic() + 240
            while time.monotonic() < end and process.poll() is None:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    if server.ask("GET", "/readyz")[0] == 200:
                        break
                time.sleep(0.5)
            assert process.poll() is None, log.read_text()[-3000:]
            places = set()
            for seed in range(4):
                job = server.draw(run="vectors", n=2, seed=seed, walk={"steps": 5})
                places.add(place_of(job["id"], 2))
                for mine, right in zip(
                    numbers(server, job), offline(server, "vectors", 2, {"steps": 5}, seed), strict=True
                ):
                    assert np.abs(mine - right).max() < 1e-4
            assert places == {0, 1}
            _, raw, _ = server.ask("GET", f"/v1/samples/{job['id']}/events")
            assert raw.decode().count("event: thing") == 2
            _, job, _ = server.ask("POST", "/v1/samples", {"run": "vectors", "n": 8, "walk": {"steps": 1000}})
            assert server.ask("DELETE", f"/v1/samples/{job['id']}")[1]["state"] in ("cancelled", "done")
            raw = json.dumps({"run": "vectors", "n": 64, "walk": {"steps": 1000}}).encode()
            head = (
                "POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nPrefer: wait=60\r\n"
            )
            with socket.create_connection(("127.0.0.1", port), 20) as line:
                line.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
                while not (running := server.ask("GET", "/v1/samples?state=running")[1]["data"]):
                    time.sleep(0.05)
            assert server.until(running[0]["id"], "cancelled", "done")["state"] == "cancelled"  # who waits and goes
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
