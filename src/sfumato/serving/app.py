"""The HTTP face: paths to what :mod:`~sfumato.serving.api` does."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from sfumato import __version__
from sfumato.serving import faces
from sfumato.serving.api import Api
from sfumato.serving.asked import read
from sfumato.serving.board import ENDED, Job, of_state
from sfumato.serving.described import described
from sfumato.serving.pool import media
from sfumato.serving.problem import MEDIA, Problem

PAGE = Path(__file__).parent / "page"
FILES = {"app.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml"}
LONGEST_WAIT = 300.0


def said(problem: Problem) -> Response:
    """A problem as an answer."""
    return Response(problem.raw(), problem.status, problem.headers, MEDIA)


async def body_of(request: Request) -> tuple[bytes, dict[str, Any]]:
    """The body, raw and read. Raises Problem."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "the body must be JSON", "Content-Type", "application/json")
    raw = await request.body()
    return raw, read(raw)


def patience(request: Request) -> float | None:
    """Seconds that somebody waits for an answer: Prefer: wait=30; None where nobody does."""
    match = re.search(r"\bwait\s*=\s*(\d{1,6})\b", request.headers.get("prefer", ""))
    return None if match is None else min(float(match[1]), LONGEST_WAIT)


async def waited(api: Api, request: Request, job: Job, seconds: float) -> None:
    """Until a request has ended, or for so long; whoever waits and goes takes it along."""
    done = asyncio.ensure_future(job.finished())
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({done, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not done.done():
            api.pool.cancel(job, "whoever waited for it has gone")
    finally:
        done.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def own(request: Request, secured: bool) -> str | None:
    """The class whose requests somebody may see, where there are tokens; else all."""
    return request.state.share if secured else None


def application(api: Api, secured: bool = False) -> FastAPI:
    """All paths."""
    app = FastAPI(
        title="sfumato",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    _errors(app)
    _samples(app, api, secured)
    _runs(app, api)
    _faces(app, api)
    _health(app, api)
    _page(app)

    def openapi() -> dict[str, Any]:
        choices: Mapping[str, Any] = {name: run.get("choices", {}) for name, run in api.pool.runs.items()}
        return described(api.kinds, api.limits, choices, secured)

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def of_ours(request: Request, problem: Problem) -> Response:
        return said(problem)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        words = {404: "there is nothing of that name", 405: "that cannot be done here"}
        if error.status_code == 405:  # each way to a path is a route of its own, and any of them may have answered
            ways = {way for route in app.routes if route.matches(request.scope)[0] != Match.NONE
                    for way in getattr(route, "methods", None) or ()}  # fmt: skip
            error.headers = {"allow": ", ".join(sorted(ways))}
        return said(
            Problem(error.status_code, words.get(error.status_code, "wrong"), headers=dict(error.headers or {}))
        )

    @app.exception_handler(Exception)
    async def of_nobody(request: Request, error: Exception) -> Response:
        return said(Problem(500, "an error of the server; its log says more"))


def _samples(app: FastAPI, api: Api, secured: bool) -> None:
    @app.post("/v1/samples")
    async def ask(request: Request) -> Response:
        raw, body = await body_of(request)
        job = api.asked_for(raw, body, request.state.share, request.headers.get("idempotency-key"))
        await api.admitted(job)
        seconds = patience(request)
        if seconds is not None and job.live:
            await waited(api, request, job, seconds)
            api.raise_refused(job)
        if seconds is not None and job.state == "failed":
            raise Problem(500, job.why, id=job.id)
        return JSONResponse(api.shown(job), 202 if job.live else 200, {"location": f"/v1/samples/{job.id}"})

    @app.get("/v1/samples")
    async def listed(request: Request) -> Response:
        state = request.query_params.get("state")
        if state is not None and state not in ("queued", "running", *ENDED):
            right = f"one of queued, running, {', '.join(ENDED)}"
            raise Problem(422, f"state = {state[:30]!r}: must be {right}", "state", right, "done")
        share = own(request, secured)
        jobs = [job for job in of_state(reversed(api.board.jobs.values()), state) if share in (None, job.share)]
        return JSONResponse({"data": [api.shown(job) for job in jobs]})

    @app.get("/v1/samples/{number}")
    async def look(request: Request, number: str) -> Response:
        return JSONResponse(api.shown(api.board.find(number, own(request, secured))))

    @app.delete("/v1/samples/{number}")
    async def cancel(request: Request, number: str) -> Response:
        job = api.board.find(number, own(request, secured))
        if job.live:
            api.pool.cancel(job)
        return JSONResponse(api.shown(job))

    @app.get("/v1/samples/{number}/events")
    async def events(request: Request, number: str) -> Response:
        job = api.board.find(number, own(request, secured))
        last = request.headers.get("last-event-id", "0")
        if not re.fullmatch(r"\d{1,9}", last, re.ASCII):
            raise Problem(422, "Last-Event-ID: must be a number", "Last-Event-ID", "a whole number", 0)
        return StreamingResponse(
            _stream(job, int(last)), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    @app.get("/v1/samples/{number}/things/{which}")
    async def thing(request: Request, number: str, which: str) -> Response:
        job = api.board.find(number, own(request, secured))
        return _file(request, job, which, request.query_params.get("file"))

    @app.get("/v1/samples/{number}/things/{which}/view")
    async def view(request: Request, number: str, which: str) -> Response:
        return _file(request, api.board.find(number, own(request, secured)), which, None, "view")


async def _stream(job: Job, after: int) -> AsyncIterator[str]:
    async for number, event, data in job.follow(after):
        yield f"id: {number}\nevent: {event}\ndata: {data}\n\n" if event else ": still there\n\n"


def _file(request: Request, job: Job, which: str, name: str | None, part: str = "main") -> Response:
    """A file of a thing: one of those that it is known to have, whatever the name that is asked for."""
    if not re.fullmatch(r"\d{1,9}", which, re.ASCII) or int(which) not in job.things:
        raise Problem(404, "this request has no such thing", "number", "the number of a thing that is done")
    found = job.things[int(which)]
    chosen = found[part] if name is None else next((each for each in found["files"] if each == name), "")
    if not chosen:
        raise Problem(404, "this thing has no such file", "file", ", ".join(found["files"]))
    told = json.dumps([found["making"], chosen, part], sort_keys=True)
    tag = f'"{hashlib.sha256(told.encode()).hexdigest()[:32]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, {"etag": tag})
    leaf = Path(chosen).name
    kind = media(chosen)
    headers = {"etag": tag, "content-disposition": f'{"inline" if "octet" not in kind else "attachment"}; filename="{leaf}"',
               "cache-control": "private, no-cache"}  # fmt: skip
    return Response((job.folder / chosen).read_bytes(), 200, headers, kind)


def _runs(app: FastAPI, api: Api) -> None:
    @app.get("/v1/runs")
    async def runs() -> Response:
        return JSONResponse({"data": [api.run(name) for name in api.kinds]})

    @app.get("/v1/runs/{name}")
    async def run(name: str) -> Response:
        return JSONResponse(api.run(name))

    @app.post("/v1/making")
    async def making(request: Request) -> Response:
        return JSONResponse(api.making(await request.body(), request.headers.get("x-file-name", "thing.png")))

    @app.post("/v1/remake")
    async def remake(request: Request) -> Response:
        name = request.headers.get("x-file-name", "thing.png")
        job = api.remake(await request.body(), name, request.state.share)
        await api.admitted(job)
        return JSONResponse(api.shown(job), 202)


def _faces(app: FastAPI, api: Api) -> None:
    async def drawn(request: Request, asked: Callable[..., dict[str, Any]]) -> tuple[Job, dict[str, Any]]:
        _, body = await body_of(request)
        job = api.opened(api.understood(asked(body, api.kinds)), request.state.share)
        await api.admitted(job)
        await waited(api, request, job, LONGEST_WAIT)
        api.raise_refused(job)
        if job.state != "done":
            raise Problem(503 if job.state == "cancelled" else 500, job.why or "it was cancelled", id=job.id)
        return job, body

    @app.post("/v1/images/generations")
    async def pictures(request: Request) -> Response:
        job, body = await drawn(request, faces.pictures)
        return JSONResponse(faces.pictured(job, body))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        job, body = await drawn(request, faces.texts)
        answer = faces.written(job, body)
        if body.get("stream") is True:

            async def pieces() -> AsyncIterator[str]:
                for choice in answer["choices"]:
                    yield f"data: {json.dumps({**answer, 'choices': [choice]})}\n\n"
                yield "data: [DONE]\n\n"

            return StreamingResponse(pieces(), media_type="text/event-stream")
        return JSONResponse(answer)


def _health(app: FastAPI, api: Api) -> None:
    @app.get("/healthz")
    async def alive() -> Response:
        return PlainTextResponse("alive\n")

    @app.get("/readyz")
    async def ready() -> Response:
        if api.draining or api.pool.broken or not api.pool.ready:
            why = "about to end" if api.draining else "cannot draw" if api.pool.broken else "still loading"
            raise Problem(503, why, headers={"retry-after": "2"})
        return PlainTextResponse("ready\n")

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(api.metrics(), media_type="text/plain; version=0.0.4")


def _page(app: FastAPI) -> None:
    @app.get("/")
    async def index() -> Response:
        return Response(
            (PAGE / "index.html").read_bytes(), media_type="text/html", headers={"cache-control": "no-cache"}
        )

    @app.get("/page/{name}")
    async def part(name: str) -> Response:
        if name not in FILES:
            raise Problem(404, "there is nothing of that name")
        return Response((PAGE / name).read_bytes(), media_type=FILES[name], headers={"cache-control": "no-cache"})
