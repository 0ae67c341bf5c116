"""`make gpu-check`: on a machine with a GPU, is the CUDA engine really used, right, and how fast?

Makes a BERT of base size with random weights (no download), exports it to fp32, fp16 and w8a16, and prints for each:

- which operators ran where, by ONNX Runtime's own profile;
- at each length the largest difference of its logits from torch's fp32 on the CPU, rows a second of the session, and
  the share of the card's own fp16 matrix rate, measured in the same run;
- how much memory a further 200 batches of changing shapes took.

Then it starts the service with that model and tells its rows a second in requests of 32 rows, against the session's.
Aims are told beside what was reached. Ends with one JSON object; exit status 1 when the provider is not CUDA, a matrix
product or attention ran elsewhere, or the logits are off: the aims are no condition.

    python -m bench.gpu_check                     # the GPU; fails where there is none
    python -m bench.gpu_check --device cpu --quick    # the same path on a CPU, tiny: what the tests run
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel, set_seed

from bench import full
from bench.errors import BenchError
from service.batch import Batch, Encoded, pad
from service.engine import OrtEngine
from service.errors import BertieError, ConfigurationError
from training import graph
from training.compare import child, flops
from training.errors import TrainingError
from training.evaluate import TorchEngine
from training.export import ENCODINGS

LENGTHS = (32, 128, 384)
AT = 128
"""Tokens at which there are aims."""
BATCH_TOKENS = 32768
TOLERANCE = {"fp32": 2e-2, "fp16": 5e-2, "w8a16": 0.2}
"""Largest |logit difference| from torch's fp32 on the CPU; on CUDA fp32 products run in TF32."""
SERVED = {"cuda": "fp16", "cpu": "int8"}
"""The graph that the service runs, and that the aims are for."""
HEAVY = frozenset({"Attention", "MatMul", "MatMulIntegerToFloat", "MultiHeadAttention", "SkipLayerNormalization"})
"""Operators that must not run off the device. Those on shapes belong on the CPU."""
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
SHAPES = 200
MATRIX_SHARE, SERVICE_SHARE = 0.5, 0.8


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round")
    options = parser.parse_args(arguments)
    try:
        report = check(options.device, quick=options.quick)
    except BertieError as error:
        print(f"gpu-check: {error.detail}", file=sys.stderr)
        return 1
    except (BenchError, TrainingError) as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0 if report["passed"] else 1


