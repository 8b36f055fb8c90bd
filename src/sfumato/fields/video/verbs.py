"""The verbs of clips alone: `sfumato video demo` and `sfumato video digits`. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import check
from sfumato.jobs.flags import Positional


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
