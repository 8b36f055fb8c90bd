"""A server asked over HTTP: what it answers, what it refuses, and that whoever misbehaves harms nobody (S1 to S8)."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from sfumato.jobs.model import load
from sfumato.jobs.walk import Drawing, Walk
from sfumato.serving.hooks import signed
from tests.serving.small import Server, broken, served, taken
from tests.serving.test_hooks import KEY, listener

NAMES = ("classes", "classes_map", "policy", "vectors")
QUICK = 2.0
"""Seconds in which a busy machine refuses what makes no sense (a quiet one: a few milliseconds)."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "key").write_text(KEY.decode())
    words = ("--queue", "64", "--deadline", "60", "--webhook-key", str(folder / "key"))
    runs = taken(folder, *NAMES)
    with served([*runs, broken(folder / "vectors")], folder, *words) as found:
        yield found
        assert found.end() == 0, found.log.read_text()[-2000:]


def offline(server: Server, run: str, n: int, walk: dict[str, Any], seed: int, **ask: Any) -> list[Any]:
    """What `sfumato sample` draws."""
    here = os.getcwd()
    os.chdir(server.log.parent)
    try:
        return load(Path(run), Walk(**walk), Drawing(seed)).sample(n, **ask)
    finally:
        os.chdir(here)


def numbers(server: Server, job: dict[str, Any]) -> list[np.ndarray]:
    """The things of a request as arrays."""
    found = []
    for thing in job["things"]:
        _, raw, _ = server.ask("GET", thing["url"])
        if thing["file"].endswith(".png"):
            found.append(np.asarray(Image.open(io.BytesIO(raw))))
        else:
            found.append(np.load(io.BytesIO(raw), allow_pickle=False))
    return found


# ---- what it answers -----------------------------------------------------------------------------------------------------


def test_a_request_is_drawn_as_offline_in_the_fields_own_files(server: Server):
    job = server.draw(run="classes", n=3, seed=7, query={"label": "green"}, walk={"steps": 6, "w": 2.5})
    wanted = offline(server, "classes", 3, {"steps": 6, "w": 2.5}, 7, label="green")
    for mine, theirs in zip(numbers(server, job), wanted, strict=True):
        assert np.abs(mine.astype(int) - theirs.astype(int)).max() <= 1  # a byte that stands between two
    assert job["command"] == "sfumato sample classes -n 3 --seed 7 --label green --steps 6 --w 2.5"
    assert [thing["file"] for thing in job["things"]] == ["0000.png", "0001.png", "0002.png"]


@pytest.mark.parametrize(("run", "walk"), [
    ("policy", {"steps": 12}), ("vectors", {"steps": 9, "solver": "heun"}), ("vectors", {"tol": 0.02}),
    ("classes_map", {"steps": 3, "solver": "leap:mean=true"}),
])  # fmt: skip
def test_every_kind_of_run_is_drawn_as_offline(server: Server, run: str, walk: dict[str, Any]):
    job = server.draw(run=run, n=3, seed=2, walk=walk)
    wanted = [getattr(each, "actions", each) for each in offline(server, run, 3, walk, 2)]
    for mine, theirs in zip(numbers(server, job), wanted, strict=True):
        assert np.abs(mine.astype(float) - theirs.astype(float)).max() <= (1 if mine.dtype == np.uint8 else 1e-4)


def test_a_solver_that_was_fitted_before_is_taken_from_the_run(server: Server):
    walk = {"steps": 3, "solver": "fit"}
    wanted = offline(server, "classes", 3, walk, 2)
    for mine, theirs in zip(numbers(server, server.draw(run="classes", n=3, seed=2, walk=walk)), wanted, strict=True):
        assert np.abs(mine.astype(int) - theirs.astype(int)).max() <= 1


def test_the_very_bits_are_had_where_they_are_asked_for(server: Server):
    job = server.draw(run="vectors", n=2, seed=3, walk={"steps": 5}, exact=True)
    for mine, theirs in zip(numbers(server, job), offline(server, "vectors", 2, {"steps": 5}, 3), strict=True):
        assert mine.tobytes() == theirs.tobytes()


