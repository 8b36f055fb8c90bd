"""What a policy does, to look at: a video of episodes side by side, and the futures it sees from one state."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfumato.data.errors import DataError, shown
from sfumato.data.video import VideoWriter
from sfumato.fields.policy.simulators.crew import Job, Make, crew
from sfumato.fields.policy.simulators.rollout import ActorOf, Episode, chunk_of

if TYPE_CHECKING:
    from PIL.Image import Image

RUNNING, WON, LOST = (160, 174, 192), (56, 161, 105), (221, 107, 32)
BORDER = 4
# A state of Push-T in the recordings near which 14 people went two ways within 24 steps: 7 up around the T's bar, 7 down
# around its stem (near: the 14 nearest states, each of another episode, all within 25 pixels)
AMBIGUOUS = (185.0, 258.0, 240.0, 237.0, 0.68)


def film(
    makes: Mapping[str, Make],
    episodes: Sequence[Episode],
    path: Path,
    *,
    every: int = 1,
    show: Callable[[int, int], None] | None = None,
) -> None:
    """Repeats episodes by their actions and writes them side by side as an mp4 file, at the environments' own speed.

    The border is grey while an episode goes on, green after its success, orange where it ended without. One step in
    `every` is drawn. The file appears only when it is whole.
    Raises DataError when an environment can't draw, when it pays other rewards than before (it is then no function of
    its seed and can't be filmed afterwards), and when the file can't be written; ValueError for no episodes.
    """
    if not episodes or every < 1:
        raise ValueError(f"{len(episodes)} episodes, one step in {every}: expected one or more each")
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.mp4")
    worlds = [makes[episode.world]() for episode in episodes]
    columns = max(1, round(len(episodes) ** 0.5))
    longest, writer = max(episode.length for episode in episodes), None
    try:
        for world, episode in zip(worlds, episodes, strict=True):
            world.reset(episode.seed)
        tiles = [np.zeros((0, 0, 3), dtype=np.uint8)] * len(worlds)
        for k in range(longest + 1):
            for world, episode in zip(worlds, episodes, strict=True):
                if 0 < k <= episode.length:
                    _repeat(world.step(episode.actions[k - 1]).reward, episode, k - 1)
            if k % every and k != longest:
                continue
            for i, (world, episode) in enumerate(zip(worlds, episodes, strict=True)):
                if k < episode.length + every:  # the last picture of an ended episode stays
                    tiles[i] = _framed(world.render(), _colour(episode, k))
            sheet = _sheet(tiles, columns)
            if writer is None:
                writer = VideoWriter(partial, (worlds[0].fps or 30.0) / every, (sheet.shape[0], sheet.shape[1]))
            writer.add(sheet)
            if show is not None:
                show(k, longest)
        assert writer is not None
        writer.close()
        writer = None
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be written: {(error.strerror or str(error)).lower()}") from error
    finally:
        if writer is not None:
            writer.close()
        with suppress(OSError):
            partial.unlink()
        for world in worlds:
            world.close()


def _repeat(reward: float, episode: Episode, step: int) -> None:
    if reward != episode.rewards[step]:
        raise DataError(
            f"{episode.world}, seed {episode.seed}, step {step}: paid {episode.rewards[step]:g} and, done again, "
            f"{reward:g}; an environment that does not repeat can't be filmed"
        )


def _colour(episode: Episode, step: int) -> tuple[int, int, int]:
    if step < episode.length:
        return RUNNING
    return WON if episode.success else LOST if episode.success is not None else RUNNING


def _framed(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    height, width = picture.shape[:2]
    out = np.empty((height + 2 * BORDER, width + 2 * BORDER, 3), dtype=np.uint8)
    out[:] = colour
    out[BORDER : BORDER + height, BORDER : BORDER + width] = picture
    return out


def _sheet(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures in rows, on white where they are smaller than the largest."""
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    out = np.full((-(-len(tiles) // columns) * height, columns * width, 3), 255, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * height, i % columns * width
        out[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return out


def futures(
    make: Make,
    actor_of: ActorOf,
    count: int,
    *,
    state: Sequence[float] | None = None,
    seed: int = 0,
    chunks: int = 1,
    world: str = "environment",
) -> np.ndarray:
    """What a policy would do from one state: `count` samples of its next `chunks` chunks of actions, (count, steps, A).

    All begin in `state`, or where `seed` begins; later chunks are answers to where the earlier ones led. The policy's
    own randomness is of the seeds seed, seed + 1, ...; steps after the end of an episode are NaN.
    Raises DataError as `rollout` does, ValueError for no samples.
    """
    if count < 1 or chunks < 1:
        raise ValueError(f"{count} samples of {chunks} chunks: expected one or more each")
    place = None if state is None else tuple(map(float, state))
    team, out = crew({world: make}), []
    try:
        seen = team.begin([Job(world, seed, place)] * count)
        jobs = [Job(world, seed + i, place) for i in range(count)]
        actor, done = actor_of(jobs), np.zeros(count, dtype=bool)
        for chunk in range(chunks):
            actions = chunk_of(actor, seen, jobs)
            out.append(np.where(done[:, None, None], np.nan, actions))
            if chunk == chunks - 1:
                break
            played = team.act(actions)
            out[-1][np.isnan(played.rewards)] = np.nan
            for k in range(actions.shape[1] - 1):
                actor.observe({name: x[:, k] for name, x in played.observations.items()})
            seen, done = {name: x[:, -1] for name, x in played.observations.items()}, played.done
            if done.all():
                out += [np.full_like(actions, np.nan)] * (chunks - 1 - chunk)
                break
    finally:
        team.close()
    return np.concatenate(out, axis=1)


def fan(
    make: Make, paths: Mapping[str, np.ndarray], *, state: Sequence[float] | None = None, seed: int = 0, side: int = 512
) -> Image:
    """The actions of `futures` (count, steps, A), a panel for each name, drawn over what is seen in the state.

    Each sample is a line from blue (now) to red (its last step). Raises DataError where actions are no places in the
    environment's picture, ValueError for nothing to draw.
    """
    from PIL import Image as pil
    from PIL import ImageDraw, ImageFont

    if not paths:
        raise ValueError("no futures to draw; give one array or more")
    world = make()
    try:
        world.reset(seed, state)
        picture = pil.fromarray(world.render()).convert("RGB")
        places = {name: world.place_of(actions) for name, actions in paths.items()}
    finally:
        world.close()
    scale = 2  # drawn twice as large and halved, for smooth lines
    big = side * scale
    behind = pil.blend(picture.resize((big, big), pil.Resampling.BICUBIC), pil.new("RGB", (big, big), "white"), 0.35)
    sheet = pil.new("RGB", (side * len(places), side + 28), "white")
    for column, (name, found) in enumerate(places.items()):
        panel = behind.copy()
        for line in found:
            over = pil.new("RGBA", (big, big), (0, 0, 0, 0))
            pen, points = ImageDraw.Draw(over), line[np.isfinite(line).all(axis=1)] * big
            for i in range(len(points) - 1):
                share = i / max(1, found.shape[1] - 2)
                colour = (round(40 + 190 * share), 60, round(220 - 180 * share), 170)
                pen.line([tuple(points[i]), tuple(points[i + 1])], fill=colour, width=2 * scale)
            if len(points):
                x, y = points[-1]
                pen.ellipse([x - 3 * scale, y - 3 * scale, x + 3 * scale, y + 3 * scale], fill=(230, 60, 40, 220))
            panel.paste(over, (0, 0), over)
        sheet.paste(panel.resize((side, side), pil.Resampling.BOX), (column * side, 28))
        text = f"{name}: {len(found)} samples of {found.shape[1]} steps"
        ImageDraw.Draw(sheet).text((column * side + 8, 6), text, fill="black", font=ImageFont.load_default(15))
    return sheet
