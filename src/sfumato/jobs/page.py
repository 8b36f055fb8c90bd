"""Pages that need nothing else, for light and dark: report.html of a run (what it is, how it learned, what it draws and how it
measures), and what `sfumato inspect` found."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sfumato.training.run import Run, write_text
from sfumato.training.telling import LABEL

NAME = "report.html"
MOST_BYTES = 4 << 20
"""Of a picture within the page; a larger one is named only."""
STYLE = """
:root{color-scheme:light dark;--ink:#1a202c;--paper:#fff;--shade:#f1f5f9;--quiet:#4a5568;--line:#2b6cb0}
@media(prefers-color-scheme:dark){:root{--ink:#e2e8f0;--paper:#1a202c;--shade:#2d3748;--quiet:#a0aec0;--line:#63b3ed}}
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:var(--ink);background:var(--paper)}
h1{font-size:1.6rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid var(--quiet)}
pre{overflow-x:auto;background:var(--shade);padding:.8rem;font-size:13px;line-height:1.35}
figure{display:inline-block;margin:.5rem 1rem .5rem 0;vertical-align:top}figcaption{font-size:.8rem;color:var(--quiet)}
img{max-width:100%;image-rendering:pixelated}.wide img{image-rendering:auto}
dl{display:grid;grid-template-columns:8rem 1fr;gap:.25rem 1rem}dt{color:var(--quiet)}dd{margin:0;overflow-wrap:anywhere}
.loss{stroke:var(--quiet);stroke-width:1.2;fill:none}.held{stroke:var(--line);stroke-width:2.5;fill:none}circle{fill:var(--line)}
svg text{fill:var(--ink);font-size:12px}
"""


def write_page(run: Run) -> Path:
    """Write report.html into a run, from the files that lie there; returns its path."""
    records = run.records()
    parts = [f"<h1>{html.escape(run.path.resolve().name)}</h1>", _card(run), _curves(records), _metrics(run)]
    parts += [_pictures("Pictures", sorted(run.path.glob("*.png")), "wide"), _timeline(run)]
    write_text(run.path / NAME, whole(run.path.resolve().name, parts))
    return run.path / NAME


def whole(title: str, parts: Iterable[str]) -> str:
    """A page of these parts, which are HTML; the title is not."""
    body = "\n".join(part for part in parts if part)
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    inside = f"<head>{head}<style>{STYLE}</style></head><body>{body}</body>"
    text = f'<!doctype html><html lang="en">{inside}</html>'
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can spell what is no text


def write_look(path: Path, title: str, text: str, picture: bytes | None = None) -> None:
    """What `sfumato inspect` found: its lines, each beside its label, and a picture of some items (PNG).

    Raises OSError where it cannot be written.
    """
    rows, loose = [], []
    for line in text.splitlines():
        label, said = line[:LABEL].strip(), html.escape(line[LABEL:].strip())
        if line.startswith("  ") and label:
            loose.append(f"<li>{html.escape(line.strip())}</li>")
        elif line[LABEL - 1 : LABEL] == " " and said:
            rows.append(f"<dt>{html.escape(label)}</dt><dd>{said}</dd>")
        else:
            rows.append(f"<dt></dt><dd>{html.escape(line)}</dd>")
    parts = [f"<h1>{html.escape(title)}</h1>", f"<dl>{''.join(rows)}</dl>"]
    if loose:
        parts.append(f"<h2>File by file</h2><ul>{''.join(loose)}</ul>")
    if picture is not None:
        data = base64.b64encode(picture).decode("ascii")
        said = "Some items as they are learned: cut and scaled, evenly spread over the data"
        parts.append(f"<h2>Items</h2>{image('items', data, said)}")
    write_text(path, whole(title, parts))


def _card(run: Run) -> str:
    """The list of README.md: what the data are, how far training came."""
    try:
        lines = (run.path / "README.md").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    items = "".join(f"<li>{html.escape(line[2:])}</li>" for line in lines if line.startswith("- "))
    return f"<ul>{items}</ul>" if items else ""


def _metrics(run: Run) -> str:
    """The table that the last evaluation left, and what it says in words."""
    try:
        found = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
        text = str(found.get("table") or "")
        remarks = [str(line) for line in found.get("remarks", [])]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return ""
    said = "".join(f"<p>{html.escape(line)}</p>" for line in remarks)
    return f"<h2>Measured</h2><pre>{html.escape(text)}</pre>{said}" if text or said else ""


def _curves(records: Sequence[dict[str, Any]]) -> str:
    """Loss over training, logarithmic, as a drawing within the page."""
    lines = {
        "loss": [(r["step"], r["loss"]) for r in records if _good(r.get("loss")) and _placed(r)],
        "held out": [(r["step"], r["held_out"]) for r in records if _good(r.get("held_out")) and _placed(r)],
    }
    points = [point for line in lines.values() for point in line]
    if len(points) < 3:
        return ""
    width, height, left = 720, 220, 60
    last = max(step for step, _ in points) or 1
    low, high = (math.log10(edge(value for _, value in points)) for edge in (min, max))
    high = high if high > low else low + 1

    def at(step: float, value: float) -> str:
        x, y = left + step / last * (width - left - 10), 10 + (high - math.log10(value)) / (high - low) * (height - 40)
        return f"{x:.1f},{y:.1f}"

    kinds = {"loss": "loss", "held out": "held"}
    drawn = "".join(
        f'<polyline class="{kinds[name]}" points="{" ".join(at(*p) for p in _thin(line))}"/>'
        for name, line in lines.items()
        if line
    ) + "".join(  # held-out losses are few, and one alone is no line
        '<circle r="4" cx="{}" cy="{}"/>'.format(*at(*p).split(",")) for p in _thin(lines["held out"])
    )
    heights = {level: float(at(0, 10**level).partition(",")[2]) + 4 for level in (low, (low + high) / 2, high)}
    ticks = "".join(f'<text x="4" y="{y:.1f}">{10**level:.3g}</text>' for level, y in heights.items())
    said = (
        f'<text x="{left}" y="{height - 4}">step 0</text>'
        f'<text x="{width - 10}" y="{height - 4}" text-anchor="end">step {last}</text>'
    )
    looks = {
        "loss": "thin line: loss of the training batches",
        "held out": "thick line with dots: loss on held-out items",
    }
    words = "; ".join(looks[name] + f", last {line[-1][1]:.4g}" for name, line in lines.items() if line)
    picture = (
        f'<svg viewBox="0 0 {width} {height}" width="100%" role="img" aria-label="{words}">{drawn}{ticks}{said}</svg>'
    )
    return f"<h2>Learning</h2>{picture}<p>{words}</p>"


def _good(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _placed(record: dict[str, Any]) -> bool:
    """Whether it says at which step."""
    step = record.get("step")
    return isinstance(step, (int, float)) and 0 <= step < math.inf


def _thin(line: Sequence[tuple[int, float]], most: int = 400) -> Sequence[tuple[int, float]]:
    """At most so many points, evenly chosen, the last among them."""
    if len(line) <= most:
        return line
    return [line[i * (len(line) - 1) // (most - 1)] for i in range(most)]


def _timeline(run: Run, most: int = 6) -> str:
    """Previews over the run, the same noise every time."""
    pictures = sorted(run.samples.glob("step-*.png"))
    texts = sorted(run.samples.glob("step-*.txt"))[-1:]
    chosen = [
        pictures[i * (len(pictures) - 1) // max(1, min(most, len(pictures)) - 1)]
        for i in range(min(most, len(pictures)))
    ]
    said = "".join(
        f"<pre>{html.escape(path.read_text(encoding='utf-8', errors='replace')[:20_000])}</pre>" for path in texts
    )
    shown = _pictures("On the way", list(dict.fromkeys(chosen)))
    return shown + (f"<h2>Last preview</h2>{said}" if said else "")


def _pictures(title: str, paths: Iterable[Path], kind: str = "") -> str:
    figures = "".join(_figure(path) for path in paths)
    return f'<h2>{title}</h2><div class="{kind}">{figures}</div>' if figures else ""


def _figure(path: Path) -> str:
    name = html.escape(path.name)
    try:
        raw = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
    except OSError:
        return ""
    if not raw:
        return f"<p>{name} is too large for this page</p>"
    return image(name, base64.b64encode(raw).decode("ascii"), name)


def image(name: str, data: str, said: str) -> str:
    """A picture within a page: a PNG in base64, and what is said below it."""
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{said}</figcaption></figure>'
