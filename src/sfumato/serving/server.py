"""`sfumato serve`: the process that speaks HTTP, from its start to its end."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong, install
from sfumato.jobs.config import read_config
from sfumato.jobs.find import name_of
from sfumato.jobs.flags import listed, plain
from sfumato.jobs.recipe import say
from sfumato.serving.asked import Kind, Limits
from sfumato.serving.guard import Guard, Token, is_loopback, tokens_of
from sfumato.serving.hooks import Hooks, key_of
from sfumato.training.run import Run, RunError

if TYPE_CHECKING:
    from sfumato.serving.api import Api

FILES = ("/v1/samples", "/v1/making", "/v1/remake")
"""Paths to which files may be brought."""


@dataclass(frozen=True)
class Settings:
    """How runs are served; see the options of `sfumato serve`."""

    runs: tuple[Path, ...]
    port: int = 8000
    bind: str = "127.0.0.1"
    token: Path | None = None
    hosts: tuple[str, ...] = ()
    workers: int = 1
    threads: int = 0
    cap: int = 64
    queue: int = 256
    limits: Limits = Limits()
    keep: float = 900.0
    room: int = 512 << 20
    drain: float = 30.0
    header_s: float = 10.0
    body_s: float = 30.0
    connections: int = 1024
    webhook_key: Path | None = None
    webhook_allow: tuple[str, ...] = ()


def verb(options: Any) -> int:
    """`sfumato serve`, told its options. Raises Wrong, RunError."""
    limits = Limits(min(options.most_n, options.queue), options.most_steps, deadline=options.deadline)
    settings = Settings(
        tuple(options.runs), options.port, options.bind, options.token, tuple(name.lower() for name in options.host),
        options.workers, options.threads, options.cap, options.queue, limits, 60 * options.keep_minutes,
        options.keep_mb << 20, options.drain, webhook_key=options.webhook_key,
        webhook_allow=tuple(name.lower() for name in options.webhook_allow),
    )  # fmt: skip
    return serve(settings)


def named(runs: Sequence[Path]) -> dict[str, Path]:
    """Each run by a name of its own: that of its folder. Raises RunError for what is no run."""
    found: dict[str, Path] = {}
    for path in runs:
        Run(path).require()
        bare = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.resolve().name).strip(".-") or "run"
        name, more = bare, 2
        while name in found:
            name, more = f"{bare}-{more}", more + 1
        found[name] = path.resolve()
    return found


def kind_of(path: Path) -> Kind:
    """What can be asked of a run. Raises RunError, ConfigError."""
    recipe = read_config(Run(path)).recipe
    return Kind(recipe.Ask, tuple(recipe.formats), name_of(recipe))


def tokens(settings: Settings) -> tuple[Token, ...]:
    """Who may come in. Raises Wrong where others than this machine could, and nobody said who."""
    if settings.token is None:
        if not is_loopback(settings.bind):
            raise Wrong(f"bind = {settings.bind!r}: others could come in; give --token FILE with lines CLASS:TOKEN")
        return ()
    try:
        return tokens_of(settings.token.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Wrong(f"token = {str(settings.token)!r}: cannot be read ({type(error).__name__})") from error
    except ValueError as error:
        raise Wrong(f"token = {str(settings.token)!r}: {error}") from error


def hooks(settings: Settings) -> Hooks:
    """Who is told of the end of requests. Raises Wrong for a key that is none."""
    file, hosts = settings.webhook_key, settings.webhook_allow
    if file is None:
        if hosts:
            raise Wrong(f"webhook_allow = {hosts[0]!r}: what is told is signed; give --webhook-key FILE too")
        return Hooks()
    try:
        alone = is_loopback(settings.bind) and not settings.hosts and settings.token is None
        return Hooks(key_of(file.read_text(encoding="utf-8")), hosts, alone)
    except (OSError, UnicodeDecodeError) as error:
        raise Wrong(f"webhook_key = {str(file)!r}: cannot be read ({type(error).__name__})") from error
    except ValueError as error:
        raise Wrong(f"webhook_key = {str(file)!r}: {error}") from error


def bound(settings: Settings) -> socket.socket:
    """The listening socket. Raises Wrong where the port is taken."""
    family = socket.AF_INET6 if ":" in settings.bind else socket.AF_INET
    end = socket.socket(family, socket.SOCK_STREAM)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        end.bind((settings.bind, settings.port))
    except OSError as error:
        end.close()
        raise Wrong(f"port = {settings.port}: {settings.bind} cannot be listened on ({error.strerror}); give another --port "
                    "(0: any that is free)") from error  # fmt: skip
    return end


def serve(settings: Settings) -> int:
    """Serve until told to end. Raises Wrong, RunError."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise RunError(f"the package {error.name} is not installed; {install('serve')}") from None
    runs = named(settings.runs)
    kinds = {name: kind_of(path) for name, path in runs.items()}
    hooks(settings)
    who, end = tokens(settings), bound(settings)
    room = Path(tempfile.mkdtemp(prefix="sfumato-serve-"))
    try:
        asyncio.run(_served(settings, runs, kinds, who, end, room))
    finally:
        end.close()
        shutil.rmtree(room, ignore_errors=True)
    return 0


