"""Rows joined and parted: what a solver remembers, and the streams that each goes on with."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.diffusion import Denoiser, Gaussian, during, guide
from sfumato.diffusion.flow_solvers import Node
from sfumato.diffusion.paths import Endpoints
from sfumato.diffusion.rng import Streams, key
from sfumato.jobs.walk import Plain
from sfumato.serving.guess import ByRow
from sfumato.serving.rows import Together, form, joined, taken
from tests.serving.small import close


@pytest.mark.parametrize("counted", [False, True])
def test_streams_joined_go_on_where_each_of_them_stands(counted: bool):
    """Also those that are counted, as on a GPU: one that has drawn before draws its next numbers, whoever is beside it."""

    def opened() -> list[Streams]:
        return [Streams(key("sample", 0), [i], counted=counted) for i in range(4)]

    alone, together = opened(), opened()
    for which in (1, 3, 3):
        alone[which].normal((1, 5))
        together[which].normal((1, 5))
    both = Together(together)
    for draw in ("normal", "uniform", "normal"):
        found = getattr(both, draw)((4, 5))
        assert torch.equal(found, torch.cat([getattr(each, draw)((1, 5)) for each in alone]))
    after = Together(together[2:])  # and once others have left
    assert torch.equal(after.normal((2, 5)), torch.cat([each.normal((1, 5)) for each in alone[2:]]))


def test_memories_of_one_form_are_joined_and_parted():
    def memory(i: int) -> Any:
        t = torch.full((1,), float(i))
        return (
            None,
            (Node(t, Endpoints(torch.full((1, 3), i), torch.full((1, 3), -i))), Node(t + 1, Endpoints(t, t))),
            5,
        )

    parts = [memory(i) for i in range(3)]
    assert len({form(each) for each in parts}) == 1
    whole = joined(parts)
    assert isinstance(whole[1][0], Node)
    assert whole[1][0].ends.x.tolist() == [[0] * 3, [1] * 3, [2] * 3]
    assert form(taken(whole, slice(1, 2))) == form(parts[1])
    assert taken(whole, slice(2, 3))[1][1].t.tolist() == [3.0]
    assert form(parts[0]) != form((None, (), 5))
    assert form((None, 4)) != form((None, 5))


def test_each_token_is_guided_at_its_own_time():
    """Call after call by one guess, where now some tokens of a row are within its interval, now all and now none: also of
    strength 0, where those outside are on their strong side and all those inside on their weak one alone."""

    class Network:
        def given(self, **condition: Any) -> dict[str, Any]:
            return condition

        def __call__(self, shown: Any, level: Any, **condition: Any) -> Any:
            return torch.tanh(shown + level[..., None] + condition["mean"][:, None])

    model: Any = Denoiser(Network(), Gaussian())
    means, hidden = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[-1.0], [-2.0]])
    w, low, high = (torch.tensor(each, dtype=torch.float64) for each in ([0.0, 3.0, 1.0], [0.2] * 3, [0.6] * 3))
    rows: list[int] = []
    guess = ByRow(model, {"mean": means}, {"mean": hidden}, torch.tensor([True, True, False]), w, low, high,
                  lambda said, w: Plain().around(said, w, (), None), rows.append)  # fmt: skip
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    for times in ([0.9, 0.4], [0.5, 0.3], [0.5, 0.9], [0.9, 0.7], [0.3, 0.3]):
        t = torch.tensor([times] * 3, dtype=torch.float64)
        found = guess(x, t)
        for i in range(3):
            one = slice(i, i + 1)
            alone: Any = model
            if i < 2:
                alone = during(guide(model, float(w[i]), instead={"mean": hidden[one]}), 0.2, 0.6)
            assert close(alone(x[one], t[one], mean=means[one]).x, found.x[one], 1e-6), (times, i)
    assert rows == [5, 4, 5, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("field", ["text", "tables"])
def test_fields_of_tokens_and_of_parts_are_drawn_as_offline(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With what is known, block after block, drawn again until it meets a condition, written on beyond the window: by several
    at once, in one engine, as alone."""
    import dataclasses

    from sfumato.cli import main
    from sfumato.diffusion import tree
    from sfumato.jobs.model import load
    from sfumato.jobs.walk import Drawing
    from sfumato.serving.engine import Engine
    from sfumato.serving.served import Asker, Served

    monkeypatch.chdir(tmp_path)
    if field == "tables":
        lines = [f"{20 + i % 50},{('Rome', 'Oslo')[i % 2]},{i * 7 % 100 / 10}" for i in range(200)]
        Path("data.csv").write_text("\n".join(["age,city,size", *lines]) + "\n")
        more = ["data.csv"]
        asks: list[dict[str, Any]] = [{}, {"where": "city = 'Rome'"}, {"where": "age > 40"}]
    else:
        Path("data").mkdir()
        for i in range(12):
            Path(f"data/{i}.txt").write_text(f"the {i} cats sat on the mats of the {i} houses. " * 30)
        more = ["data", "--vocab", "300", "--window", "16", "--network.width", "32", "--network.depth", "1"]
        asks = [{}, {"prompt": "the 3 cats"}, {"block": 4}, {"length": 30, "temperature": 1.0}]
    assert main(["train", field, *more, "--steps", "8", "--threads", "1", "--out", "run", "--previews", "0"]) == 0
    engine = Engine(lambda model: 5)
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    model = load("run")
    found: dict[int, Any] = {}
    wanted: dict[int, Any] = {}

    @torch.no_grad()
    def drawn(of: Any, i: int) -> Any:
        asked = dataclasses.replace(of, drawing=Drawing(i))
        queries = asked.recipe.queries(asked, asked.recipe.Ask(**asks[i]), 6)
        return tree.join(*(part.x for part in asked.recipe.draw(asked, queries, range(6))))

    def one(i: int) -> None:
        found[i] = drawn(Served.of(model, engine, Asker()), i)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(asks))]
    for each in threads:
        each.start()
    for each in threads:
        each.join(120)
    for i in range(len(asks)):
        wanted[i] = drawn(model, i)
        assert close(found[i], wanted[i], 1e-4), asks[i]
    assert max(engine.counts.sizes) > 1
    engine.stop()
    thread.join(20)
