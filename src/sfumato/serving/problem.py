"""What was wrong with a request, as RFC 9457 has it: which field, what is wrong, what would be right."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

from sfumato.errors import Mendable

TITLES = {
    400: "not JSON", 401: "a token is needed", 403: "not from there", 404: "nothing of that name", 405: "not that way",
    408: "too slow", 409: "told twice, differently", 410: "no longer kept", 413: "too large", 415: "not JSON",
    422: "makes no sense", 429: "too much at once", 500: "went wrong here", 503: "not now",
}  # fmt: skip
MEDIA = "application/problem+json"


@dataclass
class Problem(Mendable, Exception):
    """An answer that is none. No path and no traceback is in it."""

    status: int
    detail: str
    field: str = ""
    expected: str = ""
    example: Any = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    id: str = ""

    def __str__(self) -> str:
        return self.detail

    def body(self) -> dict[str, Any]:
        """As a plain dict."""
        more = {"field": self.field, "expected": self.expected, "example": self.example, "id": self.id}
        return {
            "type": "about:blank", "title": TITLES.get(self.status, "wrong"), "status": self.status,
            "detail": self.detail[:1000], **{name: value for name, value in more.items() if value not in ("", None)},
        }  # fmt: skip

    def raw(self) -> bytes:
        """As it is sent."""
        return json.dumps(self.body()).encode()


def of_line(text: str, inside: str = "", known: tuple[str, ...] = ()) -> Problem:
    """A complaint of ours, ``name = value: must be right``, as a problem of that field."""
    match = re.match(r"(\w+) = .*?: (.*)$", text, re.DOTALL) or re.match(r"(\w+): (.*)$", text, re.DOTALL)
    if match is None and (unknown := re.match(r"unknown option '(\w+)'; (.*)$", text, re.DOTALL)):
        match = unknown
    name, expected = (match[1], match[2]) if match else ("", "")
    if known and name not in known and not text.startswith("unknown"):
        name = ""
    place = f"{inside}.{name}".strip(".") if name else inside
    return Problem(422, text, place, expected)