def api_of(
    settings: Settings, runs: Mapping[str, Path], kinds: Mapping[str, Kind], who: Sequence[Token], room: Path,
    place: int = 0, of: int = 1,
) -> Api:  # fmt: skip
    """The API over runs, whose processes are not started yet. place, of: which of several servers behind one door it is."""
    from sfumato.serving.api import Api
    from sfumato.serving.board import Board
    from sfumato.serving.pool import Pool

    board = Board(room, settings.keep, settings.room, place, of)
    pool = Pool(
        board, runs, settings.workers, settings.cap, settings.threads, {each.share: each.weight for each in who}
    )
    return Api(pool, board, kinds, settings.limits, settings.queue, hooks=hooks(settings))


def guard_of(
    app: Any, settings: Settings, kinds: Mapping[str, Kind], who: tuple[Token, ...],
    count: Callable[[str, int, str], None] = lambda path, status, share: None,
) -> Guard:  # fmt: skip
    """Who may come in, around an application."""
    files = FILES if any(takes_files(kind) for kind in kinds.values()) else FILES[1:]
    limits = settings.limits
    return Guard(app, settings.hosts, who, limits.body, limits.file_body, files, settings.body_s, count)


async def _served(
    settings: Settings,
    runs: dict[str, Path],
    kinds: dict[str, Kind],
    who: tuple[Token, ...],
    end: socket.socket,
    room: Path,
) -> None:
    from sfumato.serving.app import application
    from sfumato.serving.http import server_of

    api = api_of(settings, runs, kinds, who, room)
    pool, board = api.pool, api.board
    guard = guard_of(application(api, bool(who)), settings, kinds, who, api.tally.answered)
    server = server_of(guard, settings.header_s, settings.connections)
    await pool.start()
    port = end.getsockname()[1]
    address = f"http://{'localhost' if is_loopback(settings.bind) else settings.bind}:{port}"
    say(f"serving   {', '.join(runs)}\npage      {address}/\nAPI       {address}/openapi.json")
    tasks = [asyncio.create_task(_told(pool)), asyncio.create_task(_swept(board))]
    with _asked_to_end(api, server, settings.drain):
        try:
            await server.serve([end])
        finally:
            for task in tasks:
                task.cancel()
            await pool.close()
    if pool.broken:
        raise RunError(pool.broken)


def takes_files(kind: Kind) -> bool:
    """Whether a query of this run can hold a file."""
    return any(plain(option.hint) is Path for option in listed(kind.ask))


async def _told(pool: Any) -> None:
    """Say how many rows pay, once it is known; end where nothing can be drawn."""
    while not pool.ready and not pool.broken:
        await asyncio.sleep(0.05)
    for name, run in pool.runs.items():
        table = "  ".join(f"{rows}: {1000 * seconds / rows:.2f}" for rows, seconds in run["table"])
        say(f"{name}: {run['cap']} rows a step at most" + (f"; ms a row by rows  {table}" if table else ""))
    say("ready" if pool.ready else f"cannot draw: {pool.broken}")
    while not pool.broken:
        await asyncio.sleep(0.5)
    signal.raise_signal(signal.SIGTERM)


async def _swept(board: Any) -> None:
    while True:
        await asyncio.sleep(5)
        board.sweep()


@contextmanager
def _asked_to_end(api: Any, server: Any, seconds: float) -> Iterator[None]:
    """SIGTERM and Ctrl-C: no new request, those under way are finished within so many seconds; a second one ends at once."""
    loop = asyncio.get_running_loop()
    drains: list[asyncio.Task[None]] = []

    async def drain() -> None:
        say(f"ending: requests under way have {seconds:g} s")
        try:
            async with asyncio.timeout(0 if api.pool.broken else seconds):
                while api.busy:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            for job in api.board.live():
                api.pool.cancel(job, "the server ended")
        await asyncio.sleep(0.2)  # whoever waits hears of it
        server.should_exit = True

    def asked() -> None:
        if api.draining:
            server.should_exit = server.force_exit = True
            return
        api.draining = True
        drains.append(loop.create_task(drain()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        for task in drains:
            task.cancel()
