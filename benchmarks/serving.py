"""Serving beside the ways that others do it: many clients at once, mixed steps, guidance and queries, every answer checked.

    python -m benchmarks.serving [--requests 300] [--clients 32] [--repeats 3] [--kinds table picture] [--http 1000]

Three ways are measured in turn in one process, on the same rows, each as often as asked: (a) one request at a time; (b) fixed
batches, collected for 50 ms or until the cap and run to the end of their longest walk; (c) the engine. Pictures are of two
sizes, which cannot stand in one batch. The ceiling is what this machine gains from calls of the cap's size over calls of one
row (or of 16 or 32, where those are faster still), measured before and after every way: the bare network alone, the same rows.
All of it, the other ways and the bare network too, in a process that keeps its memory as the server's do (`pool.MEMORY`).
So "share of the ceiling" is the CPU time that the rows' calls would take in batches of the best size, and nothing else done, over
what was taken. Then the whole server, over
HTTP, every answer compared with the offline sample of its seed. A figure of seconds is worth what the machine is worth; the
ratios are of one run.

The faults of other servers, beside ours in the same run: `python -m benchmarks.serving_peers`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from sfumato.diffusion import Denoiser, Drawn, Gaussian, tree
from sfumato.jobs.making import Making
from sfumato.jobs.model import Model
from sfumato.jobs.recipe import Recipe
from sfumato.jobs.walk import Drawing, Walk
from sfumato.networks import MLP, DiT
from sfumato.serving import cap as caps
from sfumato.serving.engine import Engine
from sfumato.serving.pool import MEMORY
from sfumato.serving.served import Asker, Served
from sfumato.training.run import Run

STEPS = (4, 4, 4, 20, 20, 50, 200)
"""Drawn from by chance: short ones are asked for more often, as people do."""
W = (1.0, 1.5, 4.0)
WAIT = 0.05
"""Seconds that fixed batches are collected for."""


# ---- what is served --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Bare(Recipe):
    """A field of nothing but a network: blanks of one shape, with a class."""

    guided = ("label",)

    def queries(self, model: Model, ask: Any, n: int | None) -> Any:
        """ask: which of the model's sizes."""
        from sfumato.diffusion import Blanks

        return Blanks(torch.zeros(model.facts[ask or 0]), 1 if n is None else n, {"label": torch.arange(10)})

    def things(self, model: Model, queries: Any, drawn: Drawn) -> list[Any]:
        return list(drawn.x)

    def save(self, thing: Any, path: Path, making: Making) -> Path:
        raise NotImplementedError


class Clocked:
    """A network whose calls are counted, (size, rows) -> calls, and the CPU seconds that they take."""

    def __init__(self, network: Any):
        self.network, self.calls, self.seconds = network, Counter[tuple[int, int]](), 0.0

    def __call__(self, x: Any, *more: Any, **known: Any) -> Any:
        begun = time.thread_time()
        answer = self.network(x, *more, **known)
        self.seconds += time.thread_time() - begun
        self.calls[(x.shape[-1], len(x))] += 1
        return answer

    def clear(self) -> None:
        self.calls, self.seconds = Counter(), 0.0


def model_of(kind: str) -> Model:
    """A picture network (DiT of width 192 at 32 pixels) or one of a table or policy (MLP of 64 numbers), of random weights: speed
    does not depend on what was learned."""
    torch.manual_seed(0)
    if kind == "picture":
        network: Any = DiT(channels=3, patch=4, width=192, depth=6, classes=10)
        shapes: tuple[tuple[int, ...], ...] = ((3, 32, 32), (3, 24, 24))
    else:
        network, shapes = MLP(dim=64, width=256, depth=4, classes=10), ((64,),)
    for weights in network.parameters():  # nothing is zero, so that every part has its say in an answer
        torch.nn.init.normal_(weights, 0.0, 0.05)
    network.eval().requires_grad_(False)
    denoiser = Denoiser(Clocked(network), Gaussian())
    walk = Walk(steps=20, solver="euler", eta=0.0, grid="cosine", shift=1.0, batch=16, w=1.5, guide_from=0.0, guide_to=1.0,
                guide_by="plain")  # fmt: skip
    return Model(Run(Path("bare")), Bare(), shapes, denoiser, walk, Drawing(), (), torch.device("cpu"))


