"""The faults of TRUST's table of servers, sent to ours, to FastAPI with a plain function, to Gradio and LitServe, in one run.

    python -m benchmarks.serving_peers [--run RUN] [--peers ENVIRONMENT/bin/python] [--litserve ENVIRONMENT/bin/python]

Each server draws with a network that takes 20 ms a step in its own process: ours through its engine, the peers by a function of
theirs. What is told of each fault is what a client sees.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FASTAPI = """
import threading, time
from fastapi import FastAPI
from pydantic import BaseModel
import uvicorn
app, done, lock = FastAPI(), [0], threading.Lock()
class Ask(BaseModel):
    seed: int = 0
    w: float = 1.0
@app.post("/draw")
def draw(ask: Ask):
    if ask.seed == 666:
        raise RuntimeError("the network at /srv/secret/weights is broken")
    for _ in range(50):
        time.sleep(0.02)
    with lock:
        done[0] += 1
    return {"x": ask.seed}
@app.get("/done")
def how_many():
    return done[0]
uvicorn.run(app, port=PORT, log_level="error")
"""
GRADIO = """
import time, threading
import gradio as gr
done, lock = [0], threading.Lock()
def draw(seed, w):
    if seed == 666:
        raise RuntimeError("the network at /srv/secret/weights is broken")
    for _ in range(50):
        time.sleep(0.02)
    with lock:
        done[0] += 1
    return seed
page = gr.Interface(draw, [gr.Number(), gr.Number()], gr.Number(), api_name="draw", analytics_enabled=False,
                    flagging_mode="never")
page.queue(max_size=5)
app, _, _ = page.launch(server_port=PORT, prevent_thread_lock=True, share=False, quiet=True)
@app.get("/done")
def how_many():
    return done[0]
threading.Event().wait()
"""
LITSERVE = """
import os, time
import litserve as ls
class Draw(ls.LitAPI):
    def setup(self, device):
        pass
    def decode_request(self, request):
        return request["seed"], request["w"]
    def predict(self, asked):
        seed, w = asked
        if seed == 666:
            raise RuntimeError("the network at /srv/secret/weights is broken")
        for _ in range(50):
            time.sleep(0.02)
        with open("done", "ab") as file:  # of processes that share nothing else
            file.write(b".")
        return seed
    def encode_response(self, found):
        return {"x": found}
if __name__ == "__main__":
    server = ls.LitServer(Draw(api_path="/draw"), accelerator="cpu", timeout=3)
    @server.app.get("/done")
    def how_many():
        return os.path.getsize("done") if os.path.exists("done") else 0
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="error", api_server_worker_type="thread")
"""
SOURCES = {"fastapi": FASTAPI, "gradio": GRADIO, "litserve": LITSERVE}
PATHS = {"litserve": "/draw", "fastapi": "/draw", "gradio": "/gradio_api/call/draw", "ours": "/v1/samples"}


def free() -> int:
    """A port that nobody listens at."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


@contextmanager
def peer(python: str, source: str) -> Iterator[int]:
    """A server of another make; its port."""
    port = free()
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
    room = tempfile.mkdtemp()
    file = Path(room) / "peer.py"  # LitServe's processes read it again
    file.write_text(source.replace("PORT", str(port)))
    process = subprocess.Popen([python, str(file)], env=environment, cwd=room, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            try:
                if ask(port, "GET", "/done")[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers, too
        process.wait()
        shutil.rmtree(room)


def ask(
    port: int, method: str, path: str, raw: bytes | None = None, headers: Any = None, timeout: float = 60
) -> tuple[int, bytes]:
    """Status and body."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        line.request(method, path, raw, {"Content-Type": "application/json", **(headers or {})})
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()


def body(kind: str, seed: int, run: str) -> bytes:
    """A request of one second's work."""
    if kind == "ours":
        return json.dumps({"run": run, "seed": seed, "walk": {"steps": 1000, "w": 1.0}}).encode()
    return json.dumps({"seed": seed, "w": 1.0} if kind != "gradio" else {"data": [seed, 1.0]}).encode()


def faults(kind: str, port: int, run: str, done: Callable[[], int]) -> dict[str, str]:
    """What a client sees of each fault."""
    path, wait = PATHS[kind], {"Prefer": "wait=60"} if kind == "ours" else {}

    def codes(sent: list[bytes], headers: Any = None) -> str:
        def one(raw: bytes) -> str:
            try:
                return str(ask(port, "POST", path, raw, headers, 90)[0])
            except OSError as error:
                return type(error).__name__

        with ThreadPoolExecutor(64) as pool:
            found = Counter(pool.map(one, sent))
        return ", ".join(f"{count} x {code}" for code, count in sorted(found.items()))

    out = {"40 at once": codes([body(kind, i, run) for i in range(40)], wait)}
    before = -1
    while done() > before:  # until nothing of it is worked at any more
        before = done()
        time.sleep(2)
    lines = []
    for i in range(10):
        raw = body(kind, 100 + i, run)
        line = socket.create_connection(("127.0.0.1", port))
        more = "".join(f"{name}: {value}\r\n" for name, value in wait.items())
        line.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}"
                     f"Content-Length: {len(raw)}\r\n\r\n".encode() + raw)  # fmt: skip
        lines.append(line)
    time.sleep(0.3)
    for line in lines:
        line.close()
    time.sleep(8)
    out["10 give up after .3 s"] = f"{done() - before} of 10 are worked at to the end"
    if kind == "gradio":
        out["10 give up after .3 s"] += " (of those accepted)"
    out["50 MB body"] = codes([b'{"data": [0, 1], "x": "' + b"a" * 50_000_000 + b'"}'])
    out["malformed, empty, list"] = "; ".join(codes([raw]) for raw in (b"{", b"", b"[1]"))
    nan = (
        body(kind, 0, run)
        .replace(b'"w": 1.0', b'"w": NaN')
        .replace(b"0, 1.0", b"0, NaN")
        .replace(b'"steps": 1000', b'"steps": 2')
    )
    out["a number that is NaN"] = codes([nan])
    out["200,000 nested ["] = codes([b"[" * 200_000])
    line = socket.create_connection(("127.0.0.1", port), 40)
    line.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode()
    )
    begun = time.monotonic()
    try:
        said = line.recv(100)
        out["a body that never ends"] = (
            f"{said.split()[1].decode() if said else 'closed'} after {time.monotonic() - begun:.0f} s"
        )
    except TimeoutError:
        out["a body that never ends"] = "held for more than 40 s"
    return out


