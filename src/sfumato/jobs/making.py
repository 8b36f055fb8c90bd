"""The making of a thing: from what, with which noise and how it was drawn, kept inside its file, so that it can be made again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import DataError
from sfumato.jobs.strict import to_plain

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

    from sfumato.diffusion.generate import Queries

KEY = "sfumato"
"""The name under which it stands in a file's own metadata."""


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
    """The making in a PNG file, or in NAME.json beside any other. Raises DataError where there is none."""
    try:
        if path.suffix.lower() == ".png":
            from PIL import Image

            with Image.open(path) as picture:
                text = str(picture.info.get(KEY, ""))
        else:
            text = path.with_name(path.name + ".json").read_text(encoding="utf-8")
        stored = json.loads(text)
        stored = stored.get("making", stored)
        names = {f.name for f in dataclasses.fields(Making)}
        return Making(**{name: value for name, value in stored.items() if name in names})
    except (OSError, ValueError, TypeError, AttributeError, SyntaxError) as error:
        raise DataError(f"{path}: says nothing of how it was made ({type(error).__name__}); give a file that "
                        "`sfumato sample` wrote") from error  # fmt: skip
