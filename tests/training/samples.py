"""Tiny encoders in the Hugging Face layout, data files in their official layouts, and recipes that fit in seconds."""

import dataclasses
import gzip
import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from service.engine.tokenizer import Tokenizer
from tests.bundles import make_tokenizer
from training import tasks
from training.data import Report
from training.finetune.features import Rows
from training.finetune.recipe import Recipe

SENTENCES = (
    ("a good film", "1"),
    ("an awful movie", "0"),
    ("this great movie is fun", "1"),
    ("a terrible sad film", "0"),
    ("i loved it", "1"),
    ("i hated the boring film", "0"),
    ("wonderful and excellent", "1"),
    ("poor bad film", "0"),
)
PAIRS = (
    ("a man is sleeping", "the man is sleeping outside", "neutral"),
    ("a dog is playing", "a dog is playing", "entailment"),
    ("the cat is inside", "the cat is outside", "contradiction"),
    ("a woman wrote code", "nobody wrote code", "contradiction"),
)
PARIS = "paris is the capital of france . the team won the game ."
ADA = "ada wrote the code and grace hopper wrote about it ."
QUESTIONS = (
    ("q1", "what is the capital of france ?", PARIS, "paris"),
    ("q2", "who won the game ?", PARIS, "the team"),
    ("q3", "who wrote the code ?", ADA, "ada"),
    ("q4", "who wrote about it ?", ADA, "grace hopper"),
)
PASSAGES = (
    (
        "middle1.txt", "middle", PARIS,
        (
            ("what is the capital of france ?", ("london", "paris", "berlin", "the game"), "B"),
            ("_ won the game .", ("paris", "nobody", "the team", "france"), "C"),
        ),
    ),
    (
        "high1.txt", "high", ADA,
        (
            ("who wrote the code ?", ("ada", "ruth", "the dog", "the team"), "A"),
            ("who wrote about it ?", ("ada", "ruth", "nobody", "grace hopper"), "D"),
        ),
    ),
)  # fmt: skip
UNANSWERABLE = (("q5", "who lives in germany ?", ADA), ("q6", "what is the highest mountain ?", PARIS))


def save_tokenizer(folder: Path, backend: tokenizers.Tokenizer | None = None) -> None:
    """Writes the tokenizer files of `tests.bundles`' vocabulary, or those of `backend`."""
    PreTrainedTokenizerFast(
        tokenizer_object=backend or make_tokenizer(),
        unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip


def make_model(head: str = "Model", family: str = "Bert", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model of the shape that these tests use: `head` is "Model" or "ForQuestionAnswering" and the like."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": make_tokenizer().get_vocab_size(), "hidden_size": 32, "intermediate_size": 64,
        "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 80, "pad_token_id": 0,
        "initializer_range": 0.1,
    }  # fmt: skip
    config = getattr(transformers, f"{family}Config")(**(shape | changes))
    model: PreTrainedModel = getattr(transformers, f"{family}{head}")(config)
    return model.eval()


def save_checkpoint(folder: Path, head: str = "Model", family: str = "Bert", **changes: Any) -> Path:
    """Writes a random model with its tokenizer, as `save_pretrained` lays them out."""
    make_model(head, family, **changes).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def load_tokenizer() -> Tokenizer:
    """The tokenizer of these checkpoints, as the service uses it."""
    return Tokenizer(make_tokenizer())


def write_text(path: Path, text: str) -> str:
    """Writes `text` as the path's suffix says: plain, .gz or .xz. Returns the path as recipes have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode()
    compress = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(compress(content))
    return str(path)


def write_sst2(path: Path, rows: Sequence[tuple[str, str]] = SENTENCES) -> str:
    """GLUE's layout."""
    return write_text(path, "sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))


def write_nli(path: Path, rows: Sequence[Mapping[str, Any]] | None = None) -> str:
    """One JSON object a line."""
    if rows is None:
        rows = [{"premise": p, "hypothesis": h, "label": label, "source": label[:4]} for p, h, label in PAIRS]
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def squad_record(identifier: str, question: str, context: str, *texts: str, **more: Any) -> dict[str, Any]:
    """A question of the official layout."""
    answers = [{"text": text, "answer_start": context.index(text)} for text in texts]
    return {"id": identifier, "question": question, "answers": answers, **more}


def squad_json(*paragraphs: tuple[str, Sequence[Any]]) -> str:
    """The official layout of (context, records) paragraphs."""
    data = [{"title": "t", "paragraphs": [{"context": context, "qas": list(qas)} for context, qas in paragraphs]}]
    return json.dumps({"version": "1.1", "data": data}, ensure_ascii=False)


def race_records(padding: str = "") -> list[dict[str, Any]]:
    """The passages above in RACE's layout; `padding` is text after each article."""
    return [
        {
            "id": identifier, "level": level, "article": f"{article} {padding}",
            "questions": [question for question, _, _ in questions],
            "options": [list(options) for _, options, _ in questions],
            "answers": [answer for _, _, answer in questions],
        }
        for identifier, level, article, questions in PASSAGES
    ]  # fmt: skip


def write_race(path: Path, padding: str = "") -> str:
    """One passage a line."""
    return write_text(path, "".join(json.dumps(record) + "\n" for record in race_records(padding)))


def write_squad(path: Path, *, unanswerable: bool = False, padding: str = "") -> str:
    """The questions above in the official layout; `padding` is text before each context."""
    paragraphs = []
    for context in (PARIS, ADA):
        records = [
            squad_record(i, q, padding + c, a, **({"is_impossible": False} if unanswerable else {}))
            for i, q, c, a in QUESTIONS
            if c == context
        ]
        if unanswerable:
            records += [squad_record(i, q, c, is_impossible=True) for i, q, c in UNANSWERABLE if c == context]
        paragraphs.append((padding + context, records))
    return write_text(path, squad_json(*paragraphs))


def recipe(encoder: Path, output: Path, train: str, dev: str = "", **changes: Any) -> Recipe:
    """A recipe that fits a handful of sentences (or, with another `task`, of questions) in seconds."""
    task = changes.get("task", "classification")
    base = Recipe(
        task=task,
        data={"classification": "sst2", "multiple_choice": "race", "score": "table", "span": "squad"}[task],
        labels=("negative", "positive") if task == "classification" else (),
        model=str(encoder), train=(train,), dev=(dev or train,), output=str(output),
        max_length=48, doc_stride=12, epochs=20.0, batch_size=4, learning_rate=3e-3, dropout=0.0, save_steps=1000,
        logging_steps=10, seed=1,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def training_rows(task: Any, examples: Sequence[Any], report: Report | None = None, **options: Any) -> Rows:
    """The rows that a task of the service is trained on."""
    return Rows(*tasks.of(task).rows(task, examples, report or Report(), **options))
