"""The verbs of clips alone: `sfumato video demo`, `digits` and `stream`. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from sfumato.errors import check
from sfumato.fields.video.options import ClipAsk
from sfumato.jobs.flags import Positional, arg
from sfumato.jobs.walk import Drawing, Walk


@dataclass(frozen=True)
class Digits:
    """Make films of bouncing digits, with captions, to try things with."""

    out: Positional[Path]
    """Folder to make."""
    count: int = 512
    """Films."""
    frames: int = 24
    """Frames of each."""
    fps: float = 10.0
    """Frames a second."""
    seed: int = 0
    """Which digits, where from and where to."""

    def __post_init__(self) -> None:
        check(
            self,
            (1 <= self.count <= 100_000, "count", "from 1 to 100000"),
            (1 <= self.frames <= 10_000, "frames", "from 1 to 10000"),
            (0 < self.fps <= 1000, "fps", "above 0, at most 1000"),
        )

    def __call__(self) -> int:
        from sfumato.fields.video.demo import made

        print(made(self.out, self.count, self.frames, self.fps, self.seed))
        return 0


@dataclass(frozen=True)
class Demo:
    """From nothing to a measured model of clips: films of bouncing digits, training, samples, numbers."""

    out: Path = Path("video-demo")
    """Run directory; the films go beside it."""
    minutes: float = 5.0
    """Of training."""
    count: int = 512
    """Films."""
    seed: int = 0
    """Of the films and of the training."""

    def __post_init__(self) -> None:
        check(self, (self.minutes > 0, "minutes", "above 0"), (self.count >= 20, "count", "at least 20"))

    def __call__(self) -> int:
        from sfumato.fields.video.demo import demo

        print(demo(self.out, self.minutes, self.count, self.seed))
        return 0


@dataclass(frozen=True)
class Stream:
    """Make a film and show its frames as they come: numbered pictures that appear in a folder, clip by clip."""

    run: Positional[Path]
    """Run directory."""
    ask: Annotated[ClipAsk, arg(name="")] = field(default_factory=ClipAsk)
    out: Path = Path("stream")
    """Folder for the pictures."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __call__(self) -> int:
        from sfumato.fields.video.streaming import stream

        for line in stream(self.run, self.ask, self.walk, self.drawing, self.out):
            print(line, flush=True)
        return 0
