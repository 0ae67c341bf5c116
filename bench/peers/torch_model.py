"""A checkpoint in eager torch, as transformers' guides show it: no export, no compilation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class TorchModel:
    """Labels of texts, through a sequence classifier in fp32."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self._model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """`{"label", "score"}` of each text."""
        inputs = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        scores, best = self._model(**inputs).logits.softmax(dim=-1).max(dim=-1)
        names = self._model.config.id2label
        return [
            {"label": names[label], "score": score} for label, score in zip(best.tolist(), scores.tolist(), strict=True)
        ]