def test_a_thing_carries_its_making_and_is_made_again_from_it(server: Server):
    job = server.draw(
        run="classes", n=2, seed=11, query={"label": "red"}, walk={"steps": 4, "solver": "heun"}, exact=True
    )
    _, raw, headers = server.ask("GET", job["things"][1]["url"])
    status, making, _ = server.ask("POST", "/v1/making", raw=raw, headers={"Content-Type": "application/octet-stream"})
    assert status == 200
    assert (making["run"], making["seed"], making["number"], making["query"]["label"]) == ("classes", 11, 1, "red")
    assert making["walk"]["solver"] == "heun"
    status, again, _ = server.ask("POST", "/v1/remake", raw=raw, headers={"Content-Type": "application/octet-stream"})
    assert status == 202
    done = server.until(again["id"], "done", "failed")
    _, new, _ = server.ask("GET", done["things"][0]["url"])
    assert new == raw
    assert server.ask("GET", job["things"][1]["url"], headers={"If-None-Match": headers["etag"]})[0] == 304


def test_nothing_says_where_a_run_lies(server: Server):
    job = server.draw(run="classes", seed=1, walk={"steps": 2})
    _, raw, _ = server.ask("GET", job["things"][0]["url"])
    folder = str(server.log.parent)
    assert folder not in json.dumps(job)
    assert folder.encode() not in raw
    for path in ("/v1/runs", "/openapi.json", "/metrics", "/"):
        assert folder.encode() not in json.dumps(str(server.ask("GET", path)[1])).encode()


def test_what_happens_is_told_and_goes_on_where_it_broke_off(server: Server):
    _, job, _ = server.ask("POST", "/v1/samples", {"run": "classes", "n": 2, "walk": {"steps": 8}, "previews": 4})
    server.until(job["id"], "done")
    _, raw, _ = server.ask("GET", job["links"]["events"])

    def told(text: bytes) -> list[tuple[str, str]]:
        return re.findall(r"id: (\d+)\nevent: (\w+)\ndata: ", text.decode())

    every = told(raw)
    assert [int(number) for number, _ in every] == list(range(1, len(every) + 1))
    kinds = [event for _, event in every]
    assert kinds[0] == "queued"
    assert kinds[-1] == "done"
    assert kinds.count("thing") == 2
    assert kinds.count("preview") >= 4
    _, rest, _ = server.ask("GET", job["links"]["events"], headers={"Last-Event-ID": "3"})
    assert told(rest) == every[3:]
    (data,) = [json.loads(each) for each in re.findall(r"event: preview\ndata: (.*)\n", raw.decode())][:1]
    assert Image.open(io.BytesIO(base64.b64decode(data["data"]))).format == "PNG"


def test_a_film_goes_there_and_back(server: Server):
    job = server.draw(run="classes", n=1, walk={"steps": 5}, film=True)
    _, raw, _ = server.ask("GET", job["links"]["events"])
    kinds = re.findall(r"event: (\w+)", raw.decode())
    assert kinds.count("noising") == 6
    assert kinds.count("preview") == 4


def test_the_same_key_is_the_same_request(server: Server):
    body = {"run": "vectors", "seed": 5, "walk": {"steps": 3}}
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda i: server.ask("POST", "/v1/samples", body, {"Idempotency-Key": "k"}), range(100)))
    assert len({job["id"] for _, job, _ in found}) == 1
    assert server.ask("POST", "/v1/samples", {**body, "seed": 6}, {"Idempotency-Key": "k"})[0] == 409


