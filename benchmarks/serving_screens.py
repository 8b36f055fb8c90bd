"""The page of `sfumato serve` looked at: every run drawn from, at the width of a desk and of a phone, light and dark.

    python -m benchmarks.serving_screens RUN [RUN ...] --out FOLDER

Each picture is taken once the usual query is drawn; what axe finds (serious or critical), what is wider than the screen and what
the browser complained of is told. Needs chromium, and the extra `dev`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
SERIOUS = ("serious", "critical")


def looked(page: Any, run: str, n: int, steps: int | None) -> float:
    """Draw from a run, and wait for it; milliseconds until the first look at a sample on its way."""
    page.select_option("#run", run)
    page.fill("#n", str(n))
    if steps is not None:
        page.fill("#steps", str(steps))
    page.click("#go")
    page.wait_for_selector(".card .state.done, .card .state.failed, #complaint:not(:empty)")
    page.wait_for_timeout(400)
    return float(page.evaluate("document.querySelector('.card')?.dataset.first || 0"))


def faults(page: Any, width: int) -> list[str]:
    """What axe finds, and what is too wide."""
    import axe_core_python

    page.evaluate((Path(axe_core_python.__file__).parent / "axe.min.js").read_text())
    found = [f"{each['id']}: {each['nodes'][0]['html'][:100]}" for each in page.evaluate("axe.run()")["violations"]
             if each["impact"] in SERIOUS]  # fmt: skip
    wide = page.evaluate("document.documentElement.scrollWidth")
    return [*found, *([f"{wide} wide on a screen of {width}"] if wide > width else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-n", type=int, default=4)
    parser.add_argument("--steps", type=int, help="(default: those of each run)")
    parser.add_argument("--widths", nargs="*", default=list(WIDTHS))
    parser.add_argument("--themes", nargs="*", default=["light", "dark"])
    asked = parser.parse_args()
    from playwright.sync_api import sync_playwright

    from tests.serving.small import served

    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    asked.out.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as room,
        served([run.resolve() for run in asked.runs], Path(room)) as server,
        sync_playwright() as play,
    ):
        chrome = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        names = [run["name"] for run in server.ask("GET", "/v1/runs")[1]["data"]]
        for name in names:
            for width in asked.widths:
                for theme in asked.themes:
                    wide, high = WIDTHS[width]
                    context = chrome.new_context(viewport={"width": wide, "height": high}, color_scheme=theme)
                    page, said = context.new_page(), list[str]()
                    page.set_default_timeout(240_000)
                    page.on("pageerror", lambda error, said=said: said.append(str(error)))
                    page.goto(f"http://localhost:{server.port}")
                    page.wait_for_selector("body[data-ready=true]")
                    first = looked(page, name, asked.n, asked.steps)
                    page.set_viewport_size(
                        {"width": wide, "height": page.evaluate("document.documentElement.scrollHeight")}
                    )
                    page.evaluate("scrollTo(0, 0)")
                    page.screenshot(path=asked.out / f"{name}-{width}-{theme}.png", full_page=True)
                    told[f"{name} {width} {theme}"] = {"first_look_ms": first, "faults": faults(page, wide) + said,
                                                       "state": page.inner_text(".card .state")}  # fmt: skip
                    print(name, width, theme, json.dumps(told[f"{name} {width} {theme}"]), flush=True)
                    context.close()
        chrome.close()
    (asked.out / "told.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
