"""Small bundles that answer with sense, made in milliseconds from hand-written ONNX graphs. No torch, no training.

`sentiment` counts kind and unkind words; `nli` asks whether the hypothesis' words stand in the premise and whether just
one of the two is negated; `qa` finds names near the question's words; `choice` counts the words of question and option
that stand in the passage; `rerank` scores a pair by the share of the first text's words that stand in the second. All
through the real tokenizer, engine and tasks.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from service.repository import bundle as bundles
from service.repository import golden
from service.repository.loading import open_task
from service.repository.manifest import FORMAT, MANIFEST, TOKENIZER, WEIGHTS, Graph, Manifest
from service.repository.opening import open_engine

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
KIND = ("good", "great", "love", "loved", "wonderful", "excellent", "happy", "fun")
UNKIND = ("bad", "awful", "hate", "hated", "terrible", "poor", "sad", "boring")
NEGATIONS = ("not", "no", "never", "nobody")
STOP = "a an the is are was were of in on to and about this that it example what who where when i"
NAMES = ("paris", "berlin", "london", "ada", "ruth", "everest")
FIRST_NAMES, LAST_NAMES = ("new", "grace"), ("york", "hopper")
WORDS = (
    "man men woman dog dogs cat outside inside sleeping playing soccer sports politics film movie capital country "
    "france germany england city mountain highest lives born wrote code game team won election vote"
)
CHARACTERS = tuple(chr(c) for c in range(33, 127) if not chr(c).isupper())
VOCABULARY = tuple(
    dict.fromkeys(
        (
            *SPECIAL, *CHARACTERS, *(f"##{c}" for c in CHARACTERS if c.isalnum()), *KIND, *UNKIND, *NEGATIONS,
            *STOP.split(), *NAMES, *FIRST_NAMES, *LAST_NAMES, *WORDS.split(),
        )
    )
)  # fmt: skip

LABELS = {"sentiment": ("negative", "positive"), "nli": ("entailment", "neutral", "contradiction")}
TASKS = {"qa": "span", "choice": "multiple_choice", "rerank": "score"}


def make_tokenizer() -> tokenizers.Tokenizer:
    """An uncased WordPiece tokenizer with BERT's template; every ASCII word has tokens."""
    vocabulary = {token: i for i, token in enumerate(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def make_bundle(
    models_dir: Path, kind: str, *, name: str | None = None, external: bool = False, **changes: Any
) -> Path:
    """Write the bundle `models_dir/NAME` and return its folder.

    Args:
        kind: `sentiment`, `nli`, `qa`, `choice` or `rerank`; the default name too.
        external: whether the graph's larger tensors are in `weights.bin`.
        changes: fields of the manifest to replace (`max_length=32`, `labels=...`, `no_answer=True`, ...).
    """
    folder = models_dir / (name or kind)
    folder.mkdir(parents=True)
    graph = {"sentiment": _sentiment, "nli": _nli, "qa": _qa, "choice": _choice, "rerank": _rerank}[kind]()
    onnx.save(graph, folder / "model.fp32.onnx", save_as_external_data=external, location=WEIGHTS, size_threshold=100)
    make_tokenizer().save(str(folder / TOKENIZER))
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    fields: dict[str, Any] = {
        "format": FORMAT,
        "name": folder.name,
        "task": TASKS.get(kind, "classification"),
        "architecture": "bert",
        "parameters": 1234,
        "max_length": 64,
        "graphs": (Graph("model.fp32.onnx", "fp32", {"dev": {"f1" if kind == "qa" else "accuracy": 99.0}}),),
        "files": files,
        "labels": LABELS.get(kind, ()),
        "activation": "sigmoid" if kind == "rerank" else "identity",
        "doc_stride": 16 if kind == "qa" else 0,
        "base_model": "hand-written",
        "licence": "Apache-2.0",
        "created": "2025-01-01",
    }
    (folder / MANIFEST).write_text(Manifest(**(fields | changes)).to_json(), encoding="utf-8")
    return folder


def make_version(models_dir: Path, kind: str, version: str, **changes: Any) -> Path:
    """Write the bundle `models_dir/KIND/VERSION` and return its folder; see `make_bundle`."""
    folder = make_bundle(models_dir / kind, kind, name=version, **changes)
    change_manifest(folder, name=kind)
    return folder


def change_manifest(folder: Path, **fields: Any) -> None:
    """Replace fields of the manifest on disk; None takes one out."""
    path = folder / MANIFEST
    values = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")


def change_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of a bundle, and its hash in the manifest."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    change_manifest(folder, files=files | {name: hashlib.sha256(content).hexdigest()})


def add_golden(folder: Path, *inputs: dict[str, Any]) -> None:
    """Give a bundle golden rows of these inputs, of its graph for the CPU."""
    bundle = bundles.load(folder)
    tokenizer, task = open_task(bundle)
    engine, _ = open_engine(bundle, device="cpu", workers=1, intra_op_threads=1, cores=1)
    cases = [golden.encode(task, given) for given in inputs]
    expected = tuple(golden.expect(task, case, golden.run(case.rows, tokenizer.pad_id, engine)) for case in cases)
    made = golden.Golden(inputs, {engine.arithmetic: expected})
    change_file(folder, golden.GOLDEN, made.to_json().encode())


# ---- the graphs -----------------------------------------------------------------------------------------------------


@dataclass
class _Builder:
    """Nodes and constants of a graph in the making; `op` returns the name of its output."""

    nodes: list[Any]
    constants: list[Any]

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def table(self, weights: dict[str, float], default: float = 0.0) -> str:
        """One weight for each token of the rows, [rows, tokens]."""
        column = np.array([weights.get(token, default) for token in VOCABULARY], dtype=np.float32)
        return self.op("Gather", self.constant(column), "input_ids")

    def floats(self, name: str) -> str:
        return self.op("Cast", name, to=TensorProto.FLOAT)

    def sum(self, name: str) -> str:
        """Sum over the tokens, [rows, 1]."""
        return self.op("ReduceSum", name, self.constant(np.array([1])), keepdims=1)

    def affine(self, name: str, scale: float, shift: float = 0.0) -> str:
        scaled = self.op("Mul", name, self.constant(np.float32(scale)))
        return self.op("Add", scaled, self.constant(np.float32(shift)))

    def segments(self) -> tuple[str, str]:
        """1.0 at the tokens of the first and of the second text, [rows, tokens] each."""
        mask = self.floats("attention_mask")
        second = self.op("Mul", self.floats("token_type_ids"), mask)
        return self.op("Sub", mask, second), second

    def seen_in(self, segment: str) -> str:
        """1.0 at each token whose id stands in `segment` too, [rows, tokens]."""
        column = self.op("Unsqueeze", "input_ids", self.constant(np.array([2])))
        row = self.op("Unsqueeze", "input_ids", self.constant(np.array([1])))
        equal = self.floats(self.op("Equal", column, row))
        there = self.op("Mul", equal, self.op("Unsqueeze", segment, self.constant(np.array([2]))))
        return self.op("ReduceMax", there, axes=[1], keepdims=0)

    def content(self) -> str:
        """1.0 at tokens that carry meaning."""
        weights = dict.fromkeys((*SPECIAL, *STOP.split(), *NEGATIONS, *(c for c in CHARACTERS if not c.isalnum())), 0.0)
        return self.table(weights, default=1.0)

    def model(self, outputs: dict[str, list[str | int]]) -> onnx.ModelProto:
        inputs = ("input_ids", "attention_mask", "token_type_ids")
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def _sentiment() -> onnx.ModelProto:
    b = _Builder([], [])
    first, _ = b.segments()
    weights = dict.fromkeys(KIND, 2.0) | dict.fromkeys(UNKIND, -2.0)
    score = b.sum(b.op("Mul", b.table(weights), first))
    b.op("Concat", b.op("Neg", score), score, output="logits", axis=1)
    return b.model({"logits": ["rows", 2]})


def _nli() -> onnx.ModelProto:
    b = _Builder([], [])
    first, second = b.segments()
    wanted = b.op("Mul", b.content(), second)
    found = b.sum(b.op("Mul", wanted, b.seen_in(first)))
    share = b.op("Div", found, b.op("Max", b.sum(wanted), b.constant(np.float32(1.0))))
    negations = b.table(dict.fromkeys(NEGATIONS, 1.0))
    difference = b.op("Sub", b.sum(b.op("Mul", negations, first)), b.sum(b.op("Mul", negations, second)))
    opposed = b.op("Abs", difference)
    entailment = b.op("Add", b.affine(share, 8.0, -4.0), b.affine(opposed, -8.0))
    contradiction = b.affine(opposed, 8.0, -4.0)
    neutral = b.affine(opposed, 0.0)
    b.op("Concat", entailment, neutral, contradiction, output="logits", axis=1)
    return b.model({"logits": ["rows", 3]})


def _qa() -> onnx.ModelProto:
    b = _Builder([], [])
    first, second = b.segments()
    hits = b.op("Mul", b.op("Mul", b.content(), b.seen_in(first)), second)
    around = b.op(
        "Conv", b.op("Unsqueeze", hits, b.constant(np.array([1]))), b.constant(np.ones((1, 1, 11), np.float32)),
        pads=[5, 5],
    )  # fmt: skip
    nearby = b.affine(b.op("Squeeze", around, b.constant(np.array([1]))), 2.0, 2.0)
    nothing = b.table({"[CLS]": 3.0})
    outside = b.affine(second, 9.0, -9.0)
    empty = b.op("Where", b.op("Greater", nothing, b.constant(np.float32(0))), nothing, outside)
    for output, names in (("start", (*NAMES, *FIRST_NAMES)), ("end", (*NAMES, *LAST_NAMES))):
        name = b.op("Mul", b.op("Mul", b.table(dict.fromkeys(names, 1.0)), second), nearby)
        b.op("Add", name, empty, output=output)
    return b.model({"start": ["rows", "tokens"], "end": ["rows", "tokens"]})


def _rerank() -> onnx.ModelProto:
    b = _Builder([], [])
    first, second = b.segments()
    wanted = b.op("Mul", b.content(), first)
    found = b.sum(b.op("Mul", wanted, b.seen_in(second)))
    share = b.op("Div", found, b.op("Max", b.sum(wanted), b.constant(np.float32(1.0))))
    b.op("Identity", b.affine(share, 8.0, -4.0), output="logits")
    return b.model({"logits": ["rows", 1]})


def _choice() -> onnx.ModelProto:
    b = _Builder([], [])
    first, second = b.segments()
    found = b.op("Mul", b.op("Mul", b.content(), second), b.seen_in(first))
    b.op("Mul", b.sum(found), b.constant(np.float32(2.0)), output="logits")
    return b.model({"logits": ["rows", 1]})