PLACES = ("/../../../../etc/passwd", "/..%2f..%2f..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "/file=/etc/passwd",
          "/gradio_api/file=/etc/passwd", "/gradio_api/file=/proc/self/cmdline", "/page/..%2fserver.py", "/page//etc/passwd",
          "/v1/runs/..%2f..%2fetc%2fpasswd")  # fmt: skip


def reads(port: int) -> str:
    """Whether a file of the machine can be had by its name."""
    found = Counter()
    for place in PLACES:
        status, raw = ask(port, "GET", place)
        found["read" if b"root:" in raw or b"python" in raw[:300] else str(status)] += 1
    return ", ".join(f"{count} x {code}" for code, count in sorted(found.items()))


def raises(kind: str, port: int) -> str:
    """What a client sees where the function raises: for Gradio what its event stream says."""
    status, raw = ask(port, "POST", PATHS[kind], body(kind, 666, ""))
    if kind == "gradio":
        status, raw = ask(port, "GET", f"{PATHS[kind]}/{json.loads(raw)['event_id']}")
    return f"{status}, {'with the place of a file' if b'secret' in raw else 'nothing told'}"


def of_ours(server: Any, run: str) -> dict[str, str]:
    """What only a server with processes of its own that draw can be put to."""
    out = {"files by their names": reads(server.port)}
    status, job, _ = server.ask("POST", "/v1/samples", {"run": "broken", "walk": {"steps": 3}}, {"Prefer": "wait=60"})
    where = "with a place" if str(server.log.parent) in json.dumps(job) else "nothing told of the machine"
    out["a network that gives NaN"] = f"{status}, {job.get('detail', '')[:60]}..., {where}"
    _, job, _ = server.ask("POST", "/v1/samples", {"run": run, "walk": {"steps": 1000}})
    server.until(job["id"], "running")
    os.kill(server.workers()[0], signal.SIGKILL)
    begun = time.monotonic()
    done = server.until(job["id"], "done", "failed", seconds=90)
    out["the process that draws is killed"] = (
        f"started again, request {done['state']} after {time.monotonic() - begun:.0f} s"
    )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("tests/runs/a3fdda3/classes"))
    parser.add_argument("--peers", default=sys.executable, help="a python that has fastapi and gradio")
    parser.add_argument("--litserve", help="a python that has litserve (default: that row is left as it was)")
    parser.add_argument("--kinds", nargs="*", default=["ours", "fastapi", "gradio", "litserve"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serving_peers.json"))
    asked = parser.parse_args()
    table: dict[str, dict[str, str]] = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    for kind in asked.kinds:
        if kind == "ours":
            from tests.serving.small import broken, served

            with tempfile.TemporaryDirectory() as room:
                runs = [Path(shutil.copytree(asked.run, Path(room) / asked.run.name))]
                runs.append(broken(runs[0]))
                with served(runs, Path(room), "--queue", "16") as server:
                    table[kind] = faults(
                        kind, server.port, asked.run.name, lambda s=server: int(s.metric("samples_total"))
                    )
                    table[kind] |= of_ours(server, asked.run.name)
        elif python := asked.litserve if kind == "litserve" else asked.peers:
            with peer(python, SOURCES[kind]) as port:
                table[kind] = faults(kind, port, "", lambda port=port: int(ask(port, "GET", "/done")[1]))
                table[kind] |= {"files by their names": reads(port), "a function that raises": raises(kind, port)}
        print(kind, json.dumps(table.get(kind), indent=1))
    asked.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
