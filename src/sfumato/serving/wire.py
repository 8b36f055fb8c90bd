"""Messages between the process that speaks HTTP and the one that draws: a length, a head of JSON, bytes. Nothing is pickled."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from typing import Any

from sfumato.errors import Mendable

HEAD = struct.Struct("<II")
LONGEST = 1 << 28
"""Bytes of a message at most."""


class Closed(Mendable, Exception):
    """The other side has gone."""


def packed(head: dict[str, Any], body: bytes = b"") -> bytes:
    """A message as bytes."""
    text = json.dumps(head).encode()
    return HEAD.pack(len(text), len(body)) + text + body


def _sizes(raw: bytes) -> tuple[int, int]:
    head, body = HEAD.unpack(raw)
    if head + body > LONGEST:
        raise Closed(f"a message of {head + body} bytes")
    return head, body


class Wire:
    """One end of a socket, for threads: any of them may send, one receives."""

    def __init__(self, end: socket.socket):
        self.end, self.lock = end, threading.Lock()

    def send(self, body: bytes = b"", **head: Any) -> None:
        """A message out; lost where nobody listens any more."""
        with self.lock:
            try:
                self.end.sendall(packed(head, body))
            except OSError:
                return

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next message. Raises Closed."""
        head, body = _sizes(self._exactly(HEAD.size))
        return json.loads(self._exactly(head)), self._exactly(body)

    def _exactly(self, count: int) -> bytes:
        parts, left = [], count
        while left:
            try:
                part = self.end.recv(min(left, 1 << 20))
            except OSError:
                part = b""
            if not part:
                raise Closed
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


async def receive(reader: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    """The next message, for a loop of asyncio. Raises Closed."""
    try:
        head, body = _sizes(await reader.readexactly(HEAD.size))
        return json.loads(await reader.readexactly(head)), await reader.readexactly(body)
    except (asyncio.IncompleteReadError, OSError):
        raise Closed from None
