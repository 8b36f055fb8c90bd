"""What depends on the conditions alone is worked out once a walk, after hiding (law 15), and handed through every wrapper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.diffusion import (
    Blanks,
    Clean,
    Denoiser,
    Gaussian,
    Linear,
    Masked,
    Product,
    SelfConditioned,
    Streams,
    ab,
    apg,
    auto,
    autoguide,
    clip,
    during,
    generate,
    guide,
    heun,
    infill,
    inpaint,
    key,
    loss,
    remember,
    sample,
    steer,
    tree,
    uniform,
)
from sfumato.diffusion.process import Endpoints
from sfumato.diffusion.sample import Bound, Euler
from tests.laws.worlds import F64, normal, scalar

ROWS, WIDTH = 4, 3
LABEL = torch.tensor([1, 2, 0, 3])
TEXT = {"tokens": torch.tensor([[3, 1], [2, 2], [5, 0], [1, 4]]), "mask": torch.tensor([[True, False]] * ROWS)}
CONDITION: dict[str, Any] = {"label": LABEL, "style": normal(ROWS, WIDTH, seed=8), "text": TEXT}
X, T = normal(ROWS, WIDTH), scalar(0.6)


def shift(label: Tensor, style: Tensor, text: Any) -> Tensor:
    """What the conditions make of an answer: (B, 1)."""
    heard = (text["tokens"] * text["mask"]).sum(1)
    return (0.3 * label + 0.1 * heard + style.sum(1))[:, None].to(F64)


class Plain(nn.Module):
    """Is called with the conditions."""

    def forward(
        self, shown: Tensor, level: Tensor, label: Tensor, style: Tensor, text: Any, previous: Any = None
    ) -> Tensor:
        told = 0 if previous is None else 0.1 * previous
        return torch.sin(shown + level[:, None] + shift(label, style, text) + told)


class Encoding(nn.Module):
    """Makes something of the conditions first, and keeps what it was given to do so."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []
        self.told: list[bool] = []

    def given(self, label: Tensor, style: Tensor, text: Any) -> dict[str, Tensor]:
        self.seen.append({"label": label, "style": style, "text": text})
        return {"push": shift(label, style, text)}

    def forward(self, shown: Tensor, level: Tensor, push: Tensor, previous: Any = None) -> Tensor:
        self.told.append(previous is not None)
        told = 0 if previous is None else 0.1 * previous
        return torch.sin(shown + level[:, None] + push + told)


PROCESS = Gaussian(Linear(), "data")


def encoding() -> tuple[Encoding, Denoiser]:
    network = Encoding()
    return network, Denoiser(network, PROCESS)


WRAPPERS: dict[str, Any] = {  # name -> (wrapper, how often what is given is worked out, once for each side)
    "bare": (lambda d: d, 1),
    "guide": (lambda d: guide(d, 2.5), 2),
    "guide by label": (lambda d: guide(d, 2.5, ["label"]), 2),
    "guide by row": (lambda d: guide(d, torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=F64)), 2),
    "autoguide": (lambda d: autoguide(d, Denoiser(d.network, PROCESS), 1.5), 2),
    "during": (lambda d: during(guide(d, 2.5), 0.3, 0.7), 2),
    "during autoguide": (lambda d: during(autoguide(d, d, 1.5), 0.3, 0.7), 2),
    "apg": (lambda d: apg(d, 2.0, 0.2, 5.0), 2),
    "during apg": (lambda d: during(apg(d, 2.0, 0.2), 0.3, 0.7), 2),
    "clip": (lambda d: clip(d, -0.8, 0.8), 1),
    "inpaint": (lambda d: inpaint(d, normal(ROWS, WIDTH, seed=3), torch.tensor([True, False, False])), 1),
    "clip of guide": (lambda d: clip(guide(d, 2.5), -0.8, 0.8), 2),
    "guide in guide": (lambda d: guide(guide(d, 1.5, ["label"]), 0.7, ["style"]), 4),
    "guide of clip": (lambda d: guide(clip(d, -0.8, 0.8), 2.5), 2),
    "inpaint of during": (lambda d: inpaint(during(guide(d, 2.0), 0.2, 0.9), X, torch.tensor([False, True, False])), 2),
}
every_wrapper = pytest.mark.parametrize("name", WRAPPERS)


