"""`sfumato captions autoencoder DATA`: an autoencoder of captioned pictures, in whose space they can be learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from sfumato.errors import typed
from sfumato.fields.captions.options import Kind
from sfumato.jobs.flags import Positional, arg
from sfumato.jobs.recipe import say
from sfumato.training.options import TrainOptions


@dataclass(frozen=True)
class Autoencode:
    """Train an autoencoder on the pictures of captioned data: `sfumato train autoencoder`, for any place that captions stand."""

    data: Positional[Path]
    """Folder (searched to any depth), .csv, .tsv, .jsonl or .parquet."""
    captions: Kind = "auto"
    """Where captions stand, as for `sfumato train captions`."""
    picture_column: str | None = None
    """Of a table: names the pictures, or holds them."""
    side: int | None = None
    """Pictures are cut to squares of this side, in pixels (default: 64, less where they are smaller)."""
    latent: int = 8
    """Channels of a code."""
    factor: int = 4
    """Pixels of a side that make one of a code: 2, 4, 8 or 16."""
    width: int | None = None
    """Channels of the first level of the network (default: 48 on a CPU, 128 on a GPU)."""
    training: Annotated[TrainOptions, arg(name="")] = field(default_factory=TrainOptions)
    out: Path | None = None
    """Run directory (default: runs/NAME OF THE DATA-autoencoder)."""

    def __call__(self) -> int:
        from sfumato.jobs import find, train

        out = self.out or Path("runs") / f"{self.data.resolve().stem}-autoencoder"
        known: Any = find.kind("autoencoder")
        options = known.__dataclass_fields__["network"].default_factory
        recipe = known(
            self.pictures(out), side=self.side,
            network=options(latent=self.latent, factor=self.factor, width=self.width),
        )  # fmt: skip
        run = train.train(recipe, self.training, out).path
        print(f"trained: {run}")
        say(f"measure   sfumato evaluate {typed(run)}")
        say(f"learn     sfumato train captions {typed(self.data)} --latent {typed(run)}")
        return 0

    def pictures(self, out: Path) -> Path:
        """A folder of the pictures: the data, or, of a table, the pictures that it names or holds, copied into the run."""
        import shutil
        import tempfile

        from sfumato.fields.captions.reading import Asked, listed

        if self.data.is_dir():
            return self.data
        folder = out / "pictures"
        with tempfile.TemporaryDirectory() as room:
            listing = listed(self.data, Asked(self.captions, self.picture_column, ()), Path(room))
            folder.mkdir(parents=True, exist_ok=True)
            for number, file in enumerate(listing.files):
                shutil.copyfile(file, folder / f"{number:07d}{file.suffix}")
        return folder
