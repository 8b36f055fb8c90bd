"""Who may come in, and how much may be brought: before anything of a request is read."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sfumato.serving.problem import MEDIA, Problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
OPEN = ("/healthz", "/readyz", "/", "/page/app.js", "/page/style.css", "/page/icon.svg")
"""What can be had without a token: nothing of a run is in it."""
SAFE = ("GET", "HEAD", "OPTIONS")
HEADERS = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
     b"object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"),
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"), (b"cross-origin-opener-policy", b"same-origin"),
]  # fmt: skip


@dataclass(frozen=True)
class Token:
    """A word that lets somebody in: the class that pays for what they ask, and its weight."""

    share: str
    secret: str
    weight: float = 1.0


def tokens_of(text: str) -> tuple[Token, ...]:
    """A file of lines ``class:token`` or ``class:token:weight``. Raises ValueError that says which line is wrong."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.strip().split(":")
        if len(parts) not in (2, 3) or not parts[0] or len(parts[1]) < 16:
            raise ValueError(
                f"line {number}: must be CLASS:TOKEN or CLASS:TOKEN:WEIGHT, the token of 16 characters or more"
            )
        try:
            weight = float(parts[2]) if len(parts) == 3 else 1.0
        except ValueError:
            weight = 0.0
        if not 0 < weight < 1e6:
            raise ValueError(f"line {number}: the weight must be a number above 0")
        found.append(Token(parts[0], parts[1], weight))
    if not found:
        raise ValueError("holds no token; a line CLASS:TOKEN is expected")
    return tuple(found)


@dataclass
class Guard:
    """An application of ASGI around another.

    Args:
        hosts: names by which we may be called besides loopback ones (a page of elsewhere that resolves its name to us has
            another). tokens: who may come in; none: everybody, as on loopback.
        body, file_body: bytes of a body at most, of paths that begin with one of ``files`` the greater one.
        seconds: within which a body must be there.
        count: told (path, status, class) of every answer.
    """

    app: Any
    hosts: tuple[str, ...] = ()
    tokens: tuple[Token, ...] = ()
    body: int = 1 << 20
    file_body: int = 16 << 20
    files: tuple[str, ...] = ()
    seconds: float = 30.0
    count: Callable[[str, int, str], None] = lambda path, status, share: None
    open: tuple[str, ...] = field(default=OPEN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        share, status = "", 500

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._from_here(scope, headers)
            share = self._who(scope, headers)
            scope.setdefault("state", {})["share"] = share
            await self.app(scope, await self._bounded(scope, headers, receive), sent)
        except Problem as problem:
            await answered(problem, sent)
        finally:
            self.count(str(scope.get("path", "")), status, share)

    def _from_here(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Complain of a name that is not ours, and of a page of elsewhere that would change something."""
        host = headers.get("host", "")
        name = host_of(host)
        if not (is_loopback(name) or name in self.hosts):
            raise Problem(403, "this host is not served; start with --host NAME to allow it", "Host")
        if scope["method"] in SAFE:
            return
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        elsewhere = origin is not None and (origin == "null" or urlsplit(origin).netloc.lower() != host.lower())
        if elsewhere or site in ("cross-site", "same-site"):
            raise Problem(403, "a page of another origin may not do that", "Origin")

    def _who(self, scope: Scope, headers: Mapping[str, str]) -> str:
        """The class that pays. Raises Problem where a token is needed and is not there."""
        if not self.tokens:
            return str((scope.get("client") or ("local",))[0])
        kind, _, given = headers.get("authorization", "").partition(" ")
        found = None
        for token in self.tokens:  # all of them, so that time says nothing
            if hmac.compare_digest(token.secret.encode(), given.strip().encode()) and kind.lower() == "bearer":
                found = token
        if found is None:
            if scope["path"] in self.open:
                return "nobody"
            raise Problem(401, "a token is needed", "Authorization", headers={"www-authenticate": "Bearer"})
        return found.share

    async def _bounded(self, scope: Scope, headers: Mapping[str, str], receive: Receive) -> Receive:
        """The body, read whole before anybody is asked to do something with it; then what else is received."""
        most = self.file_body if any(scope["path"].startswith(path) for path in self.files) else self.body
        told = headers.get("content-length", "0")
        if not told.isdigit() or int(told) > most:
            raise Problem(413, f"the body has more than {most:,} bytes", expected=f"{most:,} bytes at most")
        if scope["method"] in SAFE and told == "0" and "transfer-encoding" not in headers:
            return receive
        raw, more = bytearray(), True
        try:
            async with asyncio.timeout(self.seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(400, "the body ended early")
                    raw += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(raw) > most:
                        raise Problem(413, f"the body has more than {most:,} bytes", expected=f"{most:,} bytes at most")
        except TimeoutError:
            late = f"the body was not there within {self.seconds:g} s"
            raise Problem(408, late, headers={"connection": "close"}) from None
        told_once = False

        async def again() -> MutableMapping[str, Any]:
            nonlocal told_once
            if told_once:
                return await receive()
            told_once = True
            return {"type": "http.request", "body": bytes(raw), "more_body": False}

        return again


async def answered(problem: Problem, send: Send) -> None:
    """Send a problem."""
    raw = problem.raw()
    headers = [(b"content-type", MEDIA.encode()), (b"content-length", str(len(raw)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in problem.headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


def host_of(text: str) -> str:
    """The name of a Host header, without port."""
    if text.startswith("["):
        return text[1:].partition("]")[0].lower()
    return text.partition(":")[0].lower()


def is_loopback(name: str) -> bool:
    """Whether a name or address means this machine alone."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
