"""Rows to logits: a torch model behind the service's `Engine`, and batches of rows of like length."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from service.engine.batch import Batch, Encoded, pad
from service.engine.session import Engine, OrtEngine
from service.tasks import RowLogits

BATCH_TOKENS = 4096


class TorchEngine:
    """A torch model behind the service's `Engine`.

    Args:
        precision: `fp32`, or `bf16` autocast.
    """

    def __init__(self, model: PreTrainedModel, precision: str = "fp32") -> None:
        self._model = model
        self._bf16 = precision == "bf16"
        self._choice = type(model).__name__.endswith("ForMultipleChoice")

    @torch.inference_mode()
    def run(self, batch: Batch) -> tuple[NDArray[np.float32], ...]:
        """Row logits, as the exported graph gives them."""
        device = self._model.device
        arguments = {
            "input_ids": torch.from_numpy(batch.input_ids).to(device),
            "attention_mask": torch.from_numpy(batch.attention_mask).to(device),
        }
        if getattr(self._model.config, "type_vocab_size", 0) > 1:
            arguments["token_type_ids"] = torch.from_numpy(batch.token_type_ids).to(device)
        if self._choice:  # it takes [questions, options, tokens]; here each row is a question with one option
            arguments = {name: rows.unsqueeze(1) for name, rows in arguments.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            output = self._model(**arguments)
        outputs = (output.logits,) if "logits" in output else (output.start_logits, output.end_logits)
        return tuple(logits.float().cpu().numpy() for logits in outputs)


def run_rows(engine: Engine, rows: Sequence[Encoded], pad_id: int, batch_tokens: int = BATCH_TOKENS) -> list[RowLogits]:
    """The logits of each row, in order; rows of like length run together, `engine.workers` batches at once."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    batches: list[list[int]] = []
    for i in order:
        if batches and len(rows[batches[-1][0]]) * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    logits: list[RowLogits] = [()] * len(rows)

    def run(batch: list[int]) -> None:
        outputs = engine.run(pad([rows[i] for i in batch], pad_id))
        for position, i in enumerate(batch):
            logits[i] = tuple(output[position] for output in outputs)

    with ThreadPoolExecutor(engine.workers if isinstance(engine, OrtEngine) else 1) as pool:
        list(pool.map(run, batches))
    return logits
