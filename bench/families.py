"""Every encoder family, measured one by one: parity, int8, speed, tokenizer.

    python -m bench.families                              # all of them, an hour on 2 cores
    python -m bench.families --family mpnet,modernbert    # some
    python -m bench.families --part lines                 # tokenizers alone
    python -m bench.families --fill docs/families.md      # and write the table into a page

*Speed*: the published base shape with random weights and a vocabulary cut to 30,000: graphs in fp32 and int8, each
with one call on all cores and with a call on each core, and transformers' own model in bf16; rounds alternate, the best
of a graph's two ways counts. *Parity*: the largest difference of a logit between that fp32 graph and torch, over rows
of many lengths. *Points*: a small model of the family learns SST-2 from nothing, with a tokenizer of the family's kind,
and is exported: its dev accuracy in fp32 and int8. *Lines*: lines of mixed scripts for which the service's tokenizer
gives the ids of the family's reference (`tests/training/references.py`).

Wants a quiet machine. Ends with one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import lzma
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedConfig

from bench import child, command
from bench.command import some_words, words
from bench.compare import weights
from bench.report.figure import Figure
from bench.report.results import plain
from bench.report.table import Table, fill, number
from service.engine.processor import cpu_quota
from service.errors import BertieError
from tests.training import references, vocabularies
from training.errors import nearest
from training.export import runner as export
from training.finetune import runner as finetune
from training.finetune.recipe import Recipe
from training.tokenizers.loading import load_tokenizer

PARTS = ("speed", "points", "lines")
SHAPE = (8, 128)
"""Rows and tokens of the timed call."""
COMPARED = ((1, 8), (4, 33), (8, 128), (2, 300), (2, 500))
"""Shapes of the rows whose logits are compared."""
VOCABULARY = 30_000
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512}


@dataclass(frozen=True, slots=True)
class Family:
    """What is measured of a family.

    Attributes:
        model: the beginning of the names of transformers' classes.
        vocabulary: its kind of tokenizer, of `vocabularies.KINDS`.
        config: what its configs say beside the sizes.
        base: sizes of the base model.
        small: sizes of the one that learns.
        wanted: int8 over fp32, at least.
    """

    model: str
    vocabulary: str
    config: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=lambda: BASE)
    small: Mapping[str, Any] = field(default_factory=lambda: SMALL)
    wanted: float | None = None


FAIRSEQ = {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": 514}
V3 = {
    "relative_attention": True, "position_biased_input": False, "pos_att_type": "p2c|c2p", "share_att_key": True,
    "norm_rel_ebd": "layer_norm", "position_buckets": 256, "type_vocab_size": 0,
}  # fmt: skip
MODERN = {"pad_token_id": 1, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}


def _bart(size: int, layers: int, heads: int) -> dict[str, int]:
    sides = {"layers": layers, "attention_heads": heads, "ffn_dim": 4 * size}
    return {"d_model": size} | {f"{side}_{k}": value for side in ("encoder", "decoder") for k, value in sides.items()}


FAMILIES = {
    "albert": Family("Albert", "albert", {"embedding_size": 128}),
    "bert": Family("Bert", "bert"),
    "roberta": Family("Roberta", "roberta", FAIRSEQ),
    "electra": Family("Electra", "bert", {"embedding_size": 768}, small=SMALL | {"embedding_size": 128}),
    "distilbert": Family(
        "DistilBert", "bert", base=BASE | {"num_hidden_layers": 6, "hidden_dim": 3072},
        small=SMALL | {"hidden_dim": 512}, wanted=2.2,
    ),
    "xlm-roberta": Family("XLMRoberta", "xlm-roberta", FAIRSEQ, wanted=2.2),
    "camembert": Family("Camembert", "camembert", FAIRSEQ),
    "mpnet": Family("MPNet", "mpnet", {"pad_token_id": 1, "max_position_embeddings": 514}, wanted=2.2),
    "deberta-v3": Family("DebertaV2", "deberta-v2", V3, wanted=2.0),
    "modernbert": Family(
        "ModernBert", "modernbert", MODERN, base=BASE | {"num_hidden_layers": 22, "intermediate_size": 1152},
        small=SMALL | {"intermediate_size": 256}, wanted=2.0,
    ),
    "bart": Family(
        "Bart", "bart", {"max_position_embeddings": 1024}, base=_bart(768, 6, 12), small=_bart(128, 2, 4)
    ),
}  # fmt: skip
"""By name in the table. SpanBERT is a cased BERT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return the exit status."""
    parser = command.parser("bench.families", __doc__)
    parser.add_argument("--family", type=some_words, default=tuple(FAMILIES), metavar="NAME,NAME", help="all of them")
    parser.add_argument("--part", type=words, default=PARTS, metavar="PART,PART", help="speed,points,lines")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DATA", "../shared/data")), metavar="FOLDER",
                        help="where sst2/train.tsv.xz is; $DATA, or ../shared/data")  # fmt: skip
    parser.add_argument("--rows", type=command.count, default=16_000, help="sentences to learn from (%(default)s)")
    parser.add_argument("--lines", type=command.count, default=2000, help="lines to tokenise (%(default)s)")
    parser.add_argument("--rounds", type=command.count, default=3, help="times that each is timed (%(default)s)")
    parser.add_argument("--seconds", type=command.amount, default=3.0, help="of a timed call (%(default)s)")
    parser.add_argument("--fill", type=Path, metavar="FILE", help="a Markdown file with markers for the table")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one short round: what the tests run")
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Measure the parts that are asked for, a family after the other."""
    for name in (*options.family, *options.part):
        if name not in (*FAMILIES, *PARTS):
            known = list(FAMILIES)
            raise BertieError(f"{name!r} is none of {', '.join(known)}{nearest(name, known)}")
    if options.quick:
        options.rounds, options.seconds, options.rows = 1, 0.02, 64
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-families-") as work:
        kinds: dict[str, Path] = {}
        if "lines" in options.part:
            kinds = vocabularies.make(Path(work) / "mixed")
        learnt = _learnt(Path(work), options) if "points" in options.part else None
        for name in options.family:
            family, own = FAMILIES[name], Path(work) / name
            own.mkdir()
            found[name] = {}
            if "speed" in options.part:
                found[name] |= speed(family, own, options)
            if learnt:
                found[name] |= points(family, learnt, own, options)
            if "lines" in options.part:
                found[name]["lines"] = references.equal_lines(
                    family.vocabulary, kinds[family.vocabulary], options.lines
                )
            print(json.dumps({name: found[name]}), file=sys.stderr, flush=True)
    made = table(found, options)
    print(f"{made.text()}\n", flush=True)
    if options.fill:
        fill(options.fill, [made], marker="families")
    print(json.dumps(plain(found), allow_nan=False))
    return 0


