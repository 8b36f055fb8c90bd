"""Small things to serve: an exact Gaussian denoiser whose samples are known in closed form, the tiny runs of earlier revisions,
a server in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sfumato.diffusion import Gaussian, tree
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import walk
from sfumato.diffusion.solvers import SOLVERS
from sfumato.jobs.walk import Plain
from sfumato.serving.engine import Engine
from sfumato.serving.lookup import Times
from sfumato.serving.rows import Row
from sfumato.serving.team import Walker

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "runs" / "a3fdda3"
DIM = 3


class Exact:
    """The denoiser of normal data, of a mean that is the condition (hidden: 0) and a spread of 0.5. Exact at every time."""

    process = Gaussian()

    def __init__(self) -> None:
        self.rows = 0
        self.calls = 0

    def given(self, **condition: Any) -> Any:
        return condition

    def __call__(
        self, x_t: torch.Tensor, t: torch.Tensor, s: Any = None, *, given: Any = None, **condition: Any
    ) -> Any:
        from sfumato.diffusion.paths import Endpoints

        self.rows, self.calls = self.rows + len(x_t), self.calls + 1
        mean = {**(given or {}), **condition}["mean"]
        schedule = self.process.schedule
        shape = (-1, *[1] * (x_t.ndim - 1))
        t = t.expand(len(x_t)) if t.ndim == 0 else t
        alpha, sigma = (f(t).to(x_t.dtype).reshape(shape) for f in (schedule.alpha, schedule.sigma))
        gain = 0.25 * alpha / (0.25 * alpha**2 + sigma**2)
        x = mean + gain * (x_t - alpha * mean)
        return Endpoints(x, self.process.noise_given(x, x_t, t))


@dataclass
class Told:
    """An owner of rows that keeps what it is told."""

    gone: bool = False
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.found: dict[int, torch.Tensor] = {}
        self.steps: list[tuple[int, int]] = []

    def stepped(self, row: Row, data: Any) -> None:
        self.steps.append((row.number, row.place))

    def arrived(self, row: Row) -> None:
        self.found[row.number] = row.x_t

    def failed(self, error: BaseException) -> None:
        self.error, self.gone = error, True


def walker(model: Any, solver: str = "euler", **options: Any) -> Walker:
    """A walker of a solver by name, plainly guided."""
    import dataclasses

    chosen = dataclasses.replace(SOLVERS[solver], **options)
    return Walker(
        model, chosen, repr(chosen), lambda said, w: Plain().around(said, w, (), None), lambda guess, query: guess
    )


def times_of(steps: int, shape: str = "cosine") -> torch.Tensor:
    """Falling times of a shape of their own."""
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return even if shape == "uniform" else torch.sin(even * torch.pi / 2) if shape == "cosine" else even**2


def row(
    model: Any, owner: Any, number: int, steps: int = 6, solver: str = "euler", w: float = 1.0, mean: float = 1.0,
    low: float = 0.0, high: float = 1.0, shape: str = "cosine", share: str = "", of: Walker | None = None, dim: int = DIM,
    away: float = 0.0, **options: Any,
) -> Row:  # fmt: skip
    """A row of the exact denoiser: sample ``number`` of seed 0, guided away from a mean."""
    blank, means = torch.zeros(1, dim, dtype=torch.float64), torch.full((1, dim), mean, dtype=torch.float64)

    def begin() -> Any:
        rng = Streams(key("sample", 0), [number])
        return (
            model.process.start(model.process.prior(blank, rng)),
            Times.of(times_of(steps, shape), torch.float64, torch.device("cpu")),
            rng,
        )

    sides = {"strong": {"mean": means}}
    if w != 1:
        sides["weak"] = {"mean": torch.full_like(means, away)}
    return Row(number, owner, of or walker(model, solver, **options), begin, {"x": blank}, sides, w, low, high, share)


def alone(of: Row, w: float, mean: float, low: float = 0.0, high: float = 1.0, away: float = 0.0) -> torch.Tensor:
    """The same sample drawn as offline: a batch of one, times for all, guidance around the denoiser."""
    from sfumato.diffusion import during, guide

    model = Exact()
    x_t, times, rng = of.begin()
    guess: Any = model
    means = torch.full_like(x_t, mean)
    if w != 1:
        pushed = guide(model, w, instead={"mean": torch.full_like(x_t, away)})
        guess = pushed if (low, high) == (0.0, 1.0) else during(pushed, low, high)
    stops = torch.stack([t[0] for t in times])
    *_, (x, _) = walk(guess, x_t, stops, of.walker.solver, rng, x_t=x_t, mean=means)
    return x


def run_out(engine: Engine, most: int = 10_000) -> int:
    """Turns until there is nothing left."""
    turns = 0
    while engine.turn():
        turns += 1
        assert turns < most
    return turns


def close(a: Any, b: Any, within: float = 1e-6) -> bool:
    """Whether two trees are the same numbers."""
    gaps = [float((x.double() - y.double()).abs().max()) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True)]
    return max(gaps) <= within


# ---- a server -------------------------------------------------------------------------------------------------------------


def taken(folder: Path, *names: str) -> list[Path]:
    """Copies of tiny runs, with the data that they open."""
    shutil.copytree(RUNS / "data", folder / "data", dirs_exist_ok=True)
    for name in names:
        shutil.copytree(RUNS / name, folder / name, dirs_exist_ok=True)
    return [folder / name for name in names]


def broken(run: Path) -> Path:
    """A copy of a run, "broken" beside it, whose network answers nothing but NaN."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    out = run.with_name("broken")
    shutil.copytree(run, out)
    file = out / "model.safetensors"
    with safe_open(file, "pt") as opened:
        told = opened.metadata()
    spoilt = {name: torch.full_like(value, float("nan")) if value.is_floating_point() else value
              for name, value in load_file(file).items()}  # fmt: skip
    save_file(spoilt, file, told)
    return out


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, raw: bytes | None = None,
        timeout: float = 60,
    ) -> tuple[int, Any, dict[str, str]]:  # fmt: skip
        """Status, body (read, where it is JSON) and headers of an answer."""
        told = {
            **({"Content-Type": "application/json"} if body is not None or raw is not None else {}),
            **(headers or {}),
        }
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            line.request(method, path, sent, told)
            answer = line.getresponse()
            found = answer.read()
            kind = answer.headers.get("content-type", "")
            return answer.status, json.loads(found) if "json" in kind else found, dict(answer.headers)
        finally:
            line.close()

    def draw(self, seconds: float = 60, **body: Any) -> dict[str, Any]:
        """A request that is waited for."""
        status, job, _ = self.ask("POST", "/v1/samples", body, {"Prefer": f"wait={int(seconds)}"}, timeout=seconds + 30)
        assert status == 200, job
        return job

    def until(self, number: str, *states: str, seconds: float = 60) -> dict[str, Any]:
        """A request once it is in one of these states."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            _, job, _ = self.ask("GET", f"/v1/samples/{number}")
            if job["state"] in states:
                return job
            time.sleep(0.02)
        raise AssertionError(f"{job['state']} after {seconds} s: {self.log.read_text()[-2000:]}")

    def metric(self, name: str) -> float:
        """The sum of a number of the metrics."""
        _, text, _ = self.ask("GET", "/metrics")
        return sum(
            float(value) for value in re.findall(rf"^sfumato_{name}(?:{{.*}})? (\S+)$", text.decode(), re.MULTILINE)
        )

    def workers(self) -> list[int]:
        """The processes that draw."""
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def end(self, number: int = signal.SIGTERM, seconds: float = 40) -> int:
        """Told to end; its status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def served(runs: Sequence[Path], folder: Path, *words: str) -> Iterator[Server]:
    """`sfumato serve` on a free port, ready."""
    log = folder / "server.log"
    known = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    known["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "sfumato", "serve", *map(str, runs), "--port", "0", "--threads", "1", *words],
            cwd=folder, env=known, stdout=out, stderr=out, text=True,
        )  # fmt: skip
        try:
            server = Server(process, 0, log)
            end = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < end:
                if found := re.search(r"^page +http://\S+?:(\d+)/", log.read_text(), re.MULTILINE):
                    server.port = int(found[1])
                    if _ready(server):
                        break
                time.sleep(0.05)
            else:
                raise AssertionError(log.read_text()[-3000:])
            yield server
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _ready(server: Server) -> bool:
    try:
        return server.ask("GET", "/readyz")[0] == 200
    except OSError:
        return False
