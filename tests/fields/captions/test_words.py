"""Words as tokens: nothing is unknown, and what says nothing is exactly what is hidden."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra sfumato[captions]")

from sfumato.diffusion import hide
from sfumato.errors import DataError
from sfumato.networks import bert
from sfumato.networks.bert import Encoder
from sfumato.networks.words import MINILM, Frozen, Words, chosen, read
from tests.fields.captions.encoders import SETTINGS, encoder

TEXTS = ["a red hat", "a blue hat on a table", "two red boots", "hats, hats, hats"]


@pytest.fixture(scope="module")
def words() -> Words:
    return Words.fit(TEXTS, 300, 77)


def test_a_caption_comes_back_from_its_tokens(words: Words) -> None:
    told = words.encode([*TEXTS, "Ünïcode 帽子 \U0001f3a9"])
    for text, row, mask in zip([*TEXTS, "Ünïcode 帽子 \U0001f3a9"], told["caption"], told["caption_mask"]):
        assert (row >= 0).tolist() == mask.tolist()
        said = words.vocabulary.decode(row[mask]).decode()
        assert said.strip() == text.lower() or len(row) == mask.sum()
    assert told["caption"].shape == (5, words.length)


def test_capitals_and_places_change_no_word(words: Words) -> None:
    """The first word of a caption is the word that it is elsewhere."""
    one, two = words.encode(["Hat red", "red HAT"])["caption"]
    assert sorted(one.tolist()) == sorted(two.tolist())


def test_nothing_said_is_what_hiding_leaves(words: Words) -> None:
    """Law 15: an empty caption, one dropped in training, and the weak side of guidance are the same to the bit."""
    told = {name: torch.from_numpy(value) for name, value in words.encode(["", "a red hat"]).items()}
    hidden = hide(told)
    for name, value in told.items():
        assert torch.equal(value[0], hidden[name][1])
    assert not bool(told["caption_mask"][0].any())
    assert words.encode(["  "[:0]])["caption"].max() == -1


def test_long_captions_are_cut_at_a_word() -> None:
    words = Words.fit(TEXTS, 256, 9)  # bytes alone, so that the ninth token is within a word
    (row,), lengths = words.tokens(["a blue hat on a table of boots"])
    assert words.vocabulary.decode(row[row >= 0]) == b" a blue"
    assert lengths[0] == 31
    unbroken, _ = words.tokens(["h" * 500])
    assert (unbroken >= 0).all()


def test_the_choice_is_refused_where_there_is_nothing_to_read() -> None:
    with pytest.raises(DataError, match="all captions are empty"):
        chosen("auto", ["", ""], 300, 77, 0)
    with pytest.raises(DataError, match=r"elmo: holds no config\.json; expected a folder"):
        chosen("elmo", TEXTS, 300, 77, 9)
    assert chosen("auto", TEXTS, 300, 77, 9)[0].name == "own"


def test_what_is_kept_is_what_is_encoded(words: Words, tmp_path) -> None:
    longest, cut = words.write(TEXTS, tmp_path)
    told = read(tmp_path, len(TEXTS)).batch(np.array([2, 0]))
    wanted = words.encode([TEXTS[2], TEXTS[0]])
    assert all(np.array_equal(told[name], wanted[name]) for name in wanted)
    assert longest == words.length
    assert cut == 0
    with pytest.raises(ValueError, match="rows for 5 captions"):
        read(tmp_path, 5)
    words.save(tmp_path)
    assert np.array_equal(Words.load(tmp_path, words.length).encode(TEXTS)["caption"], words.encode(TEXTS)["caption"])


# ---- encoders that are not trained ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("encoder"))


def test_given_states_are_those_of_the_transformer_by_its_formula(folder: Path) -> None:
    """The encoder against its equations written out with einsum, one text at a time."""
    encoder = Encoder.load(folder)
    weights = encoder.network.state_dict()

    def linear(h: Any, name: str) -> Any:
        return h @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(h: Any, name: str) -> Any:
        h = h - h.mean(-1, keepdim=True)
        return (
            h / (h.square().mean(-1, keepdim=True) + 1e-12).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]
        )

    tokens = torch.tensor([1, 4, 5, 7, 2])
    h = weights["embeddings.word_embeddings.weight"][tokens] + weights["embeddings.position_embeddings.weight"][:5]
    h = norm(h + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(2):
        at = f"encoder.layer.{i}."
        q, k, v = (linear(h, f"{at}attention.self.{name}").view(5, 4, 4) for name in ("query", "key", "value"))
        shares = (torch.einsum("nhd,shd->hns", q, k) / 2).softmax(-1)
        mixed = torch.einsum("hns,shd->nhd", shares, v).reshape(5, 16)
        h = norm(h + linear(mixed, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        inner = linear(h, f"{at}intermediate.dense")
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        h = norm(h + linear(inner, f"{at}output.dense"), f"{at}output.LayerNorm")
    found = encoder.states(["two red boots on a table", "A red hat"], 12)
    torch.testing.assert_close(found[1], h, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.states(["a red hat"], 12)[0], found[1], rtol=1e-4, atol=1e-5)


def test_given_states_are_kept_and_nothing_said_is_hidden(folder: Path, tmp_path: Path) -> None:
    frozen = Frozen.load(str(folder), 6)
    texts = ["a red hat", "", "a red hat", "two red boots on a table"]
    told = {name: torch.from_numpy(value) for name, value in frozen.encode(texts).items()}
    assert told["caption"].shape == (4, 6, 16)
    assert told["caption_mask"].sum(1).tolist() == [5, 0, 5, 6]
    hidden = hide(told)
    assert all(torch.equal(value[1], hidden[name][0]) for name, value in told.items())
    for text, row in zip(texts, told["caption"]):  # to the bit: pictures are made again from one prompt of a list
        assert np.array_equal(frozen.encode([text])["caption"][0], row.numpy())
    longest, cut = frozen.write(texts, tmp_path)
    assert (longest, cut) == (8, 1 / 4)
    assert chosen(str(folder), texts, 300, 77, 9)[0].length == 8  # no longer than the longest
    kept = read(tmp_path, 4).batch(np.array([3, 0]))
    np.testing.assert_allclose(kept["caption"], told["caption"][[3, 0]].numpy(), rtol=2e-3, atol=2e-3)
    assert np.array_equal(kept["caption_mask"], told["caption_mask"][[3, 0]].numpy())
    with pytest.raises(ValueError, match="rows for 5 captions"):
        read(tmp_path, 5)
    with pytest.raises(DataError, match="its weights are not those of the encoder that the run learned with"):
        Frozen.load(str(folder), 6, "0" * 64)


def test_a_folder_that_is_no_encoder_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    def with_(**changed: Any) -> Path:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(folder, place)
        (place / "config.json").write_text(json.dumps({**SETTINGS, **changed}))
        return place

    for changed, said in (
        ({"model_type": "t5"}, "is of the kind 't5'; encoders of the kind 'bert'"),
        ({"hidden_size": 15}, "describes no encoder"),
        ({"position_embedding_type": "relative_key"}, "has relative positions"),
        ({"num_hidden_layers": 3}, r"its tensors are not those that config\.json describes"),
    ):
        with pytest.raises(DataError, match=said):
            Encoder.load(with_(**changed))
    place = with_()
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"file not found.*a pickle, which may hold code: save it as safetensors"):
        Encoder.load(place)
    (place / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is no file of tensors"):
        Encoder.load(place)


def test_the_packaged_encoder_knows_what_is_alike() -> None:
    """MiniLM's own promise: means of its states lie nearer for texts of one meaning."""
    if bert.packaged() is None:
        pytest.skip(f"needs the package {bert.PACKAGE}")
    frozen = Frozen.load(MINILM, 32)
    states = frozen.encode(["a man eats food", "someone is having a meal", "the stock market fell"])
    means = [state[mask].mean(0) for state, mask in zip(states["caption"], states["caption_mask"])]
    one, two, other = (mean / np.linalg.norm(mean) for mean in means)
    assert one @ two > one @ other + 0.2
