"""`sfumato policy record`: a policy plays in simulators, and what it saw and did becomes demonstrations to learn from."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

from sfumato.errors import Wrong, check
from sfumato.jobs.flags import Positional, arg

if TYPE_CHECKING:
    import numpy as np

    from sfumato.fields.policy.demonstrations.episodes import Demonstrations
    from sfumato.fields.policy.simulators.environments import Environment
    from sfumato.fields.policy.simulators.world import Act

TRIES = 3


@dataclass(frozen=True)
class RecordOptions:
    """Who plays, how often, and what is kept."""

    policy: str = "expert"
    """expert (Meta-World's scripted one), demonstrations whose actions are done again (Push-T), or MODULE:FUNCTION of your
    own: called with the environment at the start of every episode, it gives a function, observations to action."""
    episodes: int | None = None
    """Episodes of each environment (none: 50, or all of the demonstrations)."""
    seed: int = 0
    """The first episode is that of this seed, the next one that of the next."""
    keep: Literal["successes", "all"] = "successes"
    """Which episodes are kept, where the environment tells success; a failed one is tried again with another seed."""
    after: int = 10
    """Steps played on after the first success, so that a policy learns to stay."""
    limit: int | None = None
    """Steps of an episode at most (none: the environment's own)."""
    picture: int | None = None
    """Side in pixels of pictures that are recorded, as "img" (none: no pictures)."""
    camera: str = "corner2"
    """Camera of Meta-World's pictures."""
    quality: int = 18
    """Of the video in a LeRobot dataset: 0 best, 51 worst."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.episodes is None or self.episodes >= 1, "episodes", "1 or more"),
            (self.seed >= 0, "seed", "0 or more"),
            (self.after >= 0, "after", "0 or more"),
            (0 <= self.quality <= 51, "quality", "0 (best) to 51 (worst)"),
        )


@dataclass(frozen=True)
class Record:
    """Play in simulators and keep what was seen and done, as demonstrations to learn a policy from."""

    environments: Positional[tuple[str, ...]]
    """Environments: gym_pusht/PushT-v0, metaworld/TASK, or any id that gymnasium knows."""
    out: Path
    """Where to write: a .npz file, or a folder for a LeRobot dataset."""
    options: Annotated[RecordOptions, arg(name="")] = field(default_factory=RecordOptions)

    def __call__(self) -> int:
        print(record(self.environments, self.out, self.options))
        return 0


@dataclass(frozen=True)
class _Play:
    """One episode to try: its seed, the state it begins in (its own by default), who acts."""

    seed: int
    state: np.ndarray | None
    player: Callable[[Environment], Act]


def record(environments: Sequence[str], out: Path, options: RecordOptions = RecordOptions()) -> str:
    """Plays episodes in environments, one after the other, and writes them; returns what was done, in words.

    `out` is written as `.npz` if that is its ending, or else as a LeRobot dataset (v3.0); it appears only when it is
    complete. An interrupt ends the recording early: the episodes that are finished are written.
    With several environments the demonstrations have their names as tasks.
    Raises DataError when `out` exists already or can't be written, when an environment or the policy fails, and when
    fewer than one in three tries succeed; ValueError for no environment or one given twice.
    """
    from sfumato.data.errors import DataError, shown
    from sfumato.fields.policy.simulators.environments import make
    from sfumato.training.progress import Watch, clock

    if not environments or len(set(environments)) < len(environments):
        raise Wrong(f"environments = {', '.join(environments) or '(none)'}: give one or more, each once")
    if out.exists():
        raise DataError(f"{shown(out)}: exists already; give the name of a new file or folder with --out")
    begun, notes, interrupted = time.monotonic(), [], False
    with _spooled(out) as spool:
        tape = _Tape(spool)
        try:
            for number, id in enumerate(environments):
                environment = make(
                    id, limit=options.limit, picture=options.picture, side=options.picture or 256, camera=options.camera
                )
                try:
                    tape.paced(environment)
                    plays, wanted = _plays(environment, options)
                    with Watch(f"record {environment.task}", wanted, unit="episodes") as watch:
                        kept, tried = _record(environment, plays, wanted, number, options, tape, watch.show)
                finally:
                    environment.close()
                notes.append(f"{environment.task} {kept} of {tried} kept")
        except KeyboardInterrupt:
            interrupted = True
            if not tape.ends:
                raise
        demonstrations = tape.demonstrations([id.removeprefix("metaworld/") for id in environments], str(out))
        _write(demonstrations, out, options)
    seconds = time.monotonic() - begun
    text = (
        f"{'interrupted; ' if interrupted else ''}{demonstrations.episodes} episodes, {demonstrations.steps} steps in "
        f"{clock(seconds)} ({', '.join(notes)}): {out}"
    )
    if interrupted:
        print(text, file=sys.stderr)
        raise KeyboardInterrupt
    return text


def _plays(environment: Environment, options: RecordOptions) -> tuple[Iterator[_Play], int]:
    """The episodes to try, without end where the policy can go on, and how many are wanted."""
    if ":" not in options.policy and Path(options.policy).exists():
        return _recorded(Path(options.policy), environment, options)
    if options.policy == "expert":
        environment.expert()  # says at once that there is none
        player: Callable[[Environment], Act] = _expert
    else:
        player = _imported(options.policy)
    wanted = options.episodes or 50
    last = options.seed + TRIES * wanted
    return (_Play(seed, None, player) for seed in range(options.seed, last)), wanted


def _expert(environment: Environment) -> Act:
    return environment.expert()


def _imported(name: str) -> Callable[[Environment], Act]:
    """MODULE:FUNCTION, from the folder one stands in or from what is installed."""
    import importlib

    from sfumato.data.errors import DataError, one_line, shown

    module, sign, function = name.partition(":")
    if not sign or not module or not function:
        raise DataError(
            f"policy = {shown(name)}: no such demonstrations; expected expert, demonstrations that exist, or "
            "MODULE:FUNCTION"
        )
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # somebody's own module may raise anything
        raise DataError(f"policy = {shown(name)}: can't be imported ({one_line(error)})") from error
    finally:
        sys.path.remove(os.getcwd())

    def player(environment: Environment) -> Act:
        try:
            made: Act = found(environment)
        except Exception as error:
            raise DataError(f"policy = {shown(name)}: failed ({one_line(error)})") from error
        if not callable(made):
            raise DataError(f"policy = {shown(name)}: gives {type(made).__name__}; expected a function of observations")
        return made

    return player


def _recorded(path: Path, environment: Environment, options: RecordOptions) -> tuple[Iterator[_Play], int]:
    """The recorded episodes, each from the state it began in."""
    import numpy as np

    from sfumato.fields.policy.demonstrations.lerobot import open_demonstrations
    from sfumato.fields.policy.simulators.world import STATE

    known = open_demonstrations(path, names=(STATE,))
    wanted = min(options.episodes or known.episodes, known.episodes)
    states = known.observations[STATE]

    def again(number: int) -> _Play:
        span = known.episode(number)
        actions = iter(known.actions[span])
        state = np.asarray(states[span.start : span.start + 1])[0]
        return _Play(number, state, lambda _: lambda seen: next(actions, None))  # type: ignore[arg-type]

    return (again(number) for number in range(known.episodes)), wanted


def _record(
    environment: Environment,
    plays: Iterator[_Play],
    wanted: int,
    task: int,
    options: RecordOptions,
    tape: _Tape,
    show: Callable[[int, str], None],
) -> tuple[int, int]:
    """Plays until enough episodes are kept: how many were kept, and tried."""
    from sfumato.data.errors import DataError

    kept = tried = 0
    for play in plays:
        if kept == wanted:
            break
        tried += 1
        success = _play(environment, play, options, tape)
        if options.keep == "all" or success is not False:
            tape.keep(task)
            kept += 1
        else:
            tape.discard()
        show(kept, f"{tried - kept} failed" if tried > kept else "")
    if not kept or (kept < wanted and not Path(options.policy).exists()):
        raise DataError(
            f"{environment.id}: {kept} of {tried} episodes ended in success; expected {wanted}: keep all of them with "
            "--keep all, or choose another policy"
        )
    return kept, tried


def _play(environment: Environment, play: _Play, options: RecordOptions, tape: _Tape) -> bool | None:
    """One episode onto the tape; whether it was a success, where the environment tells."""
    import numpy as np

    from sfumato.data.errors import DataError, one_line

    seen = environment.reset(play.seed, play.state)
    player = play.player(environment)
    success: bool | None = None
    left, steps = options.after, 0
    while True:
        try:
            asked: Any = player(seen)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{environment.id}, seed {play.seed}, step {steps}: the policy failed ({one_line(error)})"
            ) from error
        if asked is None:  # a recording is at its end
            return success
        # Carried out as it is stored
        action = np.clip(np.asarray(asked, dtype=np.float64), environment.low, environment.high).astype(np.float32)
        step = environment.step(action)
        tape.add(seen, action)
        steps += 1
        if step.success is not None:
            success = bool(success or step.success)
        if step.done or (success and left == 0):
            return success
        left -= bool(success)
        seen = step.observations


@dataclass
class _Tape:
    """Steps as they come; pictures go to a file at once, as they would not fit in memory."""

    spool: IO[bytes]
    actions: list[np.ndarray] = field(default_factory=list)
    states: dict[str, list[np.ndarray]] = field(default_factory=dict)
    picture: tuple[int, ...] = ()
    name: str = ""
    ends: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    fps: float | None = None

    def add(self, seen: Mapping[str, np.ndarray], action: np.ndarray) -> None:
        import numpy as np

        from sfumato.data.errors import DataError
        from sfumato.fields.policy.demonstrations.episodes import is_picture

        self.actions.append(action)
        for name, value in seen.items():
            if is_picture(value[None]) and self.name in ("", name):
                if self.picture not in ((), value.shape):
                    raise DataError(f"pictures of {value.shape} after pictures of {self.picture}; expected one size")
                self.picture, self.name = value.shape, name
                self.spool.write(np.ascontiguousarray(value).tobytes())
            else:
                kind = np.float32 if value.dtype.kind == "f" else value.dtype
                self.states.setdefault(name, []).append(value.astype(kind))

    def keep(self, task: int) -> None:
        self.ends.append(len(self.actions))
        self.tasks.append(task)

    def discard(self) -> None:
        """Back to the end of the last episode that was kept."""
        kept = self.ends[-1] if self.ends else 0
        del self.actions[kept:]
        for values in self.states.values():
            del values[kept:]
        if self.picture:
            self.spool.seek(kept * self._bytes())
            self.spool.truncate()

    def _bytes(self) -> int:
        size = 1
        for side in self.picture:
            size *= side
        return size

    def paced(self, environment: Environment) -> None:
        from sfumato.data.errors import DataError

        if self.fps not in (None, environment.fps):
            raise DataError(
                f"{environment.id}: has {environment.fps} steps per second after {self.fps}; record it by itself"
            )
        self.fps = environment.fps

    def demonstrations(self, tasks: Sequence[str], source: str) -> Demonstrations:
        """The episodes that were kept."""
        import numpy as np

        from sfumato.data.errors import DataError
        from sfumato.fields.policy.demonstrations.episodes import Demonstrations

        self.discard()
        count = len(self.actions)
        for name, values in self.states.items():
            if len(values) != count or len({x.shape for x in (*values, *values[:1])}) > 1:
                raise DataError(f"the environments do not all observe {name} in one shape; record them one by one")
        if len({action.shape for action in self.actions}) > 1:
            raise DataError("the environments do not all have actions of one shape; record them one by one")
        observations: dict[str, Any] = {name: np.stack(values) for name, values in self.states.items()}
        if self.picture:
            self.spool.flush()
            observations[self.name] = np.memmap(self.spool.name, dtype=np.uint8, mode="r", shape=(count, *self.picture))
        ends = np.array(self.ends, dtype=np.int64)
        several = len(tasks) > 1
        return Demonstrations(
            actions=np.stack(self.actions),
            ends=ends,
            observations=observations,
            fps=self.fps,
            tasks=tuple(tasks) if several else (),
            task=np.repeat(self.tasks, np.diff(ends, prepend=0)) if several else None,
            source=source,
        )


@contextmanager
def _spooled(out: Path) -> Iterator[IO[bytes]]:
    """A file beside `out` that is gone afterwards. Raises DataError when one can't write there."""
    from sfumato.data.errors import DataError, shown

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        spool = tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", suffix=".partial", delete=False)  # noqa: SIM115
    except OSError as error:
        raise DataError(f"{shown(out)}: cannot be written: {(error.strerror or 'error').lower()}") from error
    try:
        yield spool
    except OSError as error:
        raise DataError(f"{shown(out)}: cannot be written: {(error.strerror or 'error').lower()}") from error
    finally:
        spool.close()
        with suppress(OSError):
            os.unlink(spool.name)


def _write(demonstrations: Demonstrations, out: Path, options: RecordOptions) -> None:
    from sfumato.fields.policy.demonstrations.lerobot_writer import save_lerobot
    from sfumato.fields.policy.demonstrations.replay import save_episodes
    from sfumato.training.progress import Watch

    if out.suffix == ".npz":
        save_episodes(demonstrations, out)
        return
    with Watch("write", demonstrations.episodes, unit="episodes") as watch:
        save_lerobot(demonstrations, out, quality=options.quality, progress=lambda done, total: watch.show(done))
