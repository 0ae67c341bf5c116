"""The whole service against its session: requests of 32 rows over HTTP, a classifier of any shape behind them.

Owns the bundle that is made for it (random weights, a vocabulary of numbered words, so that a text has as many tokens
as is wanted) and the load. Measures no session: `bench.gpu_check` does, and sets the two side by side.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from pathlib import Path

import tokenizers
import uvloop
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bench import client, serving
from bench.errors import BenchError
from training.export import runner as export

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROWS = 32
"""Of a request."""
CONNECTIONS = 8
"""Enough rows in flight for full batches on a GPU, and not more than the queue admits."""


def bundle(model: PreTrainedModel, folder: Path, precision: str, tokens: int, *, packed: bool = False) -> Path:
    """Export `model` as training does, gate and all, and get the bundle's folder, which is alone in its parent."""
    checkpoint = folder / "checkpoint"
    model.save_pretrained(checkpoint)
    words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), model.config.vocab_size))]
    backend = tokenizers.Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = BertPreTokenizer()  # it cuts "[PAD]" in three: a text must not name a special token
    backend.add_special_tokens(list(SPECIAL))
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(checkpoint)  # fmt: skip
    labels = tuple(f"kind {chr(ord('a') + i)}" for i in range(int(model.config.num_labels or 0)))
    path = folder / "models" / "check"
    export.run(
        export.Request(
            checkpoint, path, (precision,), packed=packed, labels=labels, max_length=tokens, without_dev=True
        )
    )
    return path


def rows_per_second(path: Path, *, device: str, vocabulary: int, tokens: int, seconds: float) -> float:
    """Measure the rows a second that the service answers, each row of `tokens` tokens, after a warm-up.

    Raises:
        BenchError: a request was not answered with 200.
    """
    chance = random.Random(0)
    with serving.bertie(path.parent, BERTIE_DEVICE=device) as (_, url):
        made = []
        for _ in range(16):
            texts = (
                " ".join(f"w{chance.randrange(len(SPECIAL), vocabulary)}" for _ in range(tokens - 2))
                for _ in range(ROWS)
            )
            body = json.dumps({"inputs": [{"text": text} for text in texts]}).encode()
            made.append(client.request(f"{url}/classify", body))
        requests = itertools.cycle(made)
        uvloop.run(client.closed(url, requests, connections=CONNECTIONS, seconds=min(2.0, seconds)))
        began = time.perf_counter()
        answers = uvloop.run(client.closed(url, requests, connections=CONNECTIONS, seconds=seconds))
        took = time.perf_counter() - began
    if bad := [answer for answer in answers if not answer.ok]:
        raise BenchError(f"a request was answered with {bad[0].status}: {bad[0].body[:200]!r}")
    return len(answers) * ROWS / took
