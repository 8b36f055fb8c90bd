"""Who is told of the end of a request, how it is signed, and who is never told."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi")

from sfumato.serving.hooks import Hooks, key_of, signed
from sfumato.serving.problem import Problem

KEY = b"0123456789abcdef01234567"


@contextmanager
def listener(*codes: int, **headers: str) -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    """A server that answers with these codes, one after the other, the last for ever; its address and what it was told."""
    heard: list[tuple[str, dict[str, str], bytes]] = []

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            heard.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(codes[min(len(heard), len(codes)) - 1])
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ear) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/done?of=me", heard
        server.shutdown()
        thread.join()


def test_the_signature_is_that_of_the_standards_own_example():
    """Key, message and signature as Standard Webhooks (and Svix, whose scheme it was) print them."""
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    found = signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("text", ["", "short", "whsec_c2hvcnQ=", "whsec_no base64 at all, whatever it is"])
def test_a_key_that_is_none_is_refused(text: str):
    with pytest.raises(ValueError, match="must hold"):
        key_of(text)


ELSEWHERE = [
    "http://evil.example/x", "https://hooks.example.evil.example/", "http://hooks.example@evil.example/", "ftp://hooks.example/",
    "//hooks.example/x", "file:///etc/passwd", "http://", "http://hooks.example:port/", "http://u:p@hooks.example/", "",
    "http://hooks.example/a b", "http://hooks.example/\r\nX: y", "http://169.254.169.254/latest", "http://[::1", "x" * 3000,
    "http://hooks.example/" + "x" * 2000, "http://10.0.0.1/", "http://localhost.evil.example/",
]  # fmt: skip


@pytest.mark.parametrize("url", ELSEWHERE)
def test_nobody_is_told_who_was_not_allowed(url: str):
    with pytest.raises(Problem) as found:
        Hooks(KEY, ("hooks.example",)).check(url)
    assert (found.value.status, found.value.field) == (422, "webhook_url")


def test_who_is_allowed_is_told():
    hooks = Hooks(KEY, ("hooks.example",))
    for url in ("https://hooks.example/x?y=1", "http://HOOKS.example:8080", "http://127.0.0.1:9/x", "http://localhost/x",
                "http://[::1]:5/"):  # fmt: skip
        hooks.check(url)
    with pytest.raises(
        Problem, match="is not told"
    ):  # where others come in, this machine is not open to them through us
        Hooks(KEY, ("hooks.example",), loopback=False).check("http://127.0.0.1:9/x")
    with pytest.raises(Problem, match="without --webhook-key"):
        Hooks().check("http://localhost/x")


def test_who_does_not_take_it_is_told_again_three_times_in_all():
    with listener(500, 503, 200) as (url, heard):
        assert asyncio.run(Hooks(KEY, wait=0.01).tell(url, "a1", {"type": "samples.done"}))
    assert [path for path, _, _ in heard] == ["/done?of=me"] * 3
    with listener(500) as (url, heard):
        hooks = Hooks(KEY, wait=0.01)
        assert not asyncio.run(hooks.tell(url, "a1", {"type": "samples.done"}))
    assert len(heard) == 3
    assert hooks.told == {"lost": 1}
    assert not asyncio.run(Hooks(KEY, wait=0.01).tell(url, "a1", {}))  # nobody listens there any more


def test_nobody_is_led_elsewhere():
    with listener(200) as (other, elsewhere), listener(307, Location=other) as (url, heard):
        assert not asyncio.run(Hooks(KEY, wait=0.01).tell(url, "a1", {}))
    assert len(heard) == 3
    assert elsewhere == []


def test_what_is_told_is_what_was_signed():
    with listener(200) as (url, heard):
        assert asyncio.run(Hooks(KEY).tell(url, "a1", {"type": "samples.done", "data": {"id": "a1", "why": "ä"}}))
    _, headers, body = heard[0]
    assert json.loads(body)["data"]["why"] == "ä"
    seconds, right = int(headers["webhook-timestamp"]), headers["webhook-signature"]
    assert headers["webhook-id"] == "a1"
    assert signed(KEY, "a1", seconds, body)["webhook-signature"] == right
    for key, number, when, text in ((KEY[1:], "a1", seconds, body), (KEY, "a2", seconds, body), (KEY, "a1", seconds + 1, body),
                                    (KEY, "a1", seconds, body + b" ")):  # fmt: skip
        assert signed(key, number, when, text)["webhook-signature"] != right