def same(a: Endpoints, b: Endpoints) -> bool:
    return all(torch.allclose(p, q, rtol=1e-12, atol=1e-12) for p, q in zip(a, b, strict=True))


@every_wrapper
def test_a_walk_asks_once_for_each_side(name: str) -> None:
    wrap, sides = WRAPPERS[name]
    network, denoiser = encoding()
    end = sample(wrap(denoiser), X, uniform(Linear(), 7), **CONDITION)
    assert len(network.seen) == sides
    plain = sample(wrap(Denoiser(Plain(), PROCESS)), X, uniform(Linear(), 7), **CONDITION)
    assert torch.allclose(end, plain, rtol=1e-12, atol=1e-12)


@every_wrapper
@pytest.mark.parametrize("time", [0.9, 0.5, 0.1])
def test_a_bare_call_is_right_too(name: str, time: float) -> None:
    """With what is given or without, of an encoding network or a plain one: one guess."""
    wrap, _ = WRAPPERS[name]
    _, denoiser = encoding()
    guess, plain, t = wrap(denoiser), wrap(Denoiser(Plain(), PROCESS)), scalar(time)
    bare = guess(X, t, **CONDITION)
    told = guess(X, t, given=guess.given(**CONDITION))
    assert same(bare, told)
    assert same(bare, plain(X, t, **CONDITION))
    assert same(bare, Bound.of(guess, CONDITION)(X, t))
    none = {**CONDITION, "label": torch.full_like(LABEL, 2)}
    assert not same(bare, guess(X, t, **none))  # it does listen


@every_wrapper
def test_what_stands_beside_the_conditions_reaches_the_network(name: str) -> None:
    """``previous`` of ``remember``: told beside what is given, and never hidden with it."""
    wrap, sides = WRAPPERS[name]
    network, denoiser = encoding()
    end = sample(wrap(denoiser), X, uniform(Linear(), 7), remember(Euler()), **CONDITION)
    assert len(network.seen) == sides
    assert all(network.told)
    assert len(network.told) >= 7
    plain = sample(wrap(Denoiser(Plain(), PROCESS)), X, uniform(Linear(), 7), remember(Euler()), **CONDITION)
    assert torch.allclose(end, plain, rtol=1e-12, atol=1e-12)
    assert (end - sample(wrap(denoiser), X, uniform(Linear(), 7), **CONDITION)).abs().max() > 1e-3


def test_solvers_grids_and_generate_ask_once() -> None:
    for solver in (heun(), ab(4), remember(ab(2))):
        network, denoiser = encoding()
        sample(denoiser, X, uniform(Linear(), 6), solver, **CONDITION)
        assert len(network.seen) == 1
    network, denoiser = encoding()
    auto(denoiser, X, points=12, **CONDITION)
    assert len(network.seen) == 1
    network, denoiser = encoding()
    equal = tree.each(lambda v: v[:1].expand(ROWS, *v.shape[1:]), CONDITION)
    steer(denoiser, X, uniform(Linear(), 5), lambda x, t: x[:, 0], rng=torch.Generator().manual_seed(0), **equal)
    assert len(network.seen) == 1
    network, denoiser = encoding()
    list(generate(denoiser, Blanks(torch.zeros(WIDTH), 6, CONDITION), range(6), batch=4))
    assert len(network.seen) == 2  # two batches


def test_training_may_be_given_it() -> None:
    """The loss with what is given is the loss with the conditions; self-conditioning passes it on, once."""
    t = torch.linspace(0.2, 0.8, ROWS, dtype=F64)
    network, denoiser = encoding()
    wanted = loss(denoiser, X, t, Streams(key("z"), range(ROWS)), **CONDITION)
    given = denoiser.given(**CONDITION)
    network.seen.clear()
    assert torch.equal(loss(denoiser, X, t, Streams(key("z"), range(ROWS)), given=given), wanted)
    assert network.seen == []
    for share in (0.0, 0.5, 1.0):
        found = []
        for net in (Plain(), network):
            conditioned = SelfConditioned(Denoiser(net, PROCESS), share, Streams(key("who"), range(ROWS)))
            found.append(loss(conditioned, X, t, Streams(key("z"), range(ROWS)), **CONDITION))  # type: ignore[arg-type]
        assert torch.allclose(*found, rtol=1e-12)
        assert len(network.seen) == 1
        network.seen.clear()
        conditioned = SelfConditioned(denoiser, share, Streams(key("who"), range(ROWS)))
        assert torch.equal(conditioned.given(**CONDITION)["push"], given["push"])
        network.seen.clear()
        told = loss(conditioned, X, t, Streams(key("z"), range(ROWS)), given=given)  # type: ignore[arg-type]
        assert torch.equal(told, found[1])
        assert network.seen == []


