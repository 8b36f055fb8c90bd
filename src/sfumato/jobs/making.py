"""The making of a thing: from what, with which noise and how it was drawn, kept inside its file, so that it can be made again."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import DataError
from sfumato.jobs.strict import convert, to_plain

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

    from sfumato.diffusion.generate import Queries

KEY = "sfumato"
"""The name under which it stands in a file's own metadata."""
LIST = "samples.json"
"""What was written into a folder and how it was made; beside a single file NAME it is NAME.json."""
LONGEST = 2**25
"""Characters of a list that are read at most: that of 300,000 files."""
MOST = 10**9
"""Numbers of samples are below this."""


@dataclass(frozen=True)
class Making:
    """What made one sample (or, of ``number`` None, a set of them).

    run: the run's folder. weights: the first 16 digits of the SHA-256 of its weights. seed, number; name, the query that it
    is drawn for; ask, walk, drawing: all that was asked, resolved. suffix: the format of its file, "" the field's own.
    """

    run: str
    weights: str
    seed: int
    ask: dict[str, Any] = field(default_factory=dict)
    walk: dict[str, Any] = field(default_factory=dict)
    drawing: dict[str, Any] = field(default_factory=dict)
    number: int | None = None
    name: str = ""
    suffix: str = ""

    def of(self, queries: Queries, number: int) -> Making:
        """That of one sample of the set."""
        return dataclasses.replace(self, number=number, name=queries.name(number)[0])

    def text(self) -> str:
        """As a line of JSON."""
        return json.dumps(to_plain(self), ensure_ascii=False)

    def png(self) -> PngInfo:
        """As metadata for ``Image.save(path, pnginfo=...)``."""
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt(KEY, self.text())
        return info


def made(path: Path) -> Making:
    """The making in a PNG file, or in NAME.json beside any other, or in the list of the set that it is of.

    Raises DataError where there is none, or one that cannot be: nothing in such a file is trusted.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; give one that `sfumato sample` wrote")
    try:
        stored, hints = _stored(path), typing.get_type_hints(Making)
        making = Making(**{name: convert(hints[name], value) for name, value in stored.items() if name in hints})
        if making.number is not None and not 0 <= making.number < MOST:
            raise ValueError(f"number {making.number}")
    except (OSError, ValueError, TypeError, AttributeError, SyntaxError, KeyError, RecursionError) as error:
        raise DataError(f"{path}: says nothing of how it was made ({type(error).__name__}); give a file that "
                        "`sfumato sample` wrote") from error  # fmt: skip
    return making


def _stored(path: Path) -> dict[str, Any]:
    """What a file says of its making, not looked at yet."""
    if path.suffix.lower() == ".png":
        import warnings

        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path, formats=["PNG"]) as picture:  # pixels are not decoded
                    return dict(json.loads(str(picture.info.get(KEY, ""))[:LONGEST]))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError("a picture too large") from error
    beside = path.with_name(path.name + ".json")
    if beside.is_file():
        stored = _read(beside)
        return dict(stored.get("making", stored))
    listed = _read(path.with_name(LIST))
    if path.name not in listed["files"] or not path.stem.isdecimal():
        raise ValueError("not of the set")
    return {**listed["making"], "number": int(path.stem)}


def _read(file: Path) -> dict[str, Any]:
    with file.open(encoding="utf-8") as opened:
        text = opened.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise ValueError("a list too long")
    return dict(json.loads(text))
