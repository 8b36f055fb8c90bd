"""What a person sees of texts: what changed as a diff, nothing that steers a terminal, and a text while it is written."""

from __future__ import annotations

import difflib
import re
import sys
from types import TracebackType
from typing import Any

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SHOWN_LINES = 12


def safe(text: str) -> str:
    """A text in which nothing steers a terminal: control characters as pictures of them; ends of lines and tabs stay."""

    def picture(found: re.Match[str]) -> str:
        code = ord(found.group())
        return chr(0x2400 + code) if code < 32 else "\u2421" if code == 127 else "\ufffd"

    return _STEERING.sub(picture, text.replace("\r\n", "\n"))


def deliver(data: bytes) -> None:
    """A result on standard output: a file or pipe gets the bytes, a terminal what is safe to show of them."""
    sys.stdout.flush()
    if sys.stdout.isatty():
        sys.stdout.write(safe(data.decode("utf-8", "replace")))
    else:
        sys.stdout.buffer.write(data)
    sys.stdout.flush()


def diff(before: bytes, after: bytes, name: str, what: str) -> bytes:
    """A unified diff, as `patch` reads it; empty where nothing changed."""

    def lines(text: bytes) -> list[bytes]:
        return [line + b"\n" for line in text.split(b"\n")[:-1]] + [line for line in text.split(b"\n")[-1:] if line]

    found = difflib.diff_bytes(
        difflib.unified_diff, lines(before), lines(after), name.encode(), f"{name} ({what})".encode(), lineterm=b"\n"
    )
    return b"".join(line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n" for line in found)


class Writing:
    """The text that is being written, on a terminal, as long as it is; elsewhere nothing."""

    def __init__(self) -> None:
        from rich.console import Console

        from sfumato.training.telling import QUIET

        console = Console(file=QUIET)
        self.live: Any = None
        if console.is_terminal and not console.is_dumb_terminal:
            from rich.live import Live

            self.live = Live(console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> Writing:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, before: bytes, written: bytes, after: bytes) -> None:
        """The last lines before what is being written, that itself, and the first after it."""
        if self.live is None:
            return
        from rich.text import Text

        parts = [safe(part.decode("utf-8", "replace")) for part in (before, written, after)]
        head = "\n".join(parts[0].split("\n")[-SHOWN_LINES // 2 :])
        body = "\n".join(parts[1].split("\n")[-SHOWN_LINES:])
        tail = "\n".join(parts[2].split("\n")[: SHOWN_LINES // 2])
        self.live.update(Text.assemble((head, "dim"), (body, "bold"), (tail, "dim")), refresh=True)