def test_another_server_is_told_of_the_end(server: Server):
    with listener(200) as (url, heard):
        job = server.draw(run="vectors", n=2, walk={"steps": 3}, webhook_url=url)
        _, given_up, _ = server.ask(
            "POST", "/v1/samples", {"run": "classes", "walk": {"steps": 1000}, "webhook_url": url}
        )
        server.ask("DELETE", f"/v1/samples/{given_up['id']}")
        end = time.monotonic() + 20
        while len(heard) < 2 and time.monotonic() < end:
            time.sleep(0.02)
    told = [json.loads(body) for _, _, body in heard]
    assert {(each["type"], each["data"]["id"]) for each in told} == {
        ("samples.done", job["id"]), ("samples.cancelled", given_up["id"])
    }  # fmt: skip
    assert all(len(each["data"]["things"]) == (2 if each["type"] == "samples.done" else 0) for each in told)
    for _, headers, body in heard:
        right = signed(KEY, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
        assert headers["webhook-signature"] == right["webhook-signature"]
    status, problem, _ = server.ask("POST", "/v1/samples", {"run": "vectors", "webhook_url": "http://evil.example/"})
    assert (status, problem["field"]) == (422, "webhook_url")


def test_health_metrics_and_what_is_served(server: Server):
    assert server.ask("GET", "/healthz")[0] == 200
    _, runs, _ = server.ask("GET", "/v1/runs")
    assert [run["name"] for run in runs["data"]] == [*NAMES, "broken"]
    classes = server.ask("GET", "/v1/runs/classes")[1]
    assert set(classes["query"]["properties"]["label"]["enum"]) == {"red", "green", "blue", None}
    before = server.metric("samples_total")
    server.draw(run="vectors", n=4, walk={"steps": 2})
    time.sleep(0.7)
    assert server.metric("samples_total") >= before + 4
    assert server.metric("worker_ready") == 1


def test_the_description_holds_every_fields_own_query(server: Server):
    _, described, _ = server.ask("GET", "/openapi.json")
    assert described["openapi"].startswith("3.1")
    schemas = described["components"]["schemas"]
    assert schemas["samples-classes"]["properties"]["query"] == {"$ref": "#/components/schemas/query-classes"}
    assert "description" in schemas["query-policy"]["properties"]["label"]


def test_pictures_as_other_servers_have_them(server: Server):
    status, found, _ = server.ask(
        "POST", "/v1/images/generations", {"model": "classes", "prompt": "green", "n": 2, "seed": 1}
    )
    assert status == 200
    assert all(Image.open(io.BytesIO(base64.b64decode(each["b64_json"]))).size == (8, 8) for each in found["data"])
    assert server.ask("POST", "/v1/images/generations", {"model": "policy", "prompt": "x", "size": "8x8"})[0] == 422
    assert server.ask("POST", "/v1/completions", {"prompt": "x"})[0] == 422  # no run of text is served


# ---- S2: what makes no sense ---------------------------------------------------------------------------------------------

WRONG: list[tuple[str, Any, int, str]] = [
    ("no such run", {"run": "clases"}, 422, "run"),
    ("a misspelt name", {"run": "classes", "sede": 1}, 422, "sede"),
    ("no samples", {"run": "classes", "n": 0}, 422, "n"),
    ("too many samples", {"run": "classes", "n": 10**6}, 422, "n"),
    ("a number that is text", {"run": "classes", "n": "3"}, 422, "n"),
    ("a truth for a number", {"run": "classes", "n": True}, 422, "n"),
    ("too many steps", {"run": "classes", "walk": {"steps": 10**9}}, 422, "walk.steps"),
    ("no steps", {"run": "classes", "walk": {"steps": 0}}, 422, "walk.steps"),
    ("a solver of none", {"run": "classes", "walk": {"solver": "dpmpp"}}, 422, "walk.solver"),
    ("a solver of tokens", {"run": "classes", "walk": {"solver": "confidence"}}, 422, "walk.solver"),
    ("a solver to be fitted", {"run": "classes", "walk": {"solver": "fit", "steps": 7}}, 422, "walk.solver"),
    ("a misspelt option", {"run": "classes", "walk": {"stepz": 3}}, 422, "walk.stepz"),
    ("a label that is none", {"run": "classes", "query": {"label": "gren"}}, 422, "query.label"),
    ("a query of another field", {"run": "classes", "query": {"prompt": "x"}}, 422, "query.prompt"),
    ("an interval the wrong way round", {"run": "classes", "walk": {"guide_from": 0.9, "guide_to": 0.1}}, 422, "walk.guide_from"),
    ("a batch of one's own", {"run": "classes", "walk": {"batch": 4}}, 422, "walk.batch"),
    ("a format of none", {"run": "classes", "format": ".exe"}, 422, "format"),
    ("a list", [1], 422, ""), ("a string", "x", 422, ""),
    ("no deadline", {"run": "classes", "deadline_s": 0}, 422, "deadline_s"),
    ("a walk of none", {"run": "classes", "walk": {"name": "surest"}}, 422, "walk.name"),
]  # fmt: skip


@pytest.mark.parametrize("what", [each[0] for each in WRONG])
def test_what_makes_no_sense_is_refused_by_name(server: Server, what: str):
    _, body, code, name = next(each for each in WRONG if each[0] == what)
    status, problem, headers = server.ask("POST", "/v1/samples", body)
    assert status == code, problem
    assert headers["content-type"] == "application/problem+json"
    assert problem["status"] == code
    if name != "walk.name":
        assert problem.get("field", "") == name, problem
    assert problem["detail"]


@pytest.mark.parametrize("raw", [
    b"{", b"", b"nonsense", b"\xff\xfe", b'{"run": "classes", "w": NaN}', b'{"run": "classes", "walk": {"w": NaN}}',
    b'{"run": "classes", "walk": {"w": Infinity}}', b'{"run": "classes", "walk": {"w": 1e309}}', b"[" * 200_000,
    b'{"a":' * 50_000, b'{"run": "classes", "n": 1, "n": 2}', b'{"run": "classes", "n": ' + b"9" * 5000 + b"}",
])  # fmt: skip
def test_bodies_of_nonsense_are_refused_at_once(server: Server, raw: bytes):
    begun = time.monotonic()
    status, problem, _ = server.ask("POST", "/v1/samples", raw=raw)
    assert status in (400, 422), problem
    assert time.monotonic() - begun < QUICK


def test_bodies_too_large_are_refused_before_they_are_read(server: Server):
    head = b"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for more in (b"Content-Length: 50000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), 20) as line:
            line.sendall(head + more)
            if b"chunked" in more:
                for _ in range(40):
                    try:
                        line.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                    except OSError:
                        break
            assert b" 413 " in line.recv(200)


