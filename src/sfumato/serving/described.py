"""The API described, as OpenAPI has it: with each field's own query, bounds and explanations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato import __version__
from sfumato.serving.asked import Kind, Limits, body_schema, schema
from sfumato.serving.problem import MEDIA

JSON = "application/json"
ID = {"type": "string", "pattern": "^[0-9a-f]{32}$"}


def _problems(*codes: int) -> dict[str, Any]:
    ref = {"$ref": "#/components/schemas/problem"}
    every = (401, 403, 405, 408, 413, *codes)
    return {str(code): {"description": "A problem (RFC 9457).", "content": {MEDIA: {"schema": ref}}} for code in every}


def _json(ref: str, words: str) -> dict[str, Any]:
    return {"description": words, "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{ref}"}}}}


def _parameter(name: str, place: str, found: Mapping[str, Any], words: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "description": words, "schema": dict(found)}


def _body(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {JSON: {"schema": dict(found)}}}


def described(
    kinds: Mapping[str, Kind], limits: Limits, choices: Mapping[str, Mapping[str, list[str]]], secured: bool
) -> dict[str, Any]:
    """The whole document."""
    bodies = {f"samples-{run}": body_schema(kind, run, limits) for run, kind in kinds.items()}
    queries = {f"query-{run}": schema(kind.ask, choices.get(run)) for run, kind in kinds.items()}
    one_of = {
        "oneOf": [{"$ref": f"#/components/schemas/samples-{run}"} for run in kinds],
        "discriminator": {"propertyName": "run",
                          "mapping": {run: f"#/components/schemas/samples-{run}" for run in kinds}},
    }  # fmt: skip
    number = _parameter("id", "path", ID, "Of the request, as POST /v1/samples gave it.")
    which = _parameter("number", "path", {"type": "integer", "minimum": 0}, "Of the sample.")
    key = _parameter("Idempotency-Key", "header", {"type": "string", "minLength": 1, "maxLength": 200},
                     "The same key and body is the same request.")  # fmt: skip
    prefer = _parameter(
        "Prefer", "header", {"type": "string"}, "wait=30: answer once it is done, or after so many seconds."
    )
    raw = {"description": "The bytes of a file.", "content": {"application/octet-stream": {}, "*/*": {}}}
    text = {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    upload = {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
    stream = {"description": "Events.", "content": {"text/event-stream": {}}}
    states = {"type": "string", "enum": ["queued", "running", "done", "failed", "cancelled"]}
    paths: dict[str, Any] = {
        "/v1/samples": {
            "post": {
                "summary": "Ask for samples", "operationId": "ask", "parameters": [key, prefer], "requestBody": _body(one_of),
                "responses": {"200": _json("job", "Done, or asked for before."), "202": _json("job", "Under way."),
                              **_problems(400, 409, 415, 422, 429, 500, 503)},
            },
            "get": {
                "summary": "The requests that are known", "operationId": "list",
                "parameters": [_parameter("state", "query", states, "Those of a state alone.")],
                "responses": {"200": _json("jobs", "All of them, the newest first."), **_problems(422)},
            },
        },
        "/v1/samples/{id}": {
            "get": {"summary": "How far a request is", "operationId": "look", "parameters": [number],
                    "responses": {"200": _json("job", "The request."), **_problems(404, 410)}},
            "delete": {"summary": "Give a request up, within a step", "operationId": "cancel", "parameters": [number],
                       "responses": {"200": _json("job", "The request."), **_problems(404, 410)}},
        },
        "/v1/samples/{id}/events": {
            "get": {"summary": "What happens, as server-sent events", "operationId": "events", "parameters": [
                number, _parameter("Last-Event-ID", "header", {"type": "integer", "minimum": 0}, "Go on after this one.")],
                "responses": {"200": stream, **_problems(404, 410, 422)},
            },
        },
        "/v1/samples/{id}/things/{number}": {
            "get": {"summary": "A thing, in the field's own format", "operationId": "thing", "parameters": [
                number, which, _parameter("file", "query", {"type": "string"}, "Another of its files.")],
                "responses": {"200": raw, "304": {"description": "As you have it."}, **_problems(404, 410)}},
        },
        "/v1/samples/{id}/things/{number}/view": {
            "get": {"summary": "A thing, as a person sees it", "operationId": "view", "parameters": [number, which],
                    "responses": {"200": raw, "304": {"description": "As you have it."}, **_problems(404, 410)}},
        },
        "/v1/runs": {
            "get": {"summary": "The runs", "operationId": "runs", "responses": {"200": _json("runs", "All."), **_problems()}},
        },
        "/v1/runs/{name}": {
            "get": {"summary": "A run: what can be asked of it", "operationId": "run",
                    "parameters": [_parameter("name", "path", {"type": "string", "enum": list(kinds)}, "Of the run.")],
                    "responses": {"200": _json("run", "The run."), **_problems(404)}},
        },
        "/v1/making": {
            "post": {"summary": "What a thing says of its making", "operationId": "making", "requestBody": upload,
                     "responses": {"200": _json("making", "In the words of a request."), **_problems(422)}},
        },
        "/v1/remake": {
            "post": {"summary": "A thing made again, in its bits", "operationId": "remake", "requestBody": upload,
                     "responses": {"202": _json("job", "Under way."), **_problems(422, 429, 503)}},
        },
        "/v1/images/generations": {
            "post": {"summary": "Pictures for words, as other servers have it", "operationId": "pictures",
                     "requestBody": _body({"$ref": "#/components/schemas/pictures"}),
                     "responses": {"200": _json("any", "The pictures."), **_problems(400, 415, 422, 429, 500, 503)}},
        },
        "/v1/completions": {
            "post": {"summary": "Text that goes on, as other servers have it", "operationId": "completions",
                     "requestBody": _body({"$ref": "#/components/schemas/completions"}),
                     "responses": {"200": _json("any", "The texts."), **_problems(400, 415, 422, 429, 500, 503)}},
        },
        "/healthz": {"get": {"summary": "Alive", "operationId": "healthz", "responses": {"200": text, **_problems()}}},
        "/readyz": {"get": {"summary": "Ready to draw", "operationId": "readyz", "responses": {"200": text, **_problems(503)}}},
        "/metrics": {
            "get": {"summary": "Numbers for Prometheus", "operationId": "metrics", "responses": {"200": text, **_problems()}},
        },
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "sfumato", "version": __version__, "description": "Samples of trained runs.",
                 "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {**bodies, **queries, **_answers(states), **_faces(limits)},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}] if secured else [],
    }  # fmt: skip


def _answers(states: Mapping[str, Any]) -> dict[str, Any]:
    words, number, whole = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    some = {"type": ["number", "null"]}
    free = {"type": "object"}
    thing = {
        "type": "object", "required": ["number", "url", "file", "type", "making"],
        "properties": {"number": whole, "name": words, "file": words, "url": words, "type": words, "view": words,
                       "view_type": words, "files": {"type": "array", "items": words}, "making": free},
    }  # fmt: skip
    job = {
        "type": "object", "required": ["id", "run", "state", "position", "step", "things", "links"],
        "properties": {
            "id": ID, "run": words, "state": dict(states), "why": words, "position": whole, "seconds_left": some,
            "step": {"type": "object", "properties": {"done": whole, "of": whole}}, "asked": free, "walk": free,
            "created": number, "seconds": some, "command": words, "things": {"type": "array", "items": thing}, "links": free,
        },
    }  # fmt: skip
    problem = {
        "type": "object", "required": ["type", "title", "status", "detail"],
        "properties": {"type": words, "title": words, "status": whole, "detail": words, "field": words, "expected": words,
                       "example": {}, "id": words},
    }  # fmt: skip
    run = {
        "type": "object", "required": ["name", "field", "formats", "ready"],
        "properties": {"name": words, "field": words, "formats": {"type": "array", "items": words}, "ready": {"type": "boolean"},
                       "weights": words, "walk": free, "guided": {"type": "boolean"}, "cap": whole, "query": free, "body": free},
    }  # fmt: skip
    making = {
        "type": "object", "required": ["run", "weights", "seed", "query", "walk"],
        "properties": {"run": {"type": ["string", "null"]}, "weights": words, "seed": whole, "query": free, "walk": free,
                       "number": {"type": ["integer", "null"]}, "suffix": words, "name": words, "made_by": words},
    }  # fmt: skip
    listed = {
        "type": "object",
        "properties": {"data": {"type": "array", "items": {"$ref": "#/components/schemas/job"}}},
    }
    runs = {"type": "object", "properties": {"data": {"type": "array", "items": {"$ref": "#/components/schemas/run"}}}}
    return {"job": job, "jobs": listed, "problem": problem, "run": run, "runs": runs, "making": making, "any": free}


def _faces(limits: Limits) -> dict[str, Any]:
    words = {"type": "string"}
    n = {"type": "integer", "minimum": 1, "maximum": limits.rows, "default": 1}
    seed = {"type": "integer", "default": 0}
    return {
        "pictures": {"type": "object", "required": ["prompt"], "properties": {
            "model": words, "prompt": words, "n": n, "size": words, "seed": seed,
            "response_format": {"type": "string", "enum": ["b64_json", "url"], "default": "b64_json"}}},
        "completions": {"type": "object", "required": ["prompt"], "properties": {
            "model": words, "prompt": words, "suffix": {"type": ["string", "null"]}, "n": n, "seed": seed,
            "max_tokens": {"type": "integer", "minimum": 1, "maximum": 4096}, "stream": {"type": "boolean", "default": False}}},
    }  # fmt: skip
