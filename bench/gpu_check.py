"""`make gpu-check`: on a machine with a GPU, is the CUDA engine really used, right, and how fast?

Makes a BERT of base size with random weights (no download), exports it to fp32, fp16 and w8a16, each padded and packed,
and prints for each of the six:

- which operators ran where, by ONNX Runtime's own profile;
- at each length the largest difference of its logits from torch's fp32 on the CPU, on rows of mixed lengths up to it;
  and on full rows, rows a second of the session and the share of the card's own fp16 matrix rate, of the same run;
- how much memory a further 200 batches of changing shapes took.

For each precision it sets packed beside padded, in alternation on one batch of rows of 16 to 128 tokens: logits and
rows a second. Then it starts the service with whichever is quicker on full rows, since that is what it is asked, and
shows its rows a second in requests of 32 rows, against the session's. Aims stand beside what was reached. Ends with one
JSON object; exit status 1 when the provider is not CUDA, a matrix product or attention ran elsewhere, or the logits are
off: the aims are no condition.

No CPU has kernels for packed graphs: there they run in the form that the gate runs (`training.export.packing`),
whose speed says nothing.

    python -m bench.gpu_check                     # the GPU; fails where there is none
    python -m bench.gpu_check --device cpu --quick    # the same path on a CPU, tiny: what the tests run
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel, set_seed

from bench import child, command
from bench.graphs import full
from service.engine.batch import Batch, Encoded, pad
from service.engine.session import OrtEngine, Provider
from service.errors import ConfigurationError
from training.checkpoints import flops
from training.evaluate.engine import TorchEngine
from training.export import graph, packing
from training.export.graphs import ENCODINGS

LENGTHS = (32, 128, 384)
AT = 128
"""Tokens at which there are aims."""
MIXED = (16, 128)
"""Tokens of the shortest and the longest row of the batch on which packed and padded graphs meet."""
BATCH_TOKENS = 32768
TOLERANCE = {"fp32": 2e-2, "fp16": 5e-2, "w8a16": 0.2}
"""Largest |logit difference| from torch's fp32 on the CPU; on CUDA fp32 products run in TF32."""
ENGINES: dict[str, dict[str, tuple[bool, ...]]] = {
    "cuda": {"fp32": (False, True), "fp16": (False, True), "w8a16": (False, True)},
    "cpu": {"fp32": (False, True), "int8": (False,)},
}
"""Precisions by device, and whether each is measured padded, packed, or both."""
APART = 0.1
"""Largest |logit difference| of a packed graph from the padded one, of the standard deviation between rows: what mixes
up rows or tokens is off by about 1, whatever the logits' size."""
SERVED = {"cuda": "fp16", "cpu": "int8"}
"""The precision that the service runs, and that the aims are for."""
HEAVY = frozenset(
    {
        "Attention", "MatMul", "MatMulIntegerToFloat", "MultiHeadAttention", "PackedMultiHeadAttention",
        "RemovePadding", "RestorePadding", "SkipLayerNormalization",
    }
)  # fmt: skip
"""Operators that must not run off the device. Those on shapes belong on the CPU."""
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
SHAPES = 200
MATRIX_SHARE, SERVICE_SHARE = 0.5, 0.8


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure and print. Return the exit status."""
    parser = command.parser("bench.gpu_check", __doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round")
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Check, measure and print. Return 0 when everything ran where it should and the logits are right."""
    report = check(options.device, quick=options.quick)
    print(json.dumps(report))
    return 0 if report["passed"] else 1


