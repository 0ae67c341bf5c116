"""Question answering as the pipeline of transformers before 5.3 did it, over eager torch and FastAPI.

Written from its documentation: windows of at most 384 tokens that share 128, each run alone; a softmax over each window
by itself; the best spans of each window, of at most 15 tokens; the best of those by their score. transformers 5.3 took
the pipeline out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from bench.peers import order

MAX_LENGTH, DOC_STRIDE, MAX_QUESTION, MAX_ANSWER = 384, 128, 64, 15
"""The pipeline's defaults, in tokens."""


class Pipeline:
    """Answers of questions, window by window."""

    def __init__(self, checkpoint: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self._model = AutoModelForQuestionAnswering.from_pretrained(checkpoint).eval()
        positions = self._model.config.max_position_embeddings
        self._length = min(MAX_LENGTH, self._tokenizer.model_max_length, positions)
        self._stride = min(DOC_STRIDE, self._length // 2)

    @torch.inference_mode()
    def __call__(self, question: str, context: str) -> dict[str, Any]:
        """`{"score", "start", "end", "answer"}` of the best span."""
        asked = self._tokenizer(question, add_special_tokens=False, truncation=True, max_length=MAX_QUESTION)
        windows = self._tokenizer(
            self._tokenizer.decode(asked["input_ids"]) if len(asked["input_ids"]) == MAX_QUESTION else question,
            context,
            truncation="only_second",
            max_length=self._length,
            stride=self._stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )
        answers = []
        for i, ids in enumerate(windows["input_ids"]):
            types = windows["token_type_ids"][i]
            outputs = self._model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
            of_context = np.array([part == 1 for part in windows.sequence_ids(i)])
            score, first, last = best_span(
                outputs.start_logits[0].numpy(), outputs.end_logits[0].numpy(), of_context, MAX_ANSWER
            )
            offsets = windows["offset_mapping"][i]
            answers.append((score, offsets[first][0], offsets[last][1]))
        score, start, end = max(answers)
        return {"score": score, "start": start, "end": end, "answer": context[start:end]}


def best_span(
    start: NDArray[np.float32], end: NDArray[np.float32], allowed: NDArray[np.bool_], longest: int
) -> tuple[float, int, int]:
    """(score, first, last) of the best span of at most `longest` tokens in a window: the product of the two
    probabilities, each a softmax over the window, where tokens that are not allowed have none.

    Args:
        start, end: logits, [tokens].
        allowed: tokens of the context, [tokens].
    """
    products = np.outer(_softmax(start, allowed), _softmax(end, allowed))
    spans = np.tril(np.triu(products), longest - 1)
    first, last = divmod(int(spans.argmax()), len(end))
    return float(spans[first, last]), first, last


def _softmax(logits: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float32]:
    kept = np.where(allowed, logits, np.float32(-10_000))
    powers = np.exp(kept - kept.max())
    shares: NDArray[np.float32] = powers / powers.sum()
    return shares


class Body(BaseModel):
    """A request."""

    question: str
    context: str


def main() -> None:
    """Serves until it is stopped."""
    ordered = order.read()
    torch.set_num_threads(ordered.configuration.threads)
    answer = Pipeline(Path(ordered.checkpoint))
    app = FastAPI()

    @app.post("/qa")
    def qa(body: Body) -> dict[str, Any]:
        return answer(body.question, body.context)

    uvicorn.run(app, host="127.0.0.1", port=ordered.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
