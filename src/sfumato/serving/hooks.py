"""Telling another server that a request has ended: a signed POST to an address whose host was allowed at the start.

Signed as standardwebhooks.com has it: ``webhook-signature`` is "v1," and the base64 of the HMAC-SHA-256 of
"ID.TIMESTAMP.BODY" with the key, ``webhook-id`` the number of the request, ``webhook-timestamp`` seconds since 1970.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.client
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sfumato.serving.guard import is_loopback
from sfumato.serving.problem import Problem

LONGEST = 2000
"""Characters of an address at most."""
AT_ONCE = 8
"""Servers that are told at the same time."""


def signed(key: bytes, number: str, seconds: int, body: bytes) -> dict[str, str]:
    """The headers that say of a body who sent it, and when."""
    mac = hmac.digest(key, f"{number}.{seconds}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": number, "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}", "content-type": "application/json",
    }  # fmt: skip


def key_of(text: str) -> bytes:
    """The key in a file: what stands there, or after "whsec_" what is base64 of it. Raises ValueError for one that is easily
    guessed."""
    word = text.strip()
    try:
        key = base64.b64decode(word[6:], validate=True) if word.startswith("whsec_") else word.encode()
    except ValueError:
        raise ValueError("must hold base64 after whsec_") from None
    if len(key) < 24:
        raise ValueError("must hold a key of 24 bytes or more")
    return key


@dataclass
class Hooks:
    """Who is told.

    Args:
        key: what is signed with; none: nobody is told. hosts: names that may be told. loopback: whether this machine may:
            not where others come in, who could reach through us what listens here alone.
        tries, wait: how often, and seconds before the second time (before the third four times that).
    """

    key: bytes = b""
    hosts: tuple[str, ...] = ()
    loopback: bool = True
    tries: int = 3
    wait: float = 1.0
    seconds: float = 10.0
    told: Counter[str] = field(default_factory=Counter)
    busy: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    def check(self, url: str) -> None:
        """Raises Problem for an address that is not told."""
        if not self.key:
            why = "nobody is told here; the server was started without --webhook-key FILE"
            raise Problem(422, f"webhook_url: {why}", "webhook_url", "left out; ask links.self instead")
        try:
            parts = urlsplit(url)
            name, _ = (parts.hostname or "").lower(), parts.port
        except ValueError:
            parts, name = urlsplit(""), ""
        plain = len(url) <= LONGEST and url.isascii() and url.isprintable() and " " not in url
        if not plain or parts.scheme not in ("http", "https") or not name or parts.username is not None:
            right = "an address http://HOST/PATH or https://HOST/PATH, without a user"
            raise Problem(422, f"webhook_url: must be {right}", "webhook_url", right, "https://example.org/done")
        if not (name in self.hosts or (self.loopback and is_loopback(name))):
            allowed = ", ".join([*self.hosts, *(["this machine"] if self.loopback else [])]) or "nobody"
            right = f"on a host that --webhook-allow names; allowed: {allowed}"
            raise Problem(422, f"webhook_url: {name[:100]!r} is not told; must be {right}", "webhook_url", right)

    async def tell(self, url: str, number: str, said: Mapping[str, Any]) -> bool:
        """Tell somebody, again where nobody takes it; whether somebody did."""
        body = json.dumps(said).encode()
        async with self.busy:
            for attempt in range(self.tries):
                if attempt:
                    await asyncio.sleep(self.wait * 4 ** (attempt - 1))
                headers = signed(self.key, number, int(time.time()), body)
                if 200 <= await asyncio.to_thread(posted, url, body, headers, self.seconds) < 300:
                    self.told["taken"] += 1
                    return True
        self.told["lost"] += 1
        return False


def posted(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> int:
    """The status of a POST, which is led nowhere else; 0 where there was no answer."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    line = kind(parts.hostname or "", parts.port, timeout=seconds)
    try:
        line.request("POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, dict(headers))
        return line.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        line.close()
