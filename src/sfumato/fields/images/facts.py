"""What a run knows of its pictures or arrays: their shape and classes, and the one decision about their units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfumato.errors import decoding
from sfumato.jobs.facts import load_facts
from sfumato.jobs.latents import Latent
from sfumato.training.run import Run, RunError

if TYPE_CHECKING:
    import numpy as np

    from sfumato.data import Statistics
    from sfumato.data.source import Source

MOST_NUMBERS = 2**31
"""In one item."""
SHOWN = 12
"""Channels listed by `sfumato inspect`, at most."""


@dataclass(frozen=True)
class PictureFacts:
    """What is known of the pictures (or arrays) of a run.

    mean, spread: of all numbers, raw (bytes: value / 127.5 - 1). count: items learned from; ``held`` are held out. shape: of
    an item as networks take it. classes: their names. bytes: whether the numbers are. vector_*: names, means and spreads of
    the numbers that stand beside each item.

    Units, layout and content, unknown ("" and empty) in runs of earlier revisions:

    dtype, layout: of the items in the file. means, spreads: of each channel, raw; least, most: likewise, in numbers of the
    file. each: whether a channel is standardised by its own mean and spread. black, white: the numbers of the file that are
    drawn so, one for all or one a channel; empty where nothing is drawn. source: of an array
    (`sfumato.data.source.Source`); pictures of a folder are copied into the run. said: what else there is to say. latent: the
    space of an autoencoder in which they are learned (`sfumato.jobs.latents.Latent`), where they are.
    """

    mean: float
    spread: float
    count: int
    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    bytes: bool = False
    held: int = 0
    vector_names: tuple[str, ...] = ()
    vector_mean: tuple[float, ...] = ()
    vector_spread: tuple[float, ...] = ()
    dtype: str = ""
    layout: str = ""
    means: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()
    least: tuple[float, ...] = ()
    most: tuple[float, ...] = ()
    each: bool = False
    black: tuple[float, ...] = ()
    white: tuple[float, ...] = ()
    source: dict[str, str] | None = None
    said: tuple[str, ...] = ()
    latent: dict[str, Any] | None = None

    @classmethod
    def read(cls, run: Run) -> PictureFacts:
        """From data.json. Raises RunError."""
        import numpy as np

        found = load_facts(cls, run)
        with decoding(run.path / "data.json", "train again", RunError):
            if not found.shape or min(found.shape) < 1 or math.prod(found.shape) > MOST_NUMBERS:
                raise ValueError(f"shape {found.shape} of an item")
            # these are made of what was read, and say what of it cannot be
            _ = found.statistics, found.kind, found.origin, found.space, found.shades(np.zeros((1, 1, 1, 1)))
        return found

    # ---- units -------------------------------------------------------------------------------------------------------

    @property
    def statistics(self) -> Statistics:
        """What undoes the standardisation."""
        from sfumato.data import Statistics

        mean, spread = (self.means, self.spreads) if self.each else (self.mean, self.spread)
        return Statistics(mean, spread, self.count, self.shape)

    @property
    def space(self) -> Latent | None:
        """The space of an autoencoder in which they are learned. Raises DataError where it is damaged."""
        return Latent.read(self.latent)

    @property
    def learned(self) -> tuple[int, ...]:
        """The shape of an item as networks take it: that of its code where codes are learned."""
        space = self.space
        return self.shape if space is None else space.size(*self.shape[1:])

    @property
    def kind(self) -> np.dtype:
        """The type of the numbers of the file; of earlier runs bytes, or what they were given back as."""
        import numpy as np

        return np.dtype(self.dtype or ("u1" if self.bytes else "<f4"))

    @property
    def order(self) -> str:
        """The layout of an item as it is given back; bytes of earlier runs as pictures are."""
        return self.layout or ("HWC" if self.bytes and self.pictures else "")

    @property
    def ends(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The numbers drawn black and white; of earlier runs -1 and 1, or those of bytes."""
        if self.black or self.dtype:
            return self.black, self.white
        return ((0.0,), (255.0,)) if self.bytes else ((-1.0,), (1.0,))

    @property
    def pictures(self) -> bool:
        """Whether the items can be looked at."""
        from sfumato.data.sheet import is_picture

        return bool(self.black) if self.dtype else is_picture(self.shape)

    @property
    def exact(self) -> bool:
        """Whether a picture file holds all there is: of grey and colour bytes from 0 to 255. Where alpha is 0, colours are
        lost in many programs."""
        return self.pictures and self.bytes and self.shape[0] != 4 and self.ends == ((0.0,), (255.0,))

    def items(self, x: np.ndarray) -> list[np.ndarray]:
        """Standard numbers (N, *shape) as items in the units, type and layout of the data."""
        import numpy as np

        from sfumato.data.layout import original
        from sfumato.data.units import numbers_of

        return list(original(numbers_of(self.statistics.restore(x, np.float64), self.kind), self.order))

    def seen(self, items: list[np.ndarray]) -> list[np.ndarray]:
        """Items as the data has them -> picture bytes (H, W), (H, W, 3) or (H, W, 4)."""
        import numpy as np

        from sfumato.data.layout import canonical
        from sfumato.data.units import to_pixels

        return list(to_pixels(canonical(np.stack(items), self.order), *self.ends)) if len(items) else []

    def shades(self, raw: np.ndarray) -> np.ndarray:
        """Raw numbers (N, C, H, W), or one that stands for all, as -1 (black) to 1 (white), float64."""
        import numpy as np

        from sfumato.data.units import raw_of

        if not self.pictures:
            return np.asarray(raw, np.float64)
        black, white = (raw_of(np.reshape(end, (-1, 1, 1)), self.kind) for end in self.ends)
        return np.asarray((np.asarray(raw, np.float64) - black) / (white - black) * 2 - 1)

    def unlike(self) -> float:
        """How many times wider the widest channel is than the narrowest that changes."""
        changing = [spread for spread in self.spreads if spread > 0]
        return max(changing) / min(changing) if changing else 1.0

    # ---- words -------------------------------------------------------------------------------------------------------

    @property
    def origin(self) -> Source | None:
        """What the run learned from. Raises DataError where it is damaged."""
        from sfumato.data.source import Source

        return Source.read(self.source or {})

    @property
    def array(self) -> bool:
        """Whether the data are an array of which everything is known."""
        return self.source is not None

    def words(self) -> list[str]:
        """The data in a line, the names of its classes, and every decision about an array's units and layout."""
        shape = self.shape
        what = f"{shape[1]}x{shape[2]} pictures" if len(shape) == 3 else f"items of shape {shape}"
        if self.dtype and len(shape) == 3 and not self.pictures:
            what = f"{shape[1]}x{shape[2]} items of {shape[0]} channels"
        named = f", {len(self.classes)} classes" if self.classes else ""
        if self.vector_names:
            some, count = ", ".join(self.vector_names[:4]), len(self.vector_names)
            named += f", {count} number{'s' * (count > 1)} beside each ({some}{', ...' * (count > 4)})"
        held = f", {self.held} held out" if self.held else ""
        names = ", ".join(self.classes[:20]) + (f" and {len(self.classes) - 20} more" if len(self.classes) > 20 else "")
        lines = [f"{self.count} {what} to learn from{named}{held}", *([f"classes: {names}"] if names else [])]
        space = self.space
        coded = [] if space is None else [space.words()]
        return [*lines, *(self._units() if self.array else ()), *self._scales(), *coded, *self.said]

    def _units(self) -> Iterator[str]:
        """The decisions about an array."""
        from sfumato.data.layout import hint, words

        origin = self.origin
        if origin is not None:
            yield f"from {origin.words()}"
        yield f"layout {self.layout or 'unknown'}: {words(self.layout)}{hint(self.layout)}; samples come in the same"
        drawn = ""
        if self.pictures:
            drawn = f"; {_some(self.black)} drawn black, {_some(self.white)} white"
        yield f"units {self.kind.name}, as in the file, from {min(self.least):g} to {max(self.most):g}{drawn}"

    def _scales(self) -> Iterator[str]:
        """How channels are standardised, where there are several; of a folder only if it was asked for."""
        if len(self.spreads) > 1 and (self.array or self.each):
            scales = f"spreads {min(self.spreads) * self._unit:.3g} to {max(self.spreads) * self._unit:.3g}"
            how = "each standardised by itself" if self.each else "all standardised alike"
            yield f"{len(self.spreads)} {self._channels}, {how} ({scales})"
        if self.each and (still := sum(spread == 0 for spread in self.spreads)):
            yield f"{still} of the {self._channels} never change: samples have the same number there"

    @property
    def _channels(self) -> str:
        return "channels" if len(self.shape) > 2 else "columns"

    @property
    def _unit(self) -> float:
        """Numbers of the file for a raw one, of spreads."""
        return 127.5 if self.bytes else 1.0

    def values(self) -> list[str]:
        """The numbers in the data in a line; of an array in those of the file, and of several channels the range of each."""
        if not self.array:
            return [f"values    mean {self.mean:.3f}, spread {self.spread:.3f} (black -1, white 1)"]
        from sfumato.data.units import UNLIKE

        zero, unit = self._unit if self.bytes else 0.0, self._unit
        lines = [f"values    mean {self.mean * unit + zero:.4g}, spread {self.spread * unit:.4g}"]
        channels = zip(self.least, self.most, self.means, self.spreads) if len(self.means) > 1 else ()
        for i, (low, high, mean, spread) in enumerate(channels):
            if i == SHOWN:
                lines.append(f"          and {len(self.least) - SHOWN} more {self._channels}")
                break
            numbers = f"mean {mean * unit + zero:.4g}, spread {spread * unit:.4g}"
            lines.append(f"          {self._channels[:-1]} {i}: {low:g} to {high:g}, {numbers}")
        if (ratio := self.unlike()) > UNLIKE:
            done = "each is standardised by itself" if self.each else "the narrow ones are lost in noise: --scale each"
            lines.append(f"unlike    {self._channels} differ in spread by a factor of {ratio:.3g}; {done}")
        return lines


def _some(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
