"""failures.html: what an engineer hands to a colleague. One file, no server, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.fields.failure.drawing import INKS, panel, sheet
from sfumato.jobs.page import image, whole
from sfumato.training.run import Run, write_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from sfumato.fields.failure.cases import Failures
    from sfumato.fields.failure.facts import FailureFacts

NAME = "failures.html"
TRACES = 60
"""Faint lines of a mode at most."""


def write(run: Run, facts: FailureFacts, told: Mapping[str, Any], failures: Failures | None) -> None:
    """The page of a campaign, and its pictures as modes.png and rounds.png beside it."""
    title = f"How {facts.simulator} fails"
    parts = [f"<h1>{html.escape(title)}</h1>", *_probability(told), *_rounds(told)]
    pictures = {"rounds.png": _levels(told)}
    if failures is not None:
        pictures["modes.png"] = modes_drawn(failures, facts)
        parts += _modes(told)
    for name, picture in pictures.items():
        if picture is None:
            continue
        picture.save(run.path / name)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        said = {
            "modes.png": "failures of each mode, faint; the likeliest one bold",
            "rounds.png": "level of robustness by round",
        }
        parts.append(image(name, base64.b64encode(buffer.getvalue()).decode("ascii"), said[name]))
    parts.append(
        "<h2>To run one again</h2><pre>sfumato failure replay RUN ID     # ids are those of failures.csv</pre>"
    )
    write_text(run.path / NAME, whole(title, parts))


def _probability(told: Mapping[str, Any]) -> Iterator[str]:
    found = told["probability"]
    yield f"<h2>Probability</h2><p><b>{html.escape(told['note'])}</b></p>"
    rows = []
    for name, words in (("islands", "A, islands through the levels"), ("weighing", "B, weighed draws of the model")):
        each = found.get(name)
        if each is None:
            continue
        about = each["about"]
        more = (
            f"effective {about['effective']:.0f} of {about['calls']}, heaviest weight "
            f"{about['heaviest']:.1%}, share failing "
            f"{about['failing']:.2f}"
            if name == "weighing"
            else "shares " + ", ".join(f"{s:.3f}" for s in about["shares"])
        )
        rows.append(
            f"<tr><td>{words}</td><td>{each['p']:.4g} &plusmn; "
            f"{each['error']:.2g}</td><td>{html.escape(more)}</td></tr>"
        )
    if rows:
        yield f"<table><tr><th>estimator</th><th>p</th><th></th></tr>{''.join(rows)}</table>"


def _rounds(told: Mapping[str, Any]) -> Iterator[str]:
    by = ", ".join(f"{name} {count:,}" for name, count in told["by"].items())
    without = f"{told['errors']} without an answer"
    yield f"<h2>Calls</h2><p>{told['calls']:,} calls of the simulator ({html.escape(by)}), {without}.</p>"
    cells = []
    for each in told["rounds"]:
        network = each["network"]
        cells.append(
            ""
            f"<tr><td>{each['number']}</td><td>{each['level']:.4g}</td><td>{each['share']:.3f}</td><td>{each['next']:,}</td>"
            ""
            f"<td>{each['pcn']:.0%}</td><td>{'' if math.isnan(network) else f'{network:.0%}'}</td><td>{each['nll']:.2f}</td></tr>"
        )
    if cells:
        yield ("<table><tr><th>round</th><th>level</th><th>passed</th><th>calls</th><th>pCN taken</th><th>network taken</th>"
               f"<th>nll</th></tr>{''.join(cells)}</table>")  # fmt: skip


def _modes(told: Mapping[str, Any]) -> Iterator[str]:
    samples = told["samples"]
    yield (f"<h2>Failures</h2><p>{samples['count']:,} in failures.csv, the likeliest first; {samples['failing']:.1%} fail; "
           f"mean nll {samples['nll']:.2f}</p>")  # fmt: skip
    rows = "".join(
        ""
        f"<tr><td>{i + 1}</td><td>{m['share']:.1%}</td><td>{m['p']:.3g}</td><td>{m['likeliest']}</td><td>{m['typical']}</td></tr>"
        for i, m in enumerate(told["modes"])
    )
    yield ("<table><tr><th>mode</th><th>share</th><th>its part of p</th><th>likeliest, id</th><th>typical, id</th></tr>"
           f"{rows}</table>")  # fmt: skip


def _levels(told: Mapping[str, Any]) -> Image | None:
    if not told["rounds"]:
        return None
    levels = np.array([each["level"] for each in told["rounds"]])
    nll = np.array([each["nll"] for each in told["rounds"]])
    return sheet(
        [panel("level of robustness", [], [levels]), panel("mean |x|^2 / 2 of the population", [], [nll], INKS[1])]
    )


def modes_drawn(failures: Failures, facts: FailureFacts) -> Image:
    """A panel for each mode and state (of three states at most): its failures over the steps, the likeliest bold."""
    cases = failures.trajectory
    if cases is None:
        cases = failures.x.reshape(len(failures.x), *facts.shape)
        cases = cases[:, :, None] if cases.ndim == 2 else cases
    panels = []
    for i, mode in enumerate(failures.modes.modes):
        rows = np.flatnonzero(failures.modes.of == i)[:TRACES]
        for state in range(min(3, cases.shape[2])):
            what = f"mode {i + 1}, {mode.share:.0%}" + (f", state {state}" if cases.shape[2] > 1 else "")
            panels.append(
                panel(what, list(cases[rows, :, state]), [cases[mode.likeliest, :, state]], INKS[i % len(INKS)])
            )
    return sheet(panels, min(3, cases.shape[2]) if cases.shape[2] > 1 else 2)