@dataclasses.dataclass(frozen=True)
class Request:
    """One sample: its number is its seed."""

    seed: int
    steps: int
    w: float
    size: int = 0

    @property
    def rows(self) -> int:
        """Rows of all calls of the network that it takes."""
        return self.steps * (1 if self.w == 1 else 2)


def requests(count: int, seed: int = 0, steps: tuple[int, ...] = STEPS, sizes: int = 1) -> list[Request]:
    """A mixture of steps, guidance and sizes."""
    draw = random.Random(seed)
    return [Request(i, draw.choice(steps), draw.choice(W), draw.randrange(sizes)) for i in range(count)]


def walked(model: Model, request: Request, **more: Any) -> Model:
    """The model with the walk and the seed of a request."""
    walk = dataclasses.replace(model.walk, steps=request.steps, w=request.w, batch=1)
    return dataclasses.replace(model, walk=walk, drawing=Drawing(request.seed), **more)


@torch.no_grad()
def offline(model: Model, request: Request) -> torch.Tensor:
    """The sample as `sfumato sample` draws it, in a batch of one."""
    mine = walked(model, request)
    (drawn,) = mine.draw(mine.recipe.queries(mine, request.size, 1), [0])
    return drawn.x


# ---- three ways -------------------------------------------------------------------------------------------------------------

Result = dict[str, Any]


def closed_loop(todo: list[Request], clients: int, serve: Callable[[Request], Any]) -> tuple[Any, ...]:
    """So many clients, each of which asks for the next when it has its answer: seconds of each, the answers, all seconds."""
    line, lock = list(reversed(todo)), threading.Lock()
    took: dict[int, float] = {}
    found: dict[int, Any] = {}

    def client() -> None:
        while True:
            with lock:
                if not line:
                    return
                request = line.pop()
            begun = time.perf_counter()
            answer = serve(request)
            took[request.seed], found[request.seed] = time.perf_counter() - begun, answer

    begun, spent = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, found, (time.perf_counter() - begun, time.process_time() - spent)


def one_by_one(model: Model, todo: list[Request], clients: int) -> Any:
    """(a)"""
    lock = threading.Lock()

    def serve(request: Request) -> Any:
        with lock:
            return offline(model, request)

    return closed_loop(todo, clients, serve)


def fixed(model: Model, todo: list[Request], clients: int, most: int) -> Any:
    """(b): those of one kind of walk are collected for 50 ms or until there are enough, and run to the end."""
    waiting: list[tuple[Request, threading.Event, dict[str, Any]]] = []
    news, over = threading.Condition(), False

    @torch.no_grad()
    def run() -> None:
        from sfumato.serving.rows import Together

        while True:
            with news:
                while not waiting and not over:
                    news.wait()
                if over and not waiting:
                    return
            time.sleep(WAIT)
            with news:
                first = waiting[0][0]
                kind = (first.steps, first.w, first.size)
                alike = [each for each in waiting if (each[0].steps, each[0].w, each[0].size) == kind][:most]
                waiting[:] = [each for each in waiting if each not in alike]
            mine = walked(model, first)
            parts = [walked(model, request) for request, _, _ in alike]
            from sfumato.diffusion.generate import streams
            from sfumato.diffusion.sample import walk as walk_on

            queries = mine.recipe.queries(mine, first.size, 1)
            rng = Together([streams(queries, [0], each.drawing.seed, ("sample",)) for each in parts])
            query = tree.join(*[dict(queries.batch([0]))] * len(alike))
            z = mine.process.prior(query["x"], rng)
            times = mine.grid(mine.walk)(mine.process.schedule, first.steps)
            guess = mine.guided(mine.walk)(mine.denoiser, query)
            *_, (x, _) = walk_on(guess, z, times, mine.solver(mine.walk), rng, label=query["label"])
            for i, (_, done, box) in enumerate(alike):
                box["x"] = x[i : i + 1]
                done.set()

    def serve(request: Request) -> Any:
        done, box = threading.Event(), dict[str, Any]()
        with news:
            waiting.append((request, done, box))
            news.notify()
        done.wait()
        return box["x"]

    worker = threading.Thread(target=run)
    worker.start()
    found = closed_loop(todo, clients, serve)
    with news:
        over = True
        news.notify()
    worker.join()
    return found


