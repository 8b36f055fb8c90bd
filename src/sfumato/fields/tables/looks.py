"""A page on made rows beside real ones: scores, what gives the made ones away, every column, and how columns go together.

One file that needs no other. Bars are drawn as SVG, matrices of pairs as pictures of a pixel a pair.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sfumato.fields.tables.columns import States
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.detector import giveaways
from sfumato.fields.tables.frames import Frame, frames
from sfumato.fields.tables.likeness import associations, shapes
from sfumato.fields.tables.saying import as_text, remarks
from sfumato.fields.tables.scoring import Score
from sfumato.fields.tables.table import Column, Table
from sfumato.fields.tables.validity import Flaw, flaws
from sfumato.jobs.page import image, whole
from sfumato.training.run import write_text

ROWS = 5000  # looked at, of each table
COLUMNS, BARS, WORDS = 200, 24, 12  # columns drawn, steps of a histogram, words of a category at most
GIVEN = 12  # columns that give the rows away, named
WIDTH, HEIGHT = 260, 96
FULL = 0.3  # difference of two associations that is drawn in full colour
STYLE = """<style>.real{fill:var(--quiet);opacity:.45}.made{fill:none;stroke:var(--line);stroke-width:2}
.bar{fill:var(--line)}table{border-collapse:collapse;font-size:.85rem}td,th{padding:.15rem .8rem .15rem 0;text-align:left}
.pairs img{width:300px;max-width:100%}</style>"""


def write_compared(
    path: Path, title: str, scores: Sequence[Score], made: Table, real: Table, facts: Facts, who: str
) -> None:
    """The page of made rows beside the real rows that they are to be like.

    Args:
        scores: as :func:`scoring.scores` found them. who: the rows they were measured against, in words.

    Raises OSError where it cannot be written.
    """
    rng = np.random.default_rng(0)
    some = [table.take(np.sort(rng.permutation(len(table))[:ROWS])) for table in (real, made)]
    a, b = frames(some, facts)
    found, share = flaws(real, made, facts)
    lost = giveaways(a.cells, b.cells, a.words)
    said = "".join(f"<p>{html.escape(line)}</p>" for line in remarks(scores))
    parts = [
        STYLE,
        f"<h1>{html.escape(title)}</h1>",
        f"<h2>Measured</h2><pre>{html.escape(as_text(scores, len(real), who))}</pre>{said}",
        _given_away(lost, [states.kind.name for states in facts.measured]),
        _flawed(found, share),
        _columns(a, b, some, facts, np.argsort(-lost, kind="stable")),
        _pairs(a, b, [states.kind.name for states in facts.measured]),
    ]
    write_text(path, whole(title, parts))


def _given_away(lost: np.ndarray, names: Sequence[str]) -> str:
    """The columns that help the detector, the most helpful first."""
    order = [i for i in np.argsort(-lost, kind="stable")[:GIVEN] if lost[i] > 0]
    if not order:
        return "<h2>What gives the made rows away</h2><p>No single column does.</p>"
    bars, most = [], float(lost[order[0]])
    for row, i in enumerate(order):
        y = 20 * row
        bars.append(f'<text x="0" y="{y + 14}">{html.escape(names[i][:32])}</text>')
        bars.append(f'<rect class="bar" x="240" y="{y + 3}" width="{max(1.0, 380 * lost[i] / most):.1f}" height="14"/>')
        bars.append(f'<text x="{246 + 380 * lost[i] / most:.1f}" y="{y + 14}">{lost[i]:.3f}</text>')
    picture = _svg(720, 20 * len(order) + 4, "".join(bars), "columns that give the made rows away")
    words = "What the detector's area under the curve loses when one column is shuffled: where to look first."
    return f"<h2>What gives the made rows away</h2><p>{words}</p>{picture}"


def _flawed(found: Sequence[Flaw], share: float, most: int = 40) -> str:
    """Cells that no real row has."""
    head = f"<h2>What no real row has</h2><p>{share:.2%} of the made rows have something that no real row has.</p>"
    if not found:
        return head
    rows = "".join(
        f"<tr><td>{html.escape(flaw.column or 'row')}</td><td>{html.escape(flaw.what)}</td>"
        f"<td>{html.escape(flaw.example[:60])}</td><td>{flaw.share:.2%}</td></tr>"
        for flaw in found[:most]
    )
    more = f"<p>and {len(found) - most} more</p>" if len(found) > most else ""
    return f"{head}<table><tr><th>column</th><th>what</th><th>for example</th><th>rows</th></tr>{rows}</table>{more}"


# ---- columns ---------------------------------------------------------------------------------------------------------


def _columns(a: Frame, b: Frame, tables: Sequence[Table], facts: Facts, order: np.ndarray) -> str:
    """A picture of each column, those that give the rows away first."""
    alike, drawn = shapes(a, b), []
    for i in order[:COLUMNS]:
        states = facts.measured[i]
        if a.words[i]:
            bars = _words(*(table[states.kind.name] for table in tables))
        else:
            bars = _numbers(a.cells[:, i], b.cells[:, i], states)
        gaps = [float(np.isnan(frame.cells[:, i]).mean()) for frame in (a, b)]
        empty = f"; empty {gaps[0]:.1%}, made {gaps[1]:.1%}" if max(gaps) else ""
        name = html.escape(states.kind.name)
        said = f"{name}: shape {alike[i]:.3f}{empty}"
        drawn.append(f"<figure>{_svg(WIDTH, HEIGHT + 16, bars, name)}<figcaption>{said}</figcaption></figure>")
    rest = f"<p>and {len(order) - COLUMNS} more columns</p>" if len(order) > COLUMNS else ""
    return f"<h2>Column by column</h2><p>grey: real rows; outlined: made rows</p>{''.join(drawn)}{rest}"


def _numbers(a: np.ndarray, b: np.ndarray, states: States) -> str:
    """Histograms over the range of the real numbers; what lies beyond is in the last bars. Long tails by rank: the steps
    hold equally many real rows where a hundredth of the range holds half of them."""
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if not len(a):
        return '<text x="4" y="20">always empty</text>'
    low, high = float(a.min()), float(a.max())
    middle = float(np.quantile(a, 0.95) - np.quantile(a, 0.05))
    even = middle > 0.05 * (high - low) or high == low
    edges = np.linspace(low, high, BARS + 1) if even else np.unique(np.quantile(a, np.linspace(0, 1, BARS + 1)))
    if high == low or len(edges) < 3:
        edges = np.array([low, low + 0.5, low + 1]) if high == low else np.linspace(low, high, BARS + 1)
    counts = [np.histogram(x.clip(edges[0], edges[-1]), edges)[0] / max(1, len(x)) for x in (a, b)]
    spelling = states.kind.spelling
    ends = [html.escape(spelling.word(value)[:14]) for value in (low, high)]
    words = f'<text x="0" y="{HEIGHT + 12}">{ends[0]}</text>'
    words += f'<text x="{WIDTH}" y="{HEIGHT + 12}" text-anchor="end">{ends[1]}{"" if even else ", by rank"}</text>'
    return _bars(*counts) + words


def _words(a: Column, b: Column) -> str:
    """Shares of the most frequent words of the real column."""
    counts = [dict(zip(column.words, (column.counts() / max(1, len(column.codes))).tolist())) for column in (a, b)]
    names = sorted(counts[0], key=lambda word: -counts[0][word])[:WORDS]
    shares = [np.array([count.get(word, 0.0) for word in names]) for count in counts]
    step = WIDTH / max(1, len(names))
    words = "".join(
        f'<text x="{step * i + 1:.1f}" y="{HEIGHT + 12}">{html.escape((name or "empty")[: max(1, int(step / 8.5))])}</text>'
        for i, name in enumerate(names)
    )
    return _bars(*shares) + words


def _bars(real: np.ndarray, made: np.ndarray) -> str:
    """Filled bars and outlined ones on one scale."""
    top = max(float(real.max(initial=0)), float(made.max(initial=0))) or 1.0
    step, parts = WIDTH / len(real), []
    for kind, values in (("real", real), ("made", made)):
        for i, value in enumerate(values):
            high = HEIGHT * value / top
            parts.append(
                f'<rect class="{kind}" x="{step * i:.1f}" y="{HEIGHT - high:.1f}" width="{0.92 * step:.1f}" height="{high:.1f}"/>'
            )
    return "".join(parts)


def _svg(width: float, height: float, inside: str, said: str) -> str:
    size = f'viewBox="0 0 {width} {height}" width="{width}" style="max-width:100%"'
    return f'<svg {size} role="img" aria-label="{said}">{inside}</svg>'


# ---- pairs -----------------------------------------------------------------------------------------------------------


def _pairs(a: Frame, b: Frame, names: Sequence[str]) -> str:
    """How strongly columns go together, in real rows, in made rows, and the difference."""
    if len(a.words) < 2:
        return ""
    real, made = associations(a), associations(b)
    pictures = (
        ("real rows", _picture(real)), ("made rows", _picture(made)), ("made less real", _picture(made - real, signed=True)),
    )  # fmt: skip
    off = np.nan_to_num(np.abs(made - real))
    i, j = divmod(int(off.argmax()), len(off))
    said = (
        "A pixel a pair of columns in the order of the file, dark where they go together (correlation, Cramer's V or "
        f"correlation ratio); of the difference red is too much, blue too little, in full colour from {FULL:g} on. "
        f"The largest is {off.max():.3f}, between {names[i]} and {names[j]}."
    )
    shown = "".join(image(name, data, name) for name, data in pictures)
    return f'<h2>Pairs of columns</h2><p>{html.escape(said)}</p><div class="pairs">{shown}</div>'


def _picture(values: np.ndarray, signed: bool = False) -> str:
    """A matrix as a PNG in base64: white is 0, dark blue 1; where signed, red above 0 and blue below. NaN is grey."""
    from PIL import Image

    strength = np.nan_to_num(np.abs(values) / (FULL if signed else 1)).clip(0, 1)[..., None]
    dark = np.where(values[..., None] > 0, (178, 24, 43), (33, 102, 172)) if signed else np.array((8, 48, 107))
    pixels = 255 + strength * (dark - 255.0)
    pixels[np.isnan(values)] = 190
    file = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