def test_a_body_of_another_kind_is_refused(server: Server):
    assert server.ask("POST", "/v1/samples", raw=b"a=1", headers={"Content-Type": "text/plain"})[0] == 415
    status, _, headers = server.ask("PUT", "/v1/samples", {})
    assert status == 405
    assert {"GET", "POST"} <= set(headers["allow"].split(", "))


# ---- S3, S4: too much, and given up --------------------------------------------------------------------------------------


def test_what_is_too_much_is_told_when_to_come_again(server: Server):
    """200 requests at once where 64 samples are taken: so many are drawn, the others turned away, and nothing is lost."""
    body = {"run": "classes", "walk": {"steps": 300}}
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda i: server.ask("POST", "/v1/samples", {**body, "seed": i}), range(200)))
    codes = [status for status, _, _ in found]
    assert set(codes) == {202, 429} or set(codes) == {200, 202, 429}
    assert codes.count(429) >= 60
    assert all(int(headers["retry-after"]) >= 1 for status, _, headers in found if status == 429)
    taken_in = [job["id"] for status, job, _ in found if status != 429]
    for number in taken_in[8:]:
        server.ask("DELETE", f"/v1/samples/{number}")
    assert all(server.until(number, "done", "failed")["state"] == "done" for number in taken_in[:8])


def test_who_gives_up_frees_the_place_within_a_step(server: Server):
    _, job, _ = server.ask("POST", "/v1/samples", {"run": "classes", "n": 4, "walk": {"steps": 1000}})
    server.until(job["id"], "running")
    status, found, _ = server.ask("DELETE", f"/v1/samples/{job['id']}")
    assert (status, found["state"]) == (200, "cancelled")
    time.sleep(1.2)
    before = server.metric("calls_total")
    time.sleep(0.7)
    assert server.metric("calls_total") == before
    assert server.until(job["id"], "cancelled")["things"] == []