def ours(model: Model, todo: list[Request], clients: int, most: int, counts: dict[str, Any]) -> Any:
    """(c)"""
    engine = Engine(lambda key: most)
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()

    @torch.no_grad()
    def serve(request: Request) -> Any:
        mine = Served.of(walked(model, request), engine, Asker("all"))
        (drawn,) = mine.draw(mine.recipe.queries(mine, request.size, 1), [0])
        return drawn.x

    found = closed_loop(todo, clients, serve)
    engine.stop()
    thread.join()
    counts |= {"turns": engine.counts.turns, "rows": engine.counts.rows,
               "step_share": engine.counts.network / engine.counts.seconds,
               "sizes": dict(sorted(engine.counts.sizes.items()))}  # fmt: skip
    return found


def percentile(values: list[float], share: float) -> float:
    """Of values, the one that so many are below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def told(todo: list[Request], took: dict[int, float], both: tuple[float, float], network: Clocked) -> Result:
    """Samples and calls a CPU second (one thread does all the work, beside whatever else the machine does), how much of it the
    network took, and how long each kind of walk took by the clock on the wall."""
    rows = sum(request.rows for request in todo)
    seconds, cpu = both
    called = sum(size * calls for (_, size), calls in network.calls.items())
    assert called == rows, f"{called} rows were called for, {rows} were needed"
    out: Result = {"seconds": seconds, "cpu_seconds": cpu, "samples_s": len(todo) / cpu, "calls_s": rows / cpu,
                   "network_seconds": network.seconds, "rows_a_call": rows / sum(network.calls.values())}  # fmt: skip
    for steps in sorted({request.steps for request in todo}):
        mine = [took[request.seed] for request in todo if request.steps == steps]
        if mine:
            out[f"p50_{steps}"], out[f"p99_{steps}"] = percentile(mine, 0.5), percentile(mine, 0.99)
    return out


class Bareness:
    """CPU seconds of the bare network by size and rows, looked at again and again: other work on the machine makes all of it
    slower now and then, and what is compared must have met the same."""

    def __init__(self, model: Model):
        self.network, self.seconds = model.denoiser.network.network, dict[tuple[int, int], list[float]]()
        self.states = []
        for size in range(len(model.facts)):
            query = model.recipe.queries(model, size, 1).batch([0])
            self.states.append((query["x"], model.denoiser.given(label=query["label"])))

    @torch.no_grad()
    def call(self, size: int, rows: int) -> None:
        """One call."""
        x, known = self.states[size]
        which = torch.zeros(rows, dtype=torch.int64)
        self.network(x[which], torch.full((rows,), 0.5), **tree.take(known, which))

    def look(self, cap: int, seconds: float = 1.0) -> None:
        """Time calls of one row and of many, for so long each size: each number of rows in a stretch of its own, as who serves
        one at a time makes no large call between (a small one after a large one is slower by a fifth: its weights have left
        the cache)."""
        counts = sorted({1, 8, 16, 32, cap})
        for size in range(len(self.states)):
            for rows in counts:
                self.call(size, rows)
                end = time.process_time() + seconds / len(counts)
                while (begun := time.process_time()) < end:
                    self.call(size, rows)
                    self.seconds.setdefault((size, rows), []).append(time.process_time() - begun)

    def row(self, size: int, rows: int) -> float:
        """Of a row in a call of so many."""
        return statistics.mean(self.seconds[(size, rows)]) / rows

    def best(self, size: int) -> float:
        """Of a row in calls of the best size."""
        return min(self.row(size, rows) for which, rows in self.seconds if which == size)


def measured(kind: str, count: int, clients: int, repeats: int, check: int, steps: tuple[int, ...]) -> Result:
    """The three ways in turn, the ceiling beside them, and how far answers are from the offline samples."""
    model = model_of(kind)
    bareness, network, sizes = Bareness(model), model.denoiser.network, len(model.facts)
    found = caps.measure(lambda rows: bareness.call(0, rows), 64, clock=time.process_time)
    cap = found.rows
    every: dict[str, list[Result]] = {"one": [], "fixed": [], "ours": []}
    counts: dict[str, Any] = {}
    shares, worst, share, compared = [], 0.0, 0.0, 0
    bareness.look(cap)
    for repeat in range(repeats):
        todo = requests(count, repeat, steps, sizes)
        answers: dict[str, dict[int, Any]] = {}
        for way in ("one", "fixed", "ours"):
            network.clear()
            if way == "one":
                took, answers[way], seconds = one_by_one(model, todo, clients)
            elif way == "fixed":
                took, answers[way], seconds = fixed(model, todo, clients, cap)
            else:
                took, answers[way], seconds = ours(model, todo, clients, cap, counts)
            every[way].append(told(todo, took, seconds, network))
            print(kind, repeat, way, f"{seconds[1]:.1f} CPU s", flush=True)
            bareness.look(cap)
        shares.append(sum(request.rows for request in todo if request.size == size) for size in range(sizes))
        for seed in list(answers["one"])[:check]:
            gap = float((answers["one"][seed] - answers["ours"][seed]).abs().max())
            worst, share = max(worst, gap), max(share, gap / float(answers["one"][seed].abs().max()))
            compared += 1
    rows = [sum(each) for each in zip(*shares, strict=True)]
    alone = sum(n * bareness.row(size, 1) for size, n in enumerate(rows))
    best = sum(n * bareness.best(size) for size, n in enumerate(rows))
    cpu = {way: sum(each["cpu_seconds"] for each in results) for way, results in every.items()}
    table = {
        way: {name: statistics.median(each[name] for each in results) for name in results[0]}
        for way, results in every.items()
    }
    return {
        "kind": kind, "requests": count, "clients": clients, "repeats": repeats, "steps": list(steps), "sizes": model.facts,
        "cap": cap, "ms_a_row": {rows: 1000 * seconds / rows for rows, seconds in found.table},
        "ms_a_row_meanwhile": {f"size {size}, {n} rows": 1000 * bareness.row(size, n) for size, n in bareness.seconds},
        "ceiling": alone / best, "gain": cpu["one"] / cpu["ours"], "gain_of_fixed": cpu["one"] / cpu["fixed"],
        "gain_over_bare_calls_of_one_row": alone / cpu["ours"], "share_of_ceiling": best / cpu["ours"],
        "network_share": sum(each["network_seconds"] for each in every["ours"]) / cpu["ours"],
        "p99_short_beside_fixed": {
            own: table["ours"][f"p99_{own}"] / table["fixed"][f"p99_{own}"] for own in sorted(set(steps))[:2]
        },
        "worst_gap_to_offline": worst, "worst_gap_beside_the_largest_number": share, "compared": compared,
        "ways": table, "engine": counts,
    }  # fmt: skip


# ---- the whole server ---------------------------------------------------------------------------------------------------------


def over_http(runs: list[Path], count: int, clients: int) -> Result:
    """Requests to a server in a process of its own, closed loop, of several runs; each answer compared with the offline sample
    of its seed, and where the very bits were asked for (one in twenty), in its bytes."""
    import io
    import tempfile

    import numpy as np

    from sfumato.jobs.model import load
    from tests.serving.small import served

    rng = random.Random(1)
    guided = {run.name: bool(load(run).recipe.guided) for run in runs}
    todo = []
    for seed in range(count):
        run = rng.choice(runs)
        walk = {"steps": rng.choice((4, 8, 20, 50)), **({"w": rng.choice(W)} if guided[run.name] else {})}
        todo.append((seed, run.name, walk, rng.random() < 0.05))
    took: dict[int, float] = {}
    found: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as room, served([run.resolve() for run in runs], Path(room)) as server:
        before = server.metric("resident_bytes")

        def one(each: tuple[int, str, dict[str, Any], bool]) -> None:
            seed, run, walk, exact = each
            begun = time.perf_counter()
            body = {"run": run, "seed": seed, "walk": walk, "exact": exact, "format": ".npy"}
            status, job, _ = server.ask("POST", "/v1/samples", body, {"Prefer": "wait=120"}, timeout=150)
            assert (status, job["state"]) == (200, "done"), job
            took[seed] = time.perf_counter() - begun
            found[seed] = np.load(io.BytesIO(server.ask("GET", job["things"][0]["url"])[1]), allow_pickle=False)

        begun = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(one, todo))
        seconds, after = time.perf_counter() - begun, server.metric("resident_bytes")
        turns, calls = server.metric("turns_total"), server.metric("calls_total")
    models = {run.name: load(run) for run in runs}
    bytes_apart, worst, bits = 0, 0.0, 0
    for seed, run, walk, exact in todo:
        (wanted,) = models[run].sample(1, seed=seed, **walk)
        wanted = np.asarray(getattr(wanted, "actions", wanted))
        if exact:
            assert found[seed].tobytes() == wanted.tobytes(), (seed, run, walk)
            bits += 1
        gap = np.abs(found[seed].astype(float) - wanted.astype(float))
        if wanted.dtype == np.uint8:
            assert gap.max() <= 1, (seed, run, walk, gap.max())
            bytes_apart += int((gap > 0).sum())
        else:
            worst = max(worst, float(gap.max() / np.abs(wanted).max()))
    return {"runs": [run.name for run in runs], "requests": count, "clients": clients, "compared": len(todo),
            "equal_in_bits_of_those_asked_for": bits, "bytes_of_pictures_apart_by_one": bytes_apart,
            "worst_gap_of_numbers_to_their_largest": worst, "rows_a_turn": calls / turns, "requests_s": count / seconds,
            "p50": percentile(list(took.values()), 0.5), "p99": percentile(list(took.values()), 0.99),
            "memory_before": before, "memory_after": after}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--check", type=int, default=1000, help="answers of each repeat compared with the offline samples"
    )
    parser.add_argument("--steps", type=int, nargs="*", default=list(STEPS), help="drawn from by chance")
    parser.add_argument("--kinds", nargs="*", default=["table", "picture"])
    parser.add_argument("--http", type=int, default=0, help="requests to the whole server over HTTP")
    parser.add_argument("--runs", type=Path, nargs="*", help="what it serves",
                        default=[Path("tests/runs/a3fdda3") / name for name in ("classes", "vectors", "policy")])  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serving.json"))
    asked = parser.parse_args()
    if missing := {name: value for name, value in MEMORY.items() if name not in os.environ}:
        os.execve(
            sys.executable, [sys.executable, "-m", "benchmarks.serving", *sys.argv[1:]], {**os.environ, **missing}
        )
    torch.set_num_threads(1)
    results = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    for kind in asked.kinds:
        results[kind] = measured(
            kind,
            asked.requests,
            asked.clients,
            asked.repeats,
            asked.check,
            tuple(asked.steps),
        )
        print(json.dumps(results[kind], indent=1))
    if asked.http:
        results["http"] = over_http(asked.runs, asked.http, asked.clients)
        print(json.dumps(results["http"], indent=1))
    asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
