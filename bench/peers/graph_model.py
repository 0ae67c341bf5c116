"""A bundle's graph as it would be run with tokenizers and ONNX Runtime, without Bertie.

Owns nothing that is not in those libraries' own guides: truncation and padding by the tokenizer, a default session with
the threads asked for. It shares no code with the service, so a mistake there cannot hide here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import tokenizers


class GraphModel:
    """Labels of texts, through the graph of a classification bundle."""

    def __init__(self, bundle: Path, threads: int) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        graphs = {graph["precision"]: graph["file"] for graph in manifest["graphs"]}
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            bundle / graphs.get("int8", next(iter(graphs.values()))), options, providers=["CPUExecutionProvider"]
        )
        self._labels = manifest["labels"]
        self._temperature = manifest.get("temperature", 1.0)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(bundle / "tokenizer.json"))
        self._tokenizer.enable_truncation(manifest["max_length"])
        self._tokenizer.enable_padding()

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """`{"label", "score"}` of each text."""
        encodings = self._tokenizer.encode_batch(list(texts))
        fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        inputs = {
            name: np.array([getattr(encoding, field) for encoding in encodings], dtype=np.int64)
            for name, field in fields.items()
        }
        logits = self._session.run(None, inputs)[0] / self._temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        best = probabilities.argmax(axis=1)
        return [
            {"label": self._labels[k], "score": float(row[k])}
            for row, k in zip(probabilities, best.tolist(), strict=True)
        ]