def test_who_waits_and_goes_takes_the_request_along(server: Server):
    raw = json.dumps({"run": "classes", "walk": {"steps": 1000}, "n": 8}).encode()
    head = "POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nPrefer: wait=60\r\n"
    head += f"Content-Length: {len(raw)}\r\n\r\n"
    line = socket.create_connection(("127.0.0.1", server.port), 20)
    line.sendall(head.encode() + raw)
    end = time.monotonic() + 20
    while not (running := server.ask("GET", "/v1/samples?state=running")[1]["data"]) and time.monotonic() < end:
        time.sleep(0.02)
    line.close()
    assert server.until(running[0]["id"], "cancelled", "done")["state"] == "cancelled"


def test_a_deadline_ends_a_request(server: Server):
    _, job, _ = server.ask(
        "POST", "/v1/samples", {"run": "classes", "n": 8, "walk": {"steps": 1000}, "deadline_s": 0.4}
    )
    found = server.until(job["id"], "cancelled", "done")
    assert found["state"] == "cancelled"
    assert "0.4 s" in found["why"]


# ---- S5: a network that fails --------------------------------------------------------------------------------------------


def test_a_network_that_answers_no_numbers_harms_nobody_else(server: Server):
    """A problem with the number of the request, no trace and no place; what others ask meanwhile is drawn."""
    with ThreadPoolExecutor(4) as pool:
        good = [pool.submit(server.draw, run="vectors", n=2, seed=i, walk={"steps": 20}) for i in range(3)]
        status, problem, headers = server.ask(
            "POST", "/v1/samples", {"run": "broken", "walk": {"steps": 20}}, {"Prefer": "wait=60"}
        )
        assert all(each.result()["state"] == "done" for each in good)
    assert (status, headers["content-type"]) == (500, "application/problem+json")
    assert "finite" in problem["detail"]
    assert str(server.log.parent) not in json.dumps(problem)
    assert "Traceback" not in json.dumps(problem)
    status, job, _ = server.ask("GET", f"/v1/samples/{problem['id']}")
    assert (status, job["state"], job["things"]) == (200, "failed", [])
    assert server.ask("GET", "/readyz")[0] == 200


# ---- S7: everybody at once -----------------------------------------------------------------------------------------------


def test_whoever_is_served_beside_whom_gets_the_own_sample(server: Server):
    """Mixed steps, guidance, labels and runs by 16 clients: each answer is the offline sample of its seed."""
    kinds = [("classes", {"steps": 3 + i % 7, "w": (1.0, 2.5, 0.0)[i % 3]}, {"label": ("red", "green", "blue")[i % 3]})
             if i % 3 else ("vectors", {"steps": 4 + i % 5}, {}) for i in range(48)]  # fmt: skip

    def one(i: int) -> dict[str, Any]:
        run, walk, query = kinds[i]
        while True:
            status, job, _ = server.ask("POST", "/v1/samples", {"run": run, "seed": i, "walk": walk, "query": query},
                                        {"Prefer": "wait=60"})  # fmt: skip
            if status == 200:
                return job
            assert status == 429

    with ThreadPoolExecutor(16) as pool:
        jobs = list(pool.map(one, range(48)))
    for i, job in enumerate(jobs):
        run, walk, query = kinds[i]
        (mine,), (theirs,) = numbers(server, job), offline(server, run, 1, walk, i, **query)
        assert np.abs(mine.astype(float) - theirs.astype(float)).max() <= (1 if run == "classes" else 1e-4), i


# ---- S8: where one does not belong ---------------------------------------------------------------------------------------

ODD = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f",
    "/etc/passwd",
    "a%00b",
    "\\\\host\\share",
    "x" * 300,
    "0" * 32,
]


