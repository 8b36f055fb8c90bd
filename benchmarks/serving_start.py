"""From nothing to the first picture in the page: a fresh environment, the server, a browser that presses Draw.

    python -m benchmarks.serving_start [--run RUN]

Seconds by the clock on the wall, and CPU seconds of what was started, of each stage: pip (with what it has to fetch), from the
command to a port that is ready, from opening the page to a form that can be used, from Draw to the first look and to the
picture.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@contextmanager
def stage(name: str, told: dict[str, Any]) -> Iterator[None]:
    """Time what is done."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    yield
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told[name] = {"seconds": round(time.perf_counter() - begun, 2), "cpu_seconds_of_what_has_ended": round(cpu, 2)}
    print(name, told[name], flush=True)


def ready(port: int) -> bool:
    """Whether the server says so."""
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).status == 200
    except OSError:
        return False


def drawn(port: int, told: dict[str, Any]) -> None:
    """Open the page, press Draw, wait for the picture."""
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as play:
        chrome = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chrome.new_page()
        page.set_default_timeout(120_000)
        with stage("page", told):
            page.goto(f"http://localhost:{port}")
            page.wait_for_selector("body[data-ready=true]")
        page.fill("#n", "1")
        with stage("picture", told):
            page.click("#go")
            page.wait_for_selector(".card .state.done")
            page.wait_for_function("document.querySelector('.things img').naturalWidth > 0")
        told["first_look_ms"] = page.evaluate("document.querySelector('.card').dataset.first || null")
        chrome.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=ROOT / "tests" / "runs" / "a3fdda3" / "classes")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "serving_start.json")
    asked = parser.parse_args()
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as room:
        place = Path(room)
        python = place / "venv" / "bin" / "python"
        with stage("environment", told):
            subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
        with stage("pip install", told):
            pip = [
                str(python),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-c",
                str(ROOT / "constraints.txt"),
            ]
            subprocess.run([*pip, f"{ROOT}[serve]"], check=True)
        shutil.copytree(asked.run, place / "run")
        known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        log = (place / "log").open("w")
        begun = time.perf_counter()
        process = subprocess.Popen([str(place / "venv" / "bin" / "sfumato"), "serve", str(place / "run"), "--port", "0"],
                                   cwd=place, env=known, stdout=log, stderr=log)  # fmt: skip
        try:
            with stage("serve", told):
                while process.poll() is None and time.perf_counter() - begun < 300:
                    found = re.search(r"^page +http://\S+?:(\d+)/", (place / "log").read_text(), re.MULTILINE)
                    if found and ready(int(found[1])):
                        break
                    time.sleep(0.05)
                else:
                    raise SystemExit((place / "log").read_text())
            drawn(int(found[1]), told)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    told["sum_of_seconds"] = round(sum(each["seconds"] for each in told.values() if isinstance(each, dict)), 1)
    asked.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