def check(device: str, *, quick: bool) -> dict[str, Any]:
    """Measures everything; raises `ConfigurationError` where the device is not to be had."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("torch sees no GPU here")
    set_seed(0)
    model = _model(quick).eval()
    report: dict[str, Any] = {"device": device, "card": _card(device), "passed": True, "rows": [], "engines": []}
    peak = matrix_rate(device, quick=quick)
    print(f"{report['card']}: {peak / 1e12:.1f} Tflop/s in its own matrix products")
    reference = TorchEngine(model)
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "fp16", "w8a16") if device == "cuda" else ("fp32", "int8"):
            path = Path(folder) / f"{precision}.onnx"
            onnx.save(graph.build(model, encoding=ENCODINGS[precision]), path)
            engine = OrtEngine(
                path,
                provider="cuda" if device == "cuda" else "cpu",
                precision=precision,
                workers=1,
                intra_op_threads=0,
            )
            report["engines"].append(placed := _placed(engine, precision, device))
            report["passed"] &= not placed["astray"]
            for tokens in LENGTHS[:1] if quick else LENGTHS:
                batch = _batch(model, max(1, (256 if quick else BATCH_TOKENS) // tokens), tokens)
                probe = Batch(*(array[:4] for array in (batch.input_ids, batch.attention_mask, batch.token_type_ids)))
                difference = float(np.abs(engine.run(probe)[0] - reference.run(probe)[0]).max())
                seconds = _seconds(lambda engine=engine, batch=batch: engine.run(batch), 1 if quick else 20)
                rows = batch.shape[0]
                operations = rows * flops.served(model.config, tokens)
                row = {
                    "precision": precision,
                    "provider": engine.provider,
                    "tokens": tokens,
                    "rows_per_call": rows,
                    "difference": difference,
                    "rows_per_second": rows / seconds,
                    "share_of_matrix_rate": operations / seconds / peak,
                }
                report["rows"].append(row)
                report["passed"] &= engine.provider == device and difference <= TOLERANCE.get(precision, 0.5)
                print(
                    f"{precision} on {engine.provider}, {rows:>4} x {tokens:<3}: {rows / seconds:>8.0f} rows/s, "
                    f"{row['share_of_matrix_rate']:6.1%} of the matrix rate, logits within {difference:.1e}"
                )
            placed["growth_bytes"] = _growth(engine, model, device, quick=quick)
            print(f"{precision}: {placed['growth_bytes'] / 1e6:+.1f} MB over {SHAPES} changing shapes")
        report |= _service(model, Path(folder), report["rows"], device, quick=quick)
    return report


def _placed(engine: OrtEngine, precision: str, device: str) -> dict[str, Any]:
    """Which operators ran on which provider, and which heavy ones astray."""
    ones = np.ones((2, 8), dtype=np.int64)
    nodes = engine.placement(Batch(ones, ones, np.zeros_like(ones)))
    astray = sorted(
        name for place, names in nodes.items() if place != PROVIDERS[device] for name in names if name in HEAVY
    )
    counts = ", ".join(f"{sum(names.values())} on {place}" for place, names in sorted(nodes.items()))
    elsewhere = sorted({name for place, names in nodes.items() if place != PROVIDERS[device] for name in names})
    print(
        f"{precision}: nodes {counts}" + (f" ({', '.join(elsewhere)})" if elsewhere else "")
        + (f"; ASTRAY: {', '.join(astray)}" if astray else "")
    )  # fmt: skip
    return {"precision": precision, "nodes": nodes, "astray": astray}


def _growth(engine: OrtEngine, model: PreTrainedModel, device: str, *, quick: bool) -> int:
    """Bytes that batches of changing shapes took beyond what as many before them did: of the device, or resident."""
    chance = np.random.default_rng(0)
    most = 256 if quick else BATCH_TOKENS

    def traffic() -> int:
        for _ in range(SHAPES):
            tokens = int(chance.integers(2, max(LENGTHS[:1] if quick else LENGTHS) + 1))
            engine.run(_batch(model, int(chance.integers(1, most // tokens + 1)), tokens))
        if device == "cpu":
            return child.resident()
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    before = traffic()
    return traffic() - before


def _service(
    model: PreTrainedModel, folder: Path, session: Sequence[dict[str, Any]], device: str, *, quick: bool
) -> dict[str, Any]:
    """The service's rows a second, and the aims: of the matrix rate, and of the session."""
    tokens = LENGTHS[0] if quick else AT
    best = next(row for row in session if (row["precision"], row["tokens"]) == (SERVED[device], tokens))
    rate = full.rows_per_second(
        full.bundle(model, folder, SERVED[device], tokens), device=device, vocabulary=model.config.vocab_size,
        tokens=tokens, seconds=0.3 if quick else 10.0,
    )  # fmt: skip
    share = rate / best["rows_per_second"]
    what = f"{SERVED[device]}, {tokens} tokens"
    aims = [
        {"text": f"share of the matrix rate, {what}", "wanted": MATRIX_SHARE, "reached": best["share_of_matrix_rate"]},
        {"text": f"service over the session, {full.ROWS} rows a request, {what}", "wanted": SERVICE_SHARE,
         "reached": share},
    ]  # fmt: skip
    print(f"service on {device}: {rate:.0f} rows/s in requests of {full.ROWS} rows of {tokens} tokens")
    for aim in aims:
        aim["met"] = aim["reached"] >= aim["wanted"]
        print(f"{aim['text']}: {aim['reached']:.1%} (wanted ≥ {aim['wanted']:.0%}): {'yes' if aim['met'] else 'no'}")
    return {"service": {"tokens": tokens, "rows_per_second": rate, "share_of_session": share}, "aims": aims}


def matrix_rate(device: str, *, quick: bool) -> float:
    """Operations a second of one large matrix product: fp16 on CUDA, fp32 on the CPU."""
    size = 512 if quick else 8192
    a = torch.randn(size, size, device=device, dtype=torch.float16 if device == "cuda" else torch.float32)

    def multiply() -> None:
        torch.mm(a, a)
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * size**3 / _seconds(multiply, 2 if quick else 50)


def _model(quick: bool) -> PreTrainedModel:
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    return BertForSequenceClassification(BertConfig(num_labels=3, **(shape if quick else {})))


def _batch(model: PreTrainedModel, rows: int, tokens: int) -> Batch:
    """Full rows: padding is work that no share of a peak should be credited for."""
    ids = np.random.default_rng(0).integers(1000, model.config.vocab_size, (rows, tokens))
    return pad([Encoded(row, np.zeros(tokens, dtype=np.int64)) for row in ids], 0)


def _seconds(function: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after a warm-up."""
    for _ in range(min(3, repeats)):
        function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _card(device: str) -> str:
    return torch.cuda.get_device_name(0) if device == "cuda" else "CPU"


if __name__ == "__main__":
    sys.exit(main())