@pytest.mark.parametrize("name", ODD)
def test_no_name_leads_anywhere(server: Server, name: str):
    job = server.draw(run="vectors", walk={"steps": 1})
    base = f"/v1/samples/{job['id']}"
    for path in (f"/v1/samples/{name}", f"/v1/runs/{name}", f"{base}/things/{name}", f"{base}/things/0?file={name}",
                 f"/page/{name}", f"/{name}"):  # fmt: skip
        assert server.ask("GET", path)[0] in (400, 404), path


def test_a_name_that_is_not_ours_and_a_page_of_elsewhere_are_turned_away(server: Server):
    assert server.ask("GET", "/v1/runs", headers={"Host": "evil.example"})[0] == 403
    body = {"run": "vectors", "walk": {"steps": 1}}
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert server.ask("POST", "/v1/samples", body, headers)[0] == 403
        assert server.ask("DELETE", f"/v1/samples/{'0' * 32}", headers=headers)[0] == 403
    own = {"Origin": f"http://127.0.0.1:{server.port}"}
    assert server.ask("POST", "/v1/samples", body, own)[0] in (200, 202)


def test_a_path_in_a_query_is_none_of_the_servers(server: Server):
    """What a field reads from a file comes with the request, or not at all."""
    from sfumato.fields.tables.recipe import Tables
    from sfumato.serving.asked import Kind, Limits, understood
    from sfumato.serving.problem import Problem

    kinds = {"rows": Kind(Tables.Ask, Tables.formats)}
    with pytest.raises(Problem, match="base64"):
        understood({"run": "rows", "query": {"known": "/etc/passwd"}}, kinds, Limits())
    given = {"name": "../../etc/x.csv", "base64": base64.b64encode(b"a\n1\n").decode()}
    asked = understood({"run": "rows", "query": {"known": given}}, kinds, Limits())
    assert asked.files == {"known": ("x.csv", b"a\n1\n")}


def test_answers_tell_browsers_to_run_nothing(server: Server):
    _, _, headers = server.ask("GET", "/")
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_nobody_is_spoken_to_who_did_not_ask(server: Server):
    """Of all processes of the server: no socket of the network but the listening one and what was accepted there, and no other
    process than those that draw."""
    server.draw(run="classes", n=2, walk={"steps": 3}, previews=2)
    drawing = server.workers()
    children = [Path(f"/proc/{pid}/task/{pid}/children").read_text() for pid in drawing]
    assert len(drawing) == 1
    assert children == [""]
    table = [line.split() for kind in ("tcp", "tcp6", "udp", "udp6") for line in
             Path(f"/proc/{server.process.pid}/net/{kind}").read_text().splitlines()[1:]]  # fmt: skip
    port_of = {words[9]: int(words[1].rpartition(":")[2], 16) for words in table}
    found = {}
    for pid in (server.process.pid, *drawing):
        links = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink() and each.exists()]
        own = [match[1] for link in links if (match := re.fullmatch(r"socket:\[(\d+)\]", link))]
        found[pid] = {port_of[inode] for inode in own if inode in port_of}
    assert found == {server.process.pid: {server.port}, drawing[0]: set()}


# ---- S1: slow ones -------------------------------------------------------------------------------------------------------


def test_idle_and_half_sent_connections_do_not_keep_others_out(server: Server):
    lines = [socket.create_connection(("127.0.0.1", server.port), 20) for _ in range(300)]
    try:
        for i, line in enumerate(lines):
            if i % 3:
                line.sendall(b"POST /v1/samples HTTP/1.1\r\nHost: local" if i % 3 == 1 else b"GET / HTTP/1.1\r\n")
        assert server.draw(run="vectors", walk={"steps": 1})["state"] == "done"
    finally:
        for line in lines:
            line.close()


