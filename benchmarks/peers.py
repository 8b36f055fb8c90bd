"""The peers' own environments: pinned, apart from ours, made by the first benchmark that needs them.

    python -m benchmarks.peers          make it now (about two minutes and 1 GB), print what is in it
    python -m benchmarks.peers tables   likewise that of the peers of tables

Peers run in a child process of that environment, with this folder and our sources on the path, so that both sides of a
comparison see the same network, the same data and the same threads. They answer with JSON or .npz files.

Some peers ask for torchvision, which is not needed for what is measured and drags in another torch: they are installed
without their dependencies, what they truly import is listed in peers-constraints.txt, and ``stand_ins/`` holds the few
functions of torchvision that are called (resize, crop, flip, to tensor). k-diffusion's package imports its trainer, its
metrics and CLIP on the way to its samplers: its ``sampling`` module alone is loaded, unchanged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
WITHOUT_DEPENDENCIES = ("diffusers", "k-diffusion", "azula", "denoising-diffusion-pytorch", "torchcfm")
"""The peers. Everything else in peers-constraints.txt is what they import."""


@dataclass(frozen=True)
class Environment:
    """Where peers live, and the file with the version of everything in there."""

    folder: Path
    pins: Path


PEERS = Environment(ROOT / ".venv-peers", HERE / "peers-constraints.txt")
TABLES = Environment(ROOT / ".venv-peers-tables", HERE / "tables-peers-constraints.txt")


def pins(of: Environment = PEERS) -> dict[str, str]:
    """Package -> version, as written in its file."""
    lines = (line.split("#")[0].strip() for line in of.pins.read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def environment(of: Environment = PEERS) -> Path:
    """Path of the peers' python; installs them first if that has not been done with these pins."""
    python, stamp = of.folder / "bin" / "python", of.folder / ".pins"
    wanted = of.pins.read_text()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"installing the peers into {of.folder} (once, about two minutes)", flush=True)
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(of.folder)], check=True)
    (of.folder / ".gitignore").write_text("*\n")
    found = [f"{name}=={version}" for name, version in pins(of).items()]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, *found], check=True)
    stamp.write_text(wanted)
    return python


def run(module: str, given: dict[str, Any], threads: int = 1, of: Environment = PEERS) -> Any:
    """Run ``python -m benchmarks.MODULE given.json found.json`` in the peers' environment and return what it found.

    Raises:
        RuntimeError: the child failed; what it printed is on the screen.
    """
    python = environment(of)
    with tempfile.TemporaryDirectory() as temporary:
        asked, answered = Path(temporary) / "given.json", Path(temporary) / "found.json"
        asked.write_text(json.dumps(given))
        paths = [ROOT, ROOT / "src", HERE / "stand_ins"]
        settings = {
            **os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true",
        }  # fmt: skip
        command = [str(python), "-m", f"benchmarks.{module}", str(asked), str(answered)]
        code = subprocess.run(command, cwd=ROOT, env=settings).returncode
        if code or not answered.is_file():
            raise RuntimeError(f"benchmarks.{module} failed in {of.folder} with code {code}: see above")
        return json.loads(answered.read_text())


def k_diffusion_sampling() -> Any:
    """k-diffusion's ``sampling`` module, in the peers' environment, without the rest of its package."""
    import importlib
    import importlib.util
    import types

    if "k_diffusion" not in sys.modules:
        place = importlib.util.find_spec("k_diffusion")
        assert place is not None
        assert place.submodule_search_locations is not None
        package = types.ModuleType("k_diffusion")
        package.__path__ = list(place.submodule_search_locations)
        sys.modules["k_diffusion"] = package
    return importlib.import_module("k_diffusion.sampling")


if __name__ == "__main__":
    chosen = environment(TABLES if sys.argv[1:] == ["tables"] else PEERS)
    subprocess.run([str(chosen), "-m", "pip", "list", "--disable-pip-version-check"], check=True)