def check(device: str, *, quick: bool) -> dict[str, Any]:
    """Measure everything; raises `ConfigurationError` where the device is not to be had."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("torch sees no GPU here")
    set_seed(0)
    model = _model(quick).eval()
    report: dict[str, Any] = {
        "device": device, "card": _card(device), "passed": True, "rows": [], "engines": [], "mixed": [],
    }  # fmt: skip
    peak = matrix_rate(device, quick=quick)
    print(f"{report['card']}: {peak / 1e12:.1f} Tflop/s in its own matrix products")
    reference = TorchEngine(model)
    with tempfile.TemporaryDirectory() as folder:
        for precision, ways in ENGINES[device].items():
            engines = {packed: _engine(model, Path(folder), precision, device, packed=packed) for packed in ways}
            for packed, engine in engines.items():
                name = _name(precision, packed=packed)
                placed = _placed(engine, name, device)
                rows = list(_rows(engine, reference, model, name, peak, quick=quick))
                growth = _growth(engine, model, device, quick=quick)
                print(f"{name}: {growth / 1e6:+.1f} MB over {SHAPES} changing shapes")
                kind = {"precision": precision, "packed": packed}
                report["engines"].append(kind | placed | {"growth_bytes": growth})
                report["rows"] += [kind | row for row in rows]
                report["passed"] &= not placed["astray"] and all(
                    row["provider"] == device and row["difference"] <= TOLERANCE.get(precision, 0.5) for row in rows
                )
            if len(engines) > 1:
                both = _side_by_side(engines[False], engines[True], model, precision, quick=quick)
                report["mixed"].append({"precision": precision} | both)
                report["passed"] &= both["apart"] <= APART
        report |= _service(model, Path(folder), report["rows"], device, quick=quick)
    return report


def _engine(model: PreTrainedModel, folder: Path, precision: str, device: str, *, packed: bool) -> OrtEngine:
    path = folder / f"{precision}.{packed}.onnx"
    proto = graph.build(model, encoding=ENCODINGS[precision], packed=packed)
    onnx.save(packing.for_cpu(proto) if packed and device == "cpu" else proto, path)
    provider: Provider = "cuda" if device == "cuda" else "cpu"
    return OrtEngine(path, provider=provider, precision=precision, workers=1, intra_op_threads=0)


def _name(precision: str, *, packed: bool) -> str:
    return f"{precision} packed" if packed else precision


def _rows(
    engine: OrtEngine, reference: TorchEngine, model: PreTrainedModel, name: str, peak: float, *, quick: bool
) -> Iterator[dict[str, Any]]:
    """Logits and rows a second at each length."""
    for tokens in LENGTHS[:1] if quick else LENGTHS:
        probe = _mixed(model, 4, 1, tokens)
        difference = float(np.abs(engine.run(probe)[0] - reference.run(probe)[0]).max())
        batch = _batch(model, max(1, (256 if quick else BATCH_TOKENS) // tokens), tokens)
        seconds = _seconds(partial(engine.run, batch), 1 if quick else 20)
        rows = batch.shape[0]
        share = rows * flops.served(model.config, tokens) / seconds / peak
        print(
            f"{name} on {engine.provider}, {rows:>4} x {tokens:<3}: {rows / seconds:>8.0f} rows/s, "
            f"{share:6.1%} of the matrix rate, logits within {difference:.1e}"
        )
        yield {
            "provider": engine.provider,
            "tokens": tokens,
            "rows_per_call": rows,
            "difference": difference,
            "rows_per_second": rows / seconds,
            "share_of_matrix_rate": share,
        }


def _side_by_side(
    padded: OrtEngine, packed: OrtEngine, model: PreTrainedModel, precision: str, *, quick: bool
) -> dict[str, float]:
    """Logits and rows a second of both on one batch of mixed lengths, in alternation."""
    batch = _mixed(model, 4 if quick else BATCH_TOKENS // MIXED[1], *MIXED)
    logits, others = padded.run(batch)[0], packed.run(batch)[0]
    apart = float(np.abs(logits - others).max() / logits.std(axis=0).min())
    times = [
        [_seconds(partial(engine.run, batch), 1) for engine in (padded, packed)] for _ in range(1 if quick else 20)
    ]
    rates = batch.shape[0] / np.median(times, axis=0)
    print(
        f"{precision}, {batch.shape[0]} rows of {MIXED[0]} to {MIXED[1]} tokens, {batch.padding_ratio:.0%} padding: "
        f"{rates[0]:.0f} rows/s padded, {rates[1]:.0f} packed, {rates[1] / rates[0]:.2f} times as many; "
        f"logits {apart:.1e} of a standard deviation apart"
    )
    return {
        "padding": batch.padding_ratio,
        "padded_rows_per_second": float(rates[0]),
        "packed_rows_per_second": float(rates[1]),
        "packed_over_padded": float(rates[1] / rates[0]),
        "apart": apart,
    }


def _placed(engine: OrtEngine, name: str, device: str) -> dict[str, Any]:
    """Which operators ran on which provider, and which heavy ones astray."""
    ones = np.ones((2, 8), dtype=np.int64)
    nodes = engine.placement(Batch(ones, ones, np.zeros_like(ones)))
    astray = sorted(
        name for place, names in nodes.items() if place != PROVIDERS[device] for name in names if name in HEAVY
    )
    counts = ", ".join(f"{sum(names.values())} on {place}" for place, names in sorted(nodes.items()))
    elsewhere = sorted({name for place, names in nodes.items() if place != PROVIDERS[device] for name in names})
    print(
        f"{name}: nodes {counts}" + (f" ({', '.join(elsewhere)})" if elsewhere else "")
        + (f"; ASTRAY: {', '.join(astray)}" if astray else "")
    )  # fmt: skip
    return {"nodes": nodes, "astray": astray}


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
    measured = [row for row in session if (row["precision"], row["tokens"]) == (SERVED[device], tokens)]
    best = max(measured, key=lambda row: row["rows_per_second"])
    rate = full.rows_per_second(
        full.bundle(model, folder, SERVED[device], tokens, packed=best["packed"]), device=device,
        vocabulary=model.config.vocab_size, tokens=tokens, seconds=0.3 if quick else 10.0,
    )  # fmt: skip
    share = rate / best["rows_per_second"]
    what = f"{_name(SERVED[device], packed=best['packed'])}, {tokens} tokens"
    aims = [
        {"text": f"share of the matrix rate, {what}", "wanted": MATRIX_SHARE, "reached": best["share_of_matrix_rate"]},
        {"text": f"service over the session, {full.ROWS} rows a request, {what}", "wanted": SERVICE_SHARE,
         "reached": share},
    ]  # fmt: skip
    print(f"service on {device}: {rate:.0f} rows/s in requests of {full.ROWS} rows of {tokens} tokens")
    for aim in aims:
        aim["met"] = aim["reached"] >= aim["wanted"]
        print(f"{aim['text']}: {aim['reached']:.1%} (wanted ≥ {aim['wanted']:.0%}): {'yes' if aim['met'] else 'no'}")
    service = {"packed": best["packed"], "tokens": tokens, "rows_per_second": rate, "share_of_session": share}
    return {"service": service, "aims": aims}


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
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
    }
    return BertForSequenceClassification(BertConfig(**(shape if quick else {}) | {"num_labels": 3}))


def _batch(model: PreTrainedModel, rows: int, tokens: int) -> Batch:
    """Full rows: padding is work that no share of a peak should be credited for."""
    ids = np.random.default_rng(0).integers(1000, model.config.vocab_size, (rows, tokens))
    return pad([Encoded(row, np.zeros(tokens, dtype=np.int64)) for row in ids], 0)


def _mixed(model: PreTrainedModel, rows: int, shortest: int, longest: int) -> Batch:
    """Rows of all lengths from one to the other, evenly, the two among them, in no order."""
    chance = np.random.default_rng(0)
    lengths = chance.permutation(np.linspace(shortest, longest, rows).astype(int))
    ids = [chance.integers(1000, model.config.vocab_size, length) for length in lengths]
    return pad([Encoded(row, np.zeros(len(row), dtype=np.int64)) for row in ids], 0)


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