# ---- the whole life ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_slow_headers_and_bodies_are_cut_off(tmp_path: Path):
    """Within the seconds that they have (10 for a header, 30 for a body), while others are served."""
    with served(taken(tmp_path, "vectors"), tmp_path) as server:
        idle = socket.create_connection(("127.0.0.1", server.port), 60)
        header = socket.create_connection(("127.0.0.1", server.port), 60)
        header.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        body = socket.create_connection(("127.0.0.1", server.port), 60)
        body.sendall(
            b"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        begun = time.monotonic()
        assert server.draw(run="vectors", walk={"steps": 1})["state"] == "done"
        assert idle.recv(10) == b""
        assert header.recv(10) == b""
        assert time.monotonic() - begun < 25
        assert b" 408 " in body.recv(200)
        assert time.monotonic() - begun < 50


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_what_it_drew_is_drawn(tmp_path: Path):
    with served(taken(tmp_path, "classes"), tmp_path) as server:
        before = server.draw(run="classes", n=2, seed=4, walk={"steps": 7})
        _, job, _ = server.ask("POST", "/v1/samples", {"run": "classes", "n": 2, "seed": 4, "walk": {"steps": 900}})
        server.until(job["id"], "running")
        os.kill(server.workers()[0], signal.SIGKILL)
        end = time.monotonic() + 20
        while server.ask("GET", "/readyz")[0] == 200 and time.monotonic() < end:
            time.sleep(0.01)
        assert server.ask("GET", "/readyz")[0] == 503
        assert server.ask("GET", "/healthz")[0] == 200
        assert len(server.until(job["id"], "done", "failed", seconds=90)["things"]) == 2
        again = server.draw(run="classes", n=2, seed=4, walk={"steps": 7})
        assert all(np.array_equal(a, b) for a, b in zip(numbers(server, before), numbers(server, again)))
        assert server.metric("worker_restarts_total") == 1
        assert server.end() == 0


@pytest.mark.slow
def test_told_to_end_it_finishes_what_is_under_way(tmp_path: Path):
    with served(taken(tmp_path, "classes"), tmp_path) as server, ThreadPoolExecutor(4) as pool:
        body = {"run": "classes", "n": 2, "walk": {"steps": 400}}
        waits = [
            pool.submit(server.ask, "POST", "/v1/samples", {**body, "seed": i}, {"Prefer": "wait=60"}) for i in range(4)
        ]
        end = time.monotonic() + 20
        while len(server.ask("GET", "/v1/samples?state=running")[1]["data"]) < 4 and time.monotonic() < end:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.ask("POST", "/v1/samples", body)[0] == 503
        assert [each.result()[0] for each in waits] == [200] * 4
        assert server.process.wait(40) == 0


@pytest.mark.slow
def test_who_may_come_in_from_elsewhere_is_said_by_tokens(tmp_path: Path):
    (tmp_path / "tokens").write_text("lab:0123456789abcdef0123\nguests:fedcba9876543210fedc:0.5\n")
    with served(
        taken(tmp_path, "vectors"), tmp_path, "--token", tmp_path / "tokens", "--host", "drawing.example"
    ) as server:
        assert server.ask("GET", "/v1/runs")[0] == 401
        assert server.ask("GET", "/v1/runs", headers={"Authorization": "Bearer wrong"})[0] == 401
        own = {"Authorization": "Bearer 0123456789abcdef0123", "Host": "drawing.example"}
        assert server.ask("GET", "/v1/runs", headers=own)[0] == 200
        assert server.ask("GET", "/healthz")[0] == 200
        status, job, _ = server.ask("POST", "/v1/samples", {"run": "vectors", "walk": {"steps": 1}}, own)
        assert status in (200, 202)
        guest = {"Authorization": "Bearer fedcba9876543210fedc"}
        assert server.ask("GET", f"/v1/samples/{job['id']}", headers=own)[0] == 200
        assert server.ask("GET", f"/v1/samples/{job['id']}", headers=guest)[0] == 404
        assert server.ask("GET", "/v1/samples", headers=guest)[1] == {"data": []}


def test_another_address_wants_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from sfumato.cli import main

    (run,) = taken(tmp_path, "vectors")
    assert main(["serve", str(run), "--bind", "0.0.0.0", "--port", "0"]) == 1
    assert "--token" in capsys.readouterr().err
    assert main(["serve", str(tmp_path)]) == 1
    assert "not a run" in capsys.readouterr().err
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        assert main(["serve", str(run), "--port", str(busy.getsockname()[1])]) == 1
    assert "give another --port" in capsys.readouterr().err
