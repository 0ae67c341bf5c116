"""Question answering in one process: Bertie against the pipeline of transformers before 5.3. Run by hand.

    python -m venv old && old/bin/pip install torch 'transformers<5.3'
    python -m training restore models/qa ENCODER restored
    python -m bench.peers.pipeline models/qa restored dev-v1.1.json.xz --python old/bin/python

Both get the same questions, in the same windows, on the same cores; the pipeline one by one, which is its default, and
in batches. Tells the share of equal best answers, every one that differs, and the ratio of questions a second. The last
line is JSON. A bundle with an fp32 graph of the same checkpoint (`training export --precision fp32`) tells what of the
difference is int8's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BATCH = 8
"""Questions of the pipeline's batches."""
ROUNDS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print."""
    from bench import command

    parser = command.parser("bench.peers.pipeline", __doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path, help="the folder that the pipeline loads")
    parser.add_argument("squad", type=Path, help="SQuAD's JSON")
    parser.add_argument("--python", required=True, help="of an environment with torch and transformers before 5.3")
    parser.add_argument("--questions", type=command.count, default=1000, help="spread over the file (%(default)s)")
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Compare and print."""
    from bench import rows
    from bench.errors import BenchError
    from service import load
    from service.engine.processor import cpu_quota
    from service.tasks import SpanExample, SpanTask

    pipeline = load(options.bundle, device="cpu")
    (task,) = pipeline.model.tasks
    if not isinstance(task, SpanTask):
        raise BenchError(f"{options.bundle} does not answer questions")
    asked = [{"question": q, "context": c} for q, c in rows.questions(options.squad, options.questions)]
    order = {
        "checkpoint": str(options.checkpoint), "threads": cpu_quota(), "batch": BATCH, "questions": asked,
        "max_seq_len": task.max_length, "doc_stride": task.doc_stride,
    }  # fmt: skip
    ours, peers = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        answers = pipeline(asked)
        ours.append(len(asked) / (time.perf_counter() - began))
        peers.append(_peer(options.python, order))
    windows = [len(each) for each in task.encode([SpanExample(a["question"], (a["context"],)) for a in asked])]
    same = different = 0
    for question, mine, theirs, count in zip(asked, answers, peers[0]["answers"], windows, strict=True):
        if count > 1:
            continue  # theirs are cut elsewhere
        same += mine["answer"] == theirs["answer"]
        if mine["answer"] != theirs["answer"]:
            different += 1
            print(f"{question['question']}\n    ours   {mine}\n    theirs {theirs}")
    each, batched = (max(peer[name] for peer in peers) for name in ("one_by_one", "batched"))
    found = {
        "compared": same + different,
        "several_windows": len(asked) - same - different,
        "equal": same / max(1, same + different),
        "questions_per_second": max(ours),
        "pipeline": each,
        "pipeline_batched": batched,
        "ratio": max(ours) / max(each, batched),
    }
    print(json.dumps(found))
    return 0


def _peer(python: str, order: dict[str, Any]) -> dict[str, Any]:
    from bench.errors import BenchError

    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(order["threads"])}
    done = subprocess.run(
        [python, __file__], input=json.dumps(order), stdout=subprocess.PIPE, text=True, env=environment
    )
    if done.returncode:
        raise BenchError(f"{python} failed: it needs torch and transformers before 5.3")
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """What runs in the other environment, where nothing of Bertie is."""
    import torch
    import transformers

    torch.set_num_threads(order["threads"])
    pipeline: Any = transformers.pipeline  # another version's than that which is installed here
    pipe = pipeline("question-answering", order["checkpoint"])
    options = {name: order[name] for name in ("max_seq_len", "doc_stride")}
    asked = order["questions"]
    pipe(**asked[0], **options)
    began = time.perf_counter()
    answers = [pipe(**each, **options) for each in asked]
    between = time.perf_counter()
    lists = {name: [each[name] for each in asked] for name in ("question", "context")}
    pipe(**lists, batch_size=order["batch"], **options)
    ended = time.perf_counter()
    return {
        "answers": answers,
        "one_by_one": len(asked) / (between - began),
        "batched": len(asked) / (ended - between),
    }


if __name__ == "__main__":
    # As a module it is the program; by its path, the peer's child.
    if __package__:
        sys.exit(main())
    print(json.dumps(answer(json.load(sys.stdin))))
