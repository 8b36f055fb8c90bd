"""docs/architecture.md tells the truth: every stop of a datum's walk is where it says, and no stop goes upstairs.

`python -m tests.test_architecture` writes the lines anew.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
MARK = "<!-- walk -->\n"
FLOORS = ("cli.py", "fields", "jobs", "training", "adapting", "metrics", "networks", "data", "diffusion", "errors.py")

INTO = (
    ("fields/images/data.py", "prepared", "a folder or an array is read once, split, measured: standard units"),
    ("data/pictures.py", "gather", "each file is decoded, cropped, resized into one array"),
    ("fields/images/data.py", "opened", "the prepared data again, from the run alone"),
    ("training/loader.py", "batches", "rows of a step: a function of (seed, step)"),
    ("training/objective.py", "noised", "times, what is hidden, noise: from the rows' own streams"),
    ("diffusion/times.py", "Times.draw", "when: a time a sample, a frame or a part"),
    ("diffusion/process.py", "Gaussian.interpolate", "x and z joined at t"),
    ("training/objective.py", "Objective.forward", "given is made of the conditions; the criterion is asked"),
    ("diffusion/loss.py", "loss", "the whole objective: interpolate, answer, compare"),
    ("diffusion/denoiser.py", "Denoiser.answer", "the network is shown x_t and the level"),
    ("diffusion/weights.py", "mean_counted", "what counts, and how much: one loss a row"),
    ("training/loop.py", "train", "backward, clip, step, average; files and people"),
)
OUT = (
    ("jobs/sample.py", "sample", "the verb: queries in, files out"),
    ("fields/images/recipe.py", "Images.queries", "what is asked for becomes blanks with conditions"),
    ("jobs/model.py", "Model.draw", "walk, solver and grid are made of the options"),
    ("diffusion/generate.py", "generate", "noise from each row's stream, in full batches"),
    ("diffusion/sample.py", "walk", "from noise to data; what stands still is not touched"),
    ("diffusion/guidance.py", "guide", "both sides of guidance, hidden as in training"),
    ("diffusion/denoiser.py", "Denoiser.__call__", "both endpoints are guessed"),
    ("diffusion/process.py", "Gaussian.step", "and interpolated again at a smaller t"),
    ("fields/images/recipe.py", "Images.things", "standard units become pictures, in the units of the data"),
    ("fields/images/recipe.py", "Images.save", "a file, with its making inside"),
)


def line_of(file: str, name: str) -> int:
    """The line where a function, or Class.method, is defined in a file of the package."""
    lines = (ROOT / "src" / "sfumato" / file).read_text(encoding="utf-8").splitlines()
    at = 0
    for part in name.split("."):
        found = [i for i, line in enumerate(lines[at:], at + 1) if re.match(rf"\s*(def|class) {part}\b", line)]
        assert found, f"{file} has no {name}"
        at = found[0]
    return at


def table(stops: tuple[tuple[str, str, str], ...]) -> str:
    rows = [f"| `{file}:{line_of(file, name)}` | `{name}` | {what} |" for file, name, what in stops]
    return "\n".join(["| stop | function | what happens |", "|---|---|---|", *rows])


def told() -> str:
    """The two tables, into the run and out of it."""
    return f"{MARK}\nFrom a file to the loss:\n\n{table(INTO)}\n\nFrom a query to a file:\n\n{table(OUT)}\n\n"


def test_every_stop_is_where_the_page_says():
    assert told() in PAGE.read_text(encoding="utf-8"), "python -m tests.test_architecture writes the lines anew"


def test_the_page_names_every_room_and_field():
    text = PAGE.read_text(encoding="utf-8")
    rooms = {path.name for path in (ROOT / "src" / "sfumato").iterdir() if path.is_dir()} - {"__pycache__", "recipes"}
    fields = {path.parent.name for path in (ROOT / "src" / "sfumato" / "fields").glob("*/recipe.py")}
    assert all(f"`{room}/`" in text for room in rooms | fields)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(MARK)
    PAGE.write_text(head + told() + rest[rest.index("## What a field gives") :], encoding="utf-8")