def test_tokens_are_filled_in_with_what_is_given() -> None:
    """``infill``, and a guided one: the known tokens stand, and the network is asked once for each side."""

    class Writer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.asked = 0

        def given(self, label: Tensor) -> dict[str, Tensor]:
            self.asked += 1
            return {"push": label[:, None, None].double()}

        def forward(self, shown: Tensor, level: Tensor, push: Tensor) -> Tensor:
            return torch.cos(push * torch.arange(5, dtype=F64) + shown[..., None])

    known, where = torch.zeros(1, 6, dtype=torch.int64), torch.tensor([[True, False, False, True, False, False]])
    for wrap, sides in ((lambda d: d, 1), (lambda d: guide(d, 2.0), 2)):
        network = Writer()
        filled = infill(wrap(Denoiser(network, Masked(5))), known, where)
        z = filled.process.prior(torch.zeros(ROWS, 6, dtype=torch.int64), Streams(key("z"), range(ROWS)))
        end = sample(filled, z, uniform(Linear(), 5), rng=Streams(key("w"), range(ROWS)), label=LABEL)
        assert network.asked == sides
        assert bool((end[:, where[0]] == 0).all())
        bare = filled(filled.process.start(z), T, label=LABEL)
        assert same(bare, filled(filled.process.start(z), T, given=filled.given(label=LABEL)))


def test_a_network_without_conditions_is_called_with_none() -> None:
    denoiser = Denoiser(lambda shown, level: shown.sin(), PROCESS)
    assert denoiser.given() == {}
    assert same(denoiser(X, T), denoiser(X, T, given={}))


def test_misspelt_conditions_are_not_swallowed() -> None:
    for network in (Plain(), Encoding()):
        with pytest.raises(TypeError, match="lable"):
            sample(Denoiser(network, PROCESS), X, uniform(Linear(), 3), lable=LABEL, style=LABEL, text=LABEL)
        guess = Denoiser(network, PROCESS)
        given = guess.given(**CONDITION)
        with pytest.raises(TypeError, match="previus"):
            guess(X, T, given=given, previus=X)


# ---- law 15 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", [None, ["label"], ["style"], ["text"], ["label", "text"]])
@pytest.mark.parametrize(
    "wrap", [guide, lambda d, w, drop: during(guide(d, w, drop), 0.0, 1.0)], ids=["guide", "during"]
)
def test_law_15_hidden_in_training_is_absent_in_guidance(wrap: Any, drop: Any) -> None:
    """For labels, float embeddings, masks and nested trees: the weak side is given, bit by bit, what training hides."""
    network, denoiser = encoding()
    training = tree.hide(CONDITION, drop, torch.ones(ROWS, dtype=torch.bool))
    for walked in (True, False):
        network.seen.clear()
        guided = wrap(denoiser, 3.0, drop)
        if walked:
            sample(guided, X, uniform(Linear(), 3), **CONDITION)
        else:
            guided(X, T, **CONDITION)
        sides = sorted(network.seen, key=lambda seen: exact(seen, CONDITION))
        assert len(sides) == 2
        assert exact(sides[0], training)
        assert exact(sides[1], CONDITION)
    assert exact(training, tree.hide(CONDITION, drop))
    blank = training["text"]
    if drop is None or "text" in drop:
        assert blank["tokens"].unique().tolist() == [-1]
        assert not bool(blank["mask"].any())


