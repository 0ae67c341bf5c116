"""A torch checkpoint of a bundle's shape, for the peers that run torch.

A bundle holds no weights that torch could read, so these are random: speed does not depend on their values. The labels
then mean nothing, and the table says so. `--checkpoint FOLDER` gives real ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification, PreTrainedTokenizerFast

from bench.errors import BenchError


def make(bundle: Path, folder: Path) -> Path:
    """Write a random BERT with the bundle's tokenizer, labels and shape to `folder` and return it.

    Raises:
        BenchError: the bundle is none of the bundled models' shape: what to build is not known.
    """
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    torch.manual_seed(0)
    labels = manifest["labels"]
    head: dict[str, Any] = {"num_labels": len(labels), "id2label": dict(enumerate(labels))} if labels else {}
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        **head,
    )
    kind = BertForQuestionAnswering if manifest["task"] == "span" else BertForSequenceClassification
    model = kind(config)
    if (made := model.num_parameters()) != manifest["parameters"]:
        raise BenchError(
            f"bundle {manifest['name']!r} has {manifest['parameters']:,} parameters, MiniLM-L6-H384 {made:,}: give its "
            "checkpoint with --checkpoint (of a QA bundle --qa-checkpoint)"
        )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=manifest["max_length"], pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    return folder
