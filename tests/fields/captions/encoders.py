"""A small text encoder with random weights, in the usual layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from sfumato.networks import bert

SETTINGS = {"model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 24, "max_position_embeddings": 12, "type_vocab_size": 2, "hidden_act": "gelu"}  # fmt: skip
KNOWN = "[PAD] [CLS] [SEP] [UNK] a red blue hat on table two boots hats square left right the green yellow"


def encoder(path: Path) -> Path:
    """Its folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    path.mkdir(exist_ok=True)
    known = {word: i for i, word in enumerate(KNOWN.split())}
    tokenizer = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps(SETTINGS))
    torch.manual_seed(0)
    network = bert.Bert(**bert._settings(path))
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    extra = {"embeddings.position_ids": torch.arange(12)[None], "pooler.dense.bias": torch.zeros(16)}
    save_file({**network.state_dict(), **extra}, path / "model.safetensors")
    return path