@pytest.mark.parametrize("limited", [False, True])
def test_the_weak_side_may_be_given_conditions_of_its_own(limited: bool) -> None:
    """A negative prompt: the weak side hears it instead of nothing, in one encoding a walk; like the prompt it pushes nowhere."""
    other = tree.each(lambda v: v.roll(1, 0), CONDITION)
    network, denoiser = encoding()

    def led(w: float, **instead: Any) -> Any:
        guided = guide(denoiser, w, ["text", "label"], instead)
        return during(guided, 0.0, 1.0) if limited else guided

    sample(led(3.0, text=other["text"]), X, uniform(Linear(), 3), **CONDITION)
    assert len(network.seen) == 2
    weak = network.seen[1]
    assert exact(weak["text"], other["text"])
    assert weak["label"].unique().tolist() == [-1]
    assert exact(weak["style"], CONDITION["style"])
    guess = led(3.0, text=other["text"])
    assert same(guess(X, T, **CONDITION), guess(X, T, given=guess.given(**CONDITION)))
    plain = denoiser(X, T, **CONDITION)
    assert same(led(3.0, text=TEXT, label=LABEL)(X, T, **CONDITION), plain)
    assert not same(guess(X, T, **CONDITION), plain)


def test_law_15_apg_hides_all_and_autoguidance_nothing() -> None:
    network, denoiser = encoding()
    sample(apg(denoiser, 2.0), X, uniform(Linear(), 3), **CONDITION)
    assert exact(network.seen[0], CONDITION)
    assert exact(network.seen[1], tree.hide(CONDITION))
    network.seen.clear()
    sample(autoguide(denoiser, denoiser, 2.0), X, uniform(Linear(), 3), **CONDITION)
    assert all(exact(seen, CONDITION) for seen in network.seen)


def exact(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(exact(one[name], two[name]) for name in one)
    return one.dtype == two.dtype and torch.equal(one, two)


# ---- during, by row, by place and by part ------------------------------------------------------------------------------


def test_during_by_token_and_by_part() -> None:
    """A guess of tokens has one axis more than they have; a product's times are a dict. Each is guided at its own time."""
    process = Product(words=Masked(4), place=Gaussian(Linear(), "data"), mark=Clean())
    x = {"words": torch.randint(4, (2, 2)), "place": normal(2, 2), "mark": torch.arange(2)}

    def network(shown: Any, level: Any, label: Tensor) -> Any:
        push = label.double()[:, None]
        return {"words": push[..., None] * torch.arange(4, dtype=F64) + 0 * shown["words"][..., None],
                "place": shown["place"] + push}  # fmt: skip

    label = torch.tensor([1, 2])
    base = Denoiser(network, process)
    whole, limited = guide(base, 3.0), during(guide(base, 3.0), 0.4, 0.6)
    x_t = process.start(process.prior(x, Streams(key("z"), range(2))))
    times: dict[str, Any] = {
        "by row": torch.tensor([0.5, 0.9], dtype=F64),
        "by place": torch.tensor([[0.5, 0.9], [0.1, 0.5]], dtype=F64),
        "by part": {"words": scalar(0.5), "place": torch.tensor([0.9, 0.5], dtype=F64)},
    }
    for name, t in times.items():
        found, guided, plain = (guess(x_t, t, label=label) for guess in (limited, whole, base))
        for part in ("words", "place"):
            own = t[part] if isinstance(t, dict) else t
            inside = ((own >= 0.4) & (own <= 0.6)).expand(2, *own.shape[1:]) if own.ndim else (own == 0.5).expand(2)
            for end in (0, 1):
                yes, no, mine = (ends[end][part] for ends in (guided, plain, found))
                for place in torch.cartesian_prod(*map(torch.arange, inside.shape)).reshape(-1, inside.ndim):
                    at = tuple(place.tolist())
                    assert torch.equal(mine[at], (yes if inside[at] else no)[at]), (name, part)
        assert torch.equal(found.x["mark"], x["mark"])


def test_what_guidance_cannot_do_is_said() -> None:
    tokens = Denoiser(lambda shown, level, label: shown, Masked(4))
    for who, wrap in (
        ("apg", lambda d: apg(d, 2.0)),
        ("clip", lambda d: clip(d, -1, 1)),
        ("inpaint", lambda d: inpaint(d, X, X > 0)),
    ):
        with pytest.raises(ValueError, match=f"{who} works on vectors, and the states of Masked are tokens"):
            wrap(tokens)
    with pytest.raises(ValueError, match="auto is measured on vectors, and the states of Masked are tokens"):
        auto(tokens, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"during limits a guidance, not Clip.*clip\(during"):
        during(clip(guide(encoding()[1], 2.0), -1, 1), 0.2, 0.8)
