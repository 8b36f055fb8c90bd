"""Serving beside the ways that others do it: many clients at once, mixed steps, guidance and queries, every answer checked.

    python -m benchmarks.serving [--requests 1000] [--clients 32] [--repeats 3] [--out benchmarks/results/serving.json]

Three ways are measured in turn in one process, on the same rows, each as often as asked: (a) one request at a time; (b) fixed
batches, collected for 50 ms or until the cap and run to the end of their longest walk; (c) the engine. The ceiling is what this
machine gains from calls of the cap's size over calls of one row. Then the whole server, over HTTP, every answer compared with the
offline sample of its seed. A figure of seconds is worth what the machine is worth; the ratios are of one run.

The faults of other servers, beside ours in the same run: `python -m benchmarks.serving_peers`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import threading
import time
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
        from sfumato.diffusion import Blanks

        return Blanks(torch.zeros(model.facts), 1 if n is None else n, {"label": torch.arange(10)})

    def things(self, model: Model, queries: Any, drawn: Drawn) -> list[Any]:
        return list(drawn.x)

    def save(self, thing: Any, path: Path, making: Making) -> Path:
        raise NotImplementedError


def model_of(kind: str) -> Model:
    """A picture network (DiT of width 192 at 32 pixels) or one of a table or policy (MLP of 64 numbers), of random weights: speed
    does not depend on what was learned."""
    torch.manual_seed(0)
    if kind == "picture":
        network: Any = DiT(channels=3, patch=4, width=192, depth=6, classes=10)
        shape: tuple[int, ...] = (3, 32, 32)
    else:
        network, shape = MLP(dim=64, width=256, depth=4, classes=10), (64,)
    for weights in network.parameters():  # nothing is zero, so that every part has its say in an answer
        torch.nn.init.normal_(weights, 0.0, 0.05)
    network.eval().requires_grad_(False)
    denoiser = Denoiser(network, Gaussian())
    walk = Walk(steps=20, solver="euler", eta=0.0, grid="cosine", shift=1.0, batch=16, w=1.5, guide_from=0.0, guide_to=1.0,
                guide_by="plain")  # fmt: skip
    return Model(Run(Path("bare")), Bare(), shape, denoiser, walk, Drawing(), (), torch.device("cpu"))


@dataclasses.dataclass(frozen=True)
class Request:
    """One sample: its number is its seed."""

    seed: int
    steps: int
    w: float


def requests(count: int, seed: int = 0, steps: tuple[int, ...] = STEPS) -> list[Request]:
    """A mixture of steps and guidance."""
    draw = random.Random(seed)
    return [Request(i, draw.choice(steps), draw.choice(W)) for i in range(count)]


def walked(model: Model, request: Request, **more: Any) -> Model:
    """The model with the walk and the seed of a request."""
    walk = dataclasses.replace(model.walk, steps=request.steps, w=request.w, batch=1)
    return dataclasses.replace(model, walk=walk, drawing=Drawing(request.seed), **more)


@torch.no_grad()
def offline(model: Model, request: Request) -> torch.Tensor:
    """The sample as `sfumato sample` draws it, in a batch of one."""
    mine = walked(model, request)
    (drawn,) = mine.draw(mine.recipe.queries(mine, None, 1), [0])
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
                alike = [each for each in waiting if (each[0].steps, each[0].w) == (first.steps, first.w)][:most]
                waiting[:] = [each for each in waiting if each not in alike]
            mine = walked(model, first)
            parts = [walked(model, request) for request, _, _ in alike]
            from sfumato.diffusion.generate import streams
            from sfumato.diffusion.sample import walk as walk_on

            queries = mine.recipe.queries(mine, None, 1)
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
        (drawn,) = mine.draw(mine.recipe.queries(mine, None, 1), [0])
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


def told(todo: list[Request], took: dict[int, float], both: tuple[float, float]) -> Result:
    """Samples and calls a CPU second (one thread does all the work, beside whatever else the machine does), and how long each
    kind of walk took by the clock on the wall."""
    calls = sum(request.steps * (1 if request.w == 1 else 2) for request in todo)
    seconds, cpu = both
    out: Result = {"seconds": seconds, "cpu_seconds": cpu, "samples_s": len(todo) / cpu, "calls_s": calls / cpu}
    for steps in sorted({request.steps for request in todo}):
        mine = [took[request.seed] for request in todo if request.steps == steps]
        if mine:
            out[f"p50_{steps}"], out[f"p99_{steps}"] = percentile(mine, 0.5), percentile(mine, 0.99)
    return out


def measured(kind: str, count: int, clients: int, repeats: int, check: int, steps: tuple[int, ...]) -> Result:
    """The three ways in turn, the ceiling beside them, and how far answers are from the offline samples."""
    model = model_of(kind)
    query = model.recipe.queries(model, None, 1).batch([0])
    known = model.denoiser.given(label=query["label"])

    @torch.no_grad()
    def call(rows: int) -> None:
        which = torch.zeros(rows, dtype=torch.int64)
        model.denoiser(
            tree.take(query["x"], which).contiguous(), torch.full((rows,), 0.5), given=tree.take(known, which)
        )

    found = caps.measure(call, 64, clock=time.process_time)
    every: dict[str, list[Result]] = {"one": [], "fixed": [], "ours": []}
    counts: dict[str, Any] = {}
    worst = 0.0
    for repeat in range(repeats):
        todo = requests(count, repeat, steps)
        answers: dict[str, dict[int, Any]] = {}
        for way in ("one", "fixed", "ours"):
            if way == "one":
                took, answers[way], seconds = one_by_one(model, todo, clients)
            elif way == "fixed":
                took, answers[way], seconds = fixed(model, todo, clients, found.rows)
            else:
                took, answers[way], seconds = ours(model, todo, clients, found.rows, counts)
            every[way].append(told(todo, took, seconds))
        for seed in list(answers["one"])[:check]:
            worst = max(worst, float((answers["one"][seed] - answers["ours"][seed]).abs().max()))
    table = {
        way: {name: statistics.median(each[name] for each in results) for name in results[0]}
        for way, results in every.items()
    }
    again = caps.measure(call, 64, clock=time.process_time)
    ceiling = statistics.mean((found.ceiling, again.ceiling))
    gain = table["ours"]["calls_s"] / table["one"]["calls_s"]
    return {
        "kind": kind, "requests": count, "clients": clients, "repeats": repeats, "cap": found.rows,
        "ms_a_row": {rows: 1000 * seconds / rows for rows, seconds in found.table}, "ceiling": ceiling, "gain": gain,
        "share_of_ceiling": gain / ceiling, "gain_of_fixed": table["fixed"]["calls_s"] / table["one"]["calls_s"],
        "p99_short_beside_fixed": {
            own: table["ours"][f"p99_{own}"] / table["fixed"][f"p99_{own}"] for own in sorted(set(steps))[:2]
        },
        "worst_gap_to_offline": worst, "compared": repeats * min(check, count), "ways": table, "engine": counts,
    }  # fmt: skip


# ---- the whole server ---------------------------------------------------------------------------------------------------------


def over_http(run: Path, count: int, clients: int) -> Result:
    """Requests to a server in a process of its own, closed loop; each answer compared with the offline sample of its seed."""
    import io
    import tempfile

    import numpy as np
    from PIL import Image

    from sfumato.jobs.model import load
    from tests.serving.small import served

    rng = random.Random(1)
    todo = [(i, rng.choice((4, 20, 50)), rng.choice(W)) for i in range(count)]
    took: dict[int, float] = {}
    pictures: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as room, served([run.resolve()], Path(room)) as server:
        rss = server.metric("resident_bytes")

        def one(each: tuple[int, int, float]) -> None:
            seed, steps, w = each
            begun = time.perf_counter()
            body = {
                "run": server.ask("GET", "/v1/runs")[1]["data"][0]["name"],
                "seed": seed,
                "walk": {"steps": steps, "w": w},
            }
            status, job, _ = server.ask("POST", "/v1/samples", body, {"Prefer": "wait=120"}, timeout=150)
            assert status == 200, job
            took[seed] = time.perf_counter() - begun
            pictures[seed] = np.asarray(Image.open(io.BytesIO(server.ask("GET", job["things"][0]["url"])[1])))

        begun = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(one, todo))
        seconds = time.perf_counter() - begun
        after = server.metric("resident_bytes")
    worst = 0
    for seed, steps, w in todo:
        (wanted,) = load(run, Walk(steps=steps, w=w), Drawing(seed)).sample(1)
        worst = max(worst, int(np.abs(pictures[seed].astype(int) - wanted.astype(int)).max()))
    return {"run": run.name, "requests": count, "clients": clients, "requests_s": count / seconds,
            "p50": percentile(list(took.values()), 0.5), "p99": percentile(list(took.values()), 0.99),
            "worst_gap_in_bytes_of_256": worst, "memory_before": rss, "memory_after": after}  # fmt: skip


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
    parser.add_argument("--run", type=Path, help="a run of pictures with classes, for the server over HTTP")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serving.json"))
    asked = parser.parse_args()
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
    if asked.run is not None:
        results["http"] = over_http(asked.run, asked.requests, asked.clients)
        print(json.dumps(results["http"], indent=1))
    asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
