"""uvicorn, with what it leaves open bounded: how long a header may take, how many connections there are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


def protocol(seconds: float, most: int) -> type[H11Protocol]:
    """A connection that closes where a request's header is not there within so many seconds, or where ``most`` others are
    open."""
    open_now: set[Any] = set()

    class Bounded(H11Protocol):
        """See above."""

        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(open_now) >= most:
                transport.abort()
                return
            open_now.add(self)
            self.timer = self.loop.call_later(seconds, self._late)

        def _late(self) -> None:
            if self.cycle is None or self.cycle.response_complete:  # nothing was asked yet, or all is answered
                self.transport.close()
                return
            self.timer = self.loop.call_later(seconds, self._late)

        def connection_lost(self, exc: Exception | None) -> None:
            open_now.discard(self)
            if self.timer is not None:
                self.timer.cancel()
            super().connection_lost(exc)

    return Bounded


class Server(uvicorn.Server):
    """One whose end is said by us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server_of(app: Any, header_s: float, connections: int) -> Server:
    """A server of an application."""
    config = uvicorn.Config(
        app, http=protocol(header_s, connections), ws="none", lifespan="off", log_level="warning", access_log=False,
        server_header=False, date_header=True, timeout_keep_alive=int(max(1, header_s)), timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=32768, proxy_headers=False, backlog=2048,
    )  # fmt: skip
    return Server(config)