def config(family: Family, sizes: Mapping[str, Any], **more: Any) -> PreTrainedConfig:
    """Make a config of the family, without dropout."""
    made: PreTrainedConfig = getattr(transformers, f"{family.model}Config")(**{**sizes, **family.config, **more})
    return made


# Speed and parity


def speed(family: Family, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare the base shape's fp32 graph with torch, and time both graphs and torch in alternation."""
    sizes = family.small if options.quick else family.base
    folder = work / "base"
    folder.mkdir()
    config(family, sizes, vocab_size=500 if options.quick else VOCABULARY, num_labels=2).save_pretrained(folder)
    child.call("bench.compare.weights", {"folder": str(folder), "checkpoint": None, "precisions": ("fp32", "int8")})
    rows, length = (2, 16) if options.quick else SHAPE
    cores = cpu_quota()
    ways = {f"{cores} threads": (1, cores, rows), f"{cores} calls": (cores, 1, max(1, rows // cores))}
    rates: dict[str, dict[str, list[float]]] = {p: {way: [] for way in ways} for p in ("fp32", "int8")}
    eager: list[float] = []
    parity = 0.0
    for i in range(options.rounds):
        found = child.call("bench.graphs.eager", {
            "folder": str(folder), "graph": "" if i else str(weights.graph_path(folder, "fp32")), "shapes": COMPARED,
            "rows": rows, "tokens": length, "threads": cores, "seconds": options.seconds,
        })  # fmt: skip
        eager.append(found["rows_per_second"])
        parity = max(parity, found.get("difference", 0.0))
        for precision in rates if i % 2 == 0 else [*rates][::-1]:
            for way, (workers, threads, batch) in ways.items():
                answer = child.call("bench.compare.serving", {
                    "graph": str(weights.graph_path(folder, precision)), "precision": precision, "workers": workers,
                    "threads": threads, "vocabulary": 500 if options.quick else VOCABULARY, "longest": length,
                    "tokens": [length], "seconds": options.seconds, "batch_tokens": batch * length,
                })  # fmt: skip
                rates[precision][way].append(answer["cells"][str(length)]["throughput"])
    best = {p: max(by_way.values(), key=statistics.median) for p, by_way in rates.items()}
    fp32, int8 = (Figure(tuple(best[precision])) for precision in ("fp32", "int8"))
    torch = Figure(tuple(eager))
    for path in folder.glob("*.*"):
        path.unlink()
    return {
        "parity": parity, "rates": rates, "torch": eager, "int8_over_fp32": int8.over(fp32),
        "int8_over_torch": int8.over(torch), "fp32_over_torch": fp32.over(torch),
    }  # fmt: skip


# Points


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the small models learn from: tokenizers' folders by kind, and data files."""

    kinds: Mapping[str, Path]
    train: Path
    dev: Path


def _learnt(work: Path, options: argparse.Namespace) -> Learnt:
    folder = work / "sst2"
    folder.mkdir()
    files = []
    sentences: list[str] = []
    for split, limit in (("train", options.rows), ("dev", 64 if options.quick else 0)):
        with lzma.open(options.data / "sst2" / f"{split}.tsv.xz", "rt", encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
        random.Random(0).shuffle(rows)
        rows = rows[: limit or None]
        sentences += [text for text, _ in rows] if split == "train" else []
        files.append(folder / f"{split}.tsv")
        files[-1].write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    text = () if options.quick else sentences  # so few make no vocabulary
    return Learnt(vocabularies.make(folder, text), *files)


def points(family: Family, learnt: Learnt, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune a small random model of the family on SST-2, export it, and get dev accuracy by precision."""
    encoder = work / "encoder"
    encoder.mkdir()
    for path in learnt.kinds[family.vocabulary].iterdir():
        (encoder / path.name).write_bytes(path.read_bytes())
    size = load_tokenizer(encoder).get_vocab_size()
    made = getattr(transformers, f"{family.model}Model")(
        config(family, family.small, vocab_size=size, max_position_embeddings=130)
    )
    made.save_pretrained(encoder)
    with contextlib.redirect_stdout(sys.stderr):  # the trainer tells its losses there
        finetune.run(Recipe(
            task="classification", data="sst2", labels=("negative", "positive"), model=str(encoder),
            train=(str(learnt.train),), dev=(str(learnt.dev),), output=str(work / "run"), max_length=64, epochs=3.0,
            batch_size=64, learning_rate=5e-4, dropout=0.0, save_steps=100_000, logging_steps=100,
        ))  # fmt: skip
    manifest = export.run(export.Request(work / "run" / "final", work / "bundle"))
    scores = {each.precision: next(iter(each.scores.values()))["accuracy"] for each in manifest.graphs}
    return {"accuracy": scores, "points": scores["int8"] - scores["fp32"]}


# The table


def table(found: Mapping[str, Any], options: argparse.Namespace) -> Table:
    """Show a family a line."""
    lines = []
    for name, each in found.items():
        wanted = FAMILIES[name].wanted
        cells = ["yes", f"{each['parity']:.0e}"] if "parity" in each else ["", ""]
        if "points" in each:
            cells.append(f"{each['accuracy']['fp32']:.2f} → {each['accuracy']['int8']:.2f} ({each['points']:+.2f})")
        else:
            cells.append("")
        if "parity" in each:
            cells.append(f"{each['int8_over_fp32']:.2f} ×" + (f" (≥ {wanted})" if wanted else ""))
            cells += [f"{each['int8_over_torch']:.2f} ×", f"{each['fp32_over_torch']:.2f} ×"]
        else:
            cells += ["", "", ""]
        cells.append(f"{each['lines']:,} of {options.lines:,}" if "lines" in each else "")
        lines.append((name, *cells))
    columns = (
        "family", "export", "parity, largest difference of a logit", "SST-2 dev, fp32 → int8", "int8 over fp32",
        "int8 over torch bf16", "fp32 over torch bf16", "tokenizer lines equal",
    )  # fmt: skip
    note = (
        f"Speed: base shape, random weights, {SHAPE[0]} rows of {SHAPE[1]} tokens, {number(cpu_quota())} cores. "
        f"SST-2: a small model of the family that learnt {options.rows:,} sentences from nothing."
    )
    return Table("families", "Families", columns, tuple(lines), note)


if __name__ == "__main__":
    sys.exit(main())
