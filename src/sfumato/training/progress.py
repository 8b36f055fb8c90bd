"""How a run is watched: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from sfumato.training.telling import QUIET, fold, tell


def clock(seconds: float) -> str:
    """Seconds as people read them: 45 s, 4:05, 1:02:03."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def memory(device: torch.device | str = "cpu") -> float:
    """Peak memory of this process in GB: the GPU's where the work is there, else the process's."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


LEAST, WIDEST = 6, 40
"""Characters of the bar itself; what there is to say comes before it."""
INKS = ("magenta", "dim")
"""Of what is done and of the rest: of the terminal's own palette, to be seen on light and on dark."""


def line(name: str, done: int, total: int, notes: Sequence[str], width: int) -> tuple[str, int, str]:
    """A bar of at most ``width`` characters: the text before it, how long it is (0: no room), and the text after it.

    ``notes`` go from the most important to the least; those that do not fit are left out.
    """
    before, counts = name, f" {done}/{total}"
    room = width - len(before) - 1 - LEAST - len(counts)
    said = ""
    for note in notes:
        if note and len(said) + 2 + len(note) <= room:
            said += f"  {note}"
    free = width - len(before) - 1 - len(counts) - len(said)
    if free >= LEAST:
        return before, min(WIDEST, free), counts + said
    whole = f"{before}{counts}"
    return whole[: max(width, 0)], 0, ""


class _Line(ProgressColumn):
    """All of a bar in one column, so that it never is wider than the terminal."""

    def __init__(self, console: Console):
        super().__init__()
        self.console = console

    def render(self, task: Task) -> Text:
        # a terminal whose last column is filled may begin a new line
        total = int(task.total or 0)
        before, bar, after = line(
            task.description, int(task.completed), total, task.fields["notes"], self.console.width - 1
        )
        filled = round(bar * min(1.0, task.completed / max(total, 1)))
        text = Text(before, no_wrap=True, overflow="crop")
        if bar:
            done, rest = ("#", ".") if self.console.options.ascii_only else ("━", "╌")
            inks = ("", "") if self.console.no_color else INKS
            text.append(" ").append(done * filled, inks[0]).append(rest * (bar - filled), inks[1]).append(after)
        return text


class Watch:
    """Progress of ``total`` units of work from ``start``; call :meth:`show` after each, use as a context manager.

    A terminal gets a live bar; a file or pipe gets a line when a tenth is done and every ``quiet`` seconds.
    """

    def __init__(
        self,
        name: str,
        total: int,
        start: int = 0,
        unit: str = "",
        per_step: int = 1,
        silent: bool = False,
        quiet: float = 10.0,
    ):
        self.name, self.total, self.unit, self.per_step, self.silent, self.quiet = (
            name,
            total,
            unit,
            per_step,
            silent,
            quiet,
        )
        self.console = Console(file=QUIET)
        self.start, self.began, self.printed = start, time.monotonic(), time.monotonic()
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal and not silent
        self.bar = Progress(_Line(self.console), console=self.console, disable=not self.live)
        self.task = self.bar.add_task(name, total=total, completed=start, notes=())

    def __enter__(self) -> Watch:
        if self.live:  # rich 14.0 ends a bar that was never shown with an empty line
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.bar.stop()

    def show(self, done: int, note: str = "") -> None:
        """``done`` of the total are done."""
        if self.silent:
            return
        now = time.monotonic()
        steps = done - self.start
        rate = steps / max(now - self.began, 1e-9)
        left = clock((self.total - done) / rate) if steps > 0 else "?"
        speed = f"{rate * self.per_step:.3g} {self.unit}/s" if self.unit else ""
        text = "  ".join(part for part in (note, speed, f"left {left}") if part)
        if self.live:
            self.bar.update(self.task, completed=done, notes=(f"left {left}", *note.split("  "), speed))
        elif now - self.printed >= self.quiet or done == self.total:
            self.printed = now
            tell(f"{self.name} {done}/{self.total}  {text}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.silent:
            return
        if self.live:
            whole = fold(text, self.console.width)
            self.bar.console.print(whole, highlight=False, markup=False, soft_wrap=True)
        else:
            tell(text)
