"""The captioned network under its process: hidden, empty and absent words are one, and guidance is what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sfumato.diffusion import Denoiser, Gaussian, Linear, guide, hide, sample, uniform
from sfumato.diffusion.schedule import Shifted
from sfumato.errors import Wrong
from sfumato.fields.captions.network import Captioned
from sfumato.fields.captions.options import CaptionNetwork
from tests.networks.test_contract import shaken

TOKENS = torch.tensor([[3, 1, -1], [2, 7, 1], [-1, -1, -1]])
WORDS = {"caption": TOKENS, "caption_mask": TOKENS >= 0}
STATES = {"caption": torch.randn(3, 3, 5, generator=torch.Generator().manual_seed(3)), "caption_mask": TOKENS >= 0}
TOLD = {"own": WORDS, "own, in the mean": WORDS, "given states": STATES}


def denoiser(attention: str, told: str) -> Denoiser:
    torch.manual_seed(0)
    own: dict[str, Any] = {"context_dim": 5}
    if told.startswith("own"):
        own = {"vocab": 9, "context_dim": 32, "text_depth": 1, "summary": "mean" if "mean" in told else "first"}
    body = (
        {"body": "unet", "depth": 1, "width": 16}
        if attention == "unet"
        else {"attention": attention, "depth": 2, "width": 32}
    )
    network = shaken(Captioned(patch=4, **body, **own))
    return Denoiser(network.eval(), Gaussian(Linear(), "data", "velocity"))


every = pytest.mark.parametrize("told", TOLD)
both = pytest.mark.parametrize("attention", ["cross", "joint", "none", "unet"])
X, Z = torch.randn(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(1)).unbind(0)
T = torch.tensor(0.6)


@both
@every
def test_law_15_hidden_is_absent_is_empty(attention: str, told: str) -> None:
    guess, words = denoiser(attention, told), TOLD[told]
    hidden = hide(words)
    dropped = guess(X, T, **hidden).x
    assert torch.equal(dropped, guess(X, T, **hide(words, which=torch.ones(3, dtype=torch.bool))).x)
    torch.testing.assert_close(dropped, guess(X, T).x)  # called without words at all
    assert torch.equal(guide(guess, 0.0)(X, T, **words).x, dropped)
    torch.testing.assert_close(guess(X, T, **words).x[2], dropped[2])  # the empty caption in a batch of others
    if told.startswith("own"):  # its tokens are none, exactly as hidden ones
        nothing = {name: value[2:].expand(3, -1) for name, value in words.items()}
        assert all(torch.equal(nothing[name], hidden[name]) for name in nothing)
        assert torch.equal(guess(X, T, **nothing).x, dropped)


@both
@every
def test_guidance_of_one_is_plain_and_a_negative_like_the_prompt_pushes_nowhere(attention: str, told: str) -> None:
    guess, words = denoiser(attention, told), TOLD[told]
    times = uniform(Linear(), 4)
    plain = sample(guess, Z, times, **words)
    assert torch.equal(sample(guide(guess, 1.0), Z, times, **words), plain)
    for w in (0.5, 3.0):
        assert torch.equal(sample(guide(guess, w, instead=words), Z, times, **words), plain)
    other = {name: value.roll(1, 0) for name, value in words.items()}
    pushed = sample(guide(guess, 3.0, instead=other), Z, times, **words)
    assert (pushed - sample(guide(guess, 3.0), Z, times, **words)).abs().max() > 1e-3
    weak, strong = (guess(X, T, **each).x for each in (other, words))
    torch.testing.assert_close(guide(guess, 3.0, instead=other)(X, T, **words).x, weak + 3 * (strong - weak))


def test_the_mean_of_all_states_hears_words_before_anything_is_learned() -> None:
    """At the start no token looks at another: the first state is the same for all captions, the mean is not, and padding is no
    part of it."""
    heard = {}
    for summary in ("first", "mean"):
        torch.manual_seed(0)
        network = Captioned(width=32, depth=1, patch=4, vocab=9, context_dim=32, text_depth=1, summary=summary)
        heard[summary] = network.given(**WORDS)["vector"]
        longer = {
            name: torch.nn.functional.pad(value, (0, 4), value=fill)
            for (name, value), fill in zip(WORDS.items(), (-1, 0))
        }
        torch.testing.assert_close(network.given(**longer)["vector"], heard[summary])
    assert torch.equal(heard["first"][0], heard["first"][1])
    assert (heard["mean"][0] - heard["mean"][1]).abs().max() > 0.1


def test_without_attention_words_are_their_mean_alone() -> None:
    mask = torch.ones(3, 4, dtype=torch.bool)
    one = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2))
    other = one.mean(1, keepdim=True) + torch.tensor([1.0, -1, 2, -2])[:, None]
    for attention, alike in (("none", True), ("cross", False)):
        network = shaken(Captioned(width=32, depth=2, patch=4, context_dim=6, attention=attention)).eval()
        guess = Denoiser(network, Gaussian(Linear(), "data", "velocity"))
        first, second = (guess(X, T, caption=states, caption_mask=mask).x for states in (one, other))
        assert torch.allclose(first, second, atol=1e-4) == alike, attention


@every
def test_words_are_encoded_once_a_walk_and_side(told: str) -> None:
    guess, words = denoiser("cross", told), TOLD[told]
    network: Any = guess.network
    made, asked = network.given, []

    def counted(**condition: Any) -> Any:
        asked.append(condition)
        return made(**condition)

    network.given = counted
    sample(guide(guess, 2.0), Z, uniform(Linear(), 5), **words)
    assert len(asked) == 2


def test_what_does_not_fit_is_said() -> None:
    guess = denoiser("cross", "own")
    with pytest.raises(ValueError, match="a caption needs its caption_mask"):
        guess(X, T, caption=TOKENS)
    with pytest.raises(TypeError, match="label"):
        guess(X, T, **WORDS, label=torch.zeros(3))
    with pytest.raises(ValueError, match="attention is 'both', expected cross or joint"):
        Captioned(attention="both")
    with pytest.raises(ValueError, match="attention is 'joint', expected cross or none, of a U-Net"):
        Captioned(body="unet", attention="joint")
    with pytest.raises(Wrong, match="patch = 6: must be a multiple of 4, of a U-Net"):
        CaptionNetwork(body="unet", patch=6)


def test_a_shift_is_one_of_the_log_snr_for_training_and_sampling_alike() -> None:
    from pathlib import Path

    from sfumato.fields.captions.facts import CaptionFacts
    from sfumato.fields.captions.recipe import Captions

    facts = CaptionFacts(
        0.0, 1.0, 9, 1, 10, ((256, 256),), (1.0,), 32, 4.0, "own", 300, 0, 9, 9, 0.0, 5, 0, "x", ("a",), ""
    )
    recipe = Captions(Path("x"))
    shifted: Any = recipe.process(facts)
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    assert isinstance(shifted.schedule, Shifted)
    wanted = Linear().logsnr(t) - 2 * torch.log(torch.tensor(4.0, dtype=torch.float64))
    torch.testing.assert_close(shifted.schedule.logsnr(t), wanted)


def test_pure_noise_where_samples_begin_is_learned_from() -> None:
    """Else what is answered there is chance, and a grid measured on it puts most of its steps where no picture is."""
    from pathlib import Path

    from sfumato.fields.captions.recipe import Captions

    place = torch.linspace(0, 1, 20_002, dtype=torch.float64)[1:-1]
    times = Captions(Path("x")).learning().distribution()(place, Linear())
    assert float((times == 1).double().mean()) > 0.01
    assert float((times > 0.97).double().mean()) < 0.1  # what is learned from is still pictures
    assert float(times.min()) > 0.05  # below, the loss in velocity of answered data is rough, and learning was slower
