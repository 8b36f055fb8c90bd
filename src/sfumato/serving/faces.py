"""Thin faces in the shape that other servers made usual: pictures for a prompt, text that goes on."""

from __future__ import annotations

import base64
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from sfumato.serving.asked import Kind
from sfumato.serving.board import Job
from sfumato.serving.problem import Problem

PICTURES = ("model", "prompt", "n", "size", "seed", "response_format")
TEXTS = ("model", "prompt", "suffix", "n", "seed", "max_tokens", "stream", "temperature")


def has(kind: Kind, name: str) -> bool:
    """Whether a run can be asked for this."""
    return name in {f.name for f in dataclasses.fields(kind.ask)}


def run_of(said: Mapping[str, Any], kinds: Mapping[str, Kind], *names: str) -> str:
    """The run that is meant: the one named, or the first that can be asked for any of these. Raises Problem."""
    fitting = [run for run, kind in kinds.items() if any(has(kind, name) for name in names)]
    wanted = said.get("model")
    if wanted is None and fitting:
        return fitting[0]
    if wanted not in fitting:
        right = f"one of {', '.join(fitting)}" if fitting else "no run here can be asked for that"
        raise Problem(422, f"model: {str(wanted)[:60]!r} cannot be asked for that; {right}", "model", right)
    return str(wanted)


def known(said: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Complain of names that are not known."""
    if unknown := [name for name in said if name not in names]:
        raise Problem(422, f"unknown {unknown[0][:60]!r}; known: {', '.join(names)}", unknown[0][:60])


def words(said: Mapping[str, Any], name: str) -> str:
    """Words that must be there."""
    found = said.get(name)
    if not isinstance(found, str):
        raise Problem(422, f"{name}: expected words", name, "words", "a red house")
    return found


def pictures(said: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """A request for pictures in our own words: of a run with prompts, or with labels. Raises Problem."""
    known(said, PICTURES)
    run = run_of(said, kinds, "prompt", "label")
    query: dict[str, Any] = {"prompt" if has(kinds[run], "prompt") else "label": words(said, "prompt")}
    if said.get("size") is not None:
        if not has(kinds[run], "size"):
            raise Problem(422, "size: pictures of this run have one size alone; leave it out", "size", "left out")
        wide, _, high = words(said, "size").partition("x")
        query["size"] = f"{high}x{wide}"
    if said.get("response_format", "b64_json") not in ("b64_json", "url"):
        raise Problem(422, "response_format: must be b64_json or url", "response_format", "b64_json or url")
    own = {name: said[name] for name in ("n", "seed") if said.get(name) is not None}
    return {"run": run, "query": query, **own}


def pictured(job: Job, said: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request for pictures."""
    as_url = said.get("response_format") == "url"
    data = []
    for number, thing in sorted(job.things.items()):
        if as_url:
            data.append({"url": f"/v1/samples/{job.id}/things/{number}"})
        else:
            raw = (job.folder / (thing["view"] or thing["main"])).read_bytes()
            data.append({"b64_json": base64.b64encode(raw).decode()})
    return {"created": int(time.time()), "data": data}


def texts(said: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """A request for text in our own words: what goes on after a prompt, or, before a suffix, what fills the hole. Raises
    Problem."""
    known(said, TEXTS)
    run = run_of(said, {name: kind for name, kind in kinds.items() if has(kind, "around")}, "prompt")
    prompt, suffix, most = words(said, "prompt"), said.get("suffix"), said.get("max_tokens")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 4096):
        raise Problem(422, "max_tokens: must be a whole number from 1 to 4096", "max_tokens", "1 to 4096", 64)
    query: dict[str, Any] = {}
    if suffix is not None:
        hole = f"<fill:{most}>" if most else "<fill>"
        text = (prompt + hole + words(said, "suffix")).encode()
        query["around"] = {"name": "around.txt", "base64": base64.b64encode(text).decode()}
    else:
        query["prompt"] = prompt
        if most is not None:
            query["length"] = max(2, most + len(prompt.encode()) // 3)  # of what a token is long, on average
    if said.get("temperature") is not None:
        query["temperature"] = said["temperature"]
    own = {name: said[name] for name in ("n", "seed") if said.get(name) is not None}
    return {"run": run, "query": query, **own}


def written(job: Job, said: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request for text: without the prompt, and without the suffix where there is one."""
    prompt, suffix, choices = words(said, "prompt"), said.get("suffix"), []
    for number, thing in sorted(job.things.items()):
        text = (job.folder / thing["main"]).read_bytes().decode("utf-8", "replace")
        text = text.removeprefix(prompt)
        if isinstance(suffix, str) and suffix:
            text = text.removesuffix(suffix)
        choices.append({"text": text, "index": number, "finish_reason": "stop", "logprobs": None})
    return {"id": f"cmpl-{job.id}", "object": "text_completion", "created": int(time.time()), "model": job.run,
            "choices": choices}  # fmt: skip
