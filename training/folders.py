"""A Hugging Face folder before anything is read of it: what lies there instead of a model, and what to do about it.

Owns one line for each kind of folder that people have by mistake, where a library would say something else. Knows
nothing of what configs, weights and tokenizers mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.errors import CheckpointError

CONFIG = "config.json"
SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
"""Where sentence-transformers says what a cross-encoder's score goes through, from 5.4 on."""
POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_BYTES = 1024
"""A Git LFS pointer is shorter (git-lfs, docs/spec.md)."""
LISTED = 6
"""Most files that a message lists."""
MERGED_BY = {
    "SEQ_CLS": "SequenceClassification", "QUESTION_ANS": "QuestionAnswering", "TOKEN_CLS": "TokenClassification",
}  # fmt: skip
"""The end of the name of peft's class that loads an adapter, by its task_type."""


def check(folder: Path) -> None:
    """Raise `CheckpointError` where the folder cannot be a model: what it is instead, and what to do."""
    check_there(folder)
    check_content(folder / CONFIG)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        raise CheckpointError(f"{folder} {_adapter(folder, adapter)}")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}; {foreign(folder) or f'it holds {listed(folder)}'}")


def check_there(folder: Path) -> None:
    """Raise `CheckpointError` where there is no such folder, or nothing in it."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder")
    if not any(folder.iterdir()):
        raise CheckpointError(f"{folder} is empty: download the checkpoint again, all of its files")


def check_content(path: Path) -> None:
    """Raise `CheckpointError` where a file is a Git LFS pointer, which git leaves where it fetched no content."""
    if (size := pointed_at(path)) is not None:
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file itself{size}: run `git lfs pull` in {path.parent}, or download "
            "the file"
        )


def pointed_at(path: Path) -> str | None:
    """Return how large the content of a Git LFS pointer is, in brackets; None for any other file."""
    if not path.is_file() or path.stat().st_size >= POINTER_BYTES:
        return None
    content = path.read_bytes()
    if not content.startswith(POINTER):
        return None
    fields = dict(line.split(" ", 1) for line in content.decode("utf-8", "replace").splitlines() if " " in line)
    size = fields.get("size", "")
    return f" ({int(size):,} bytes)" if size.isdigit() else ""


def foreign(folder: Path) -> str:
    """Return what weights of another library the folder holds, and the command that converts them; empty for none."""
    indices = sorted(folder.glob("*.ckpt*.index"))
    if indices:
        config = next((path.name for path in sorted(folder.glob("*config.json"))), "bert_config.json")
        model = "albert" if "albert" in f"{config} {indices[0].name} {folder.name}".lower() else "bert"
        return (
            "it holds a TensorFlow checkpoint, which is not read. Convert it where transformers 4 and TensorFlow are "
            f"installed: transformers-cli convert --model_type {model} --tf_checkpoint "
            f"{folder / indices[0].name.removesuffix('.index')} --config {folder / config} --pytorch_dump_output "
            f"{folder / 'pytorch_model.bin'}"
        )
    for pattern, library, option in (
        ("tf_model*.h5", "TensorFlow", "from_tf"), ("flax_model*.msgpack", "Flax", "from_flax"),
    ):  # fmt: skip
        if any(folder.glob(pattern)):
            return (
                f"its weights are {library}'s alone, which are not read. Convert them where transformers 4 and "
                f'{library} are installed: python -c "import json, transformers as t; d = {str(folder)!r}; '
                f"getattr(t, json.load(open(d + '/config.json'))['architectures'][0])"
                f'.from_pretrained(d, {option}=True).save_pretrained(d)"'
            )
    return ""


def listed(folder: Path) -> str:
    """Return the names of the folder's files, the first of them where there are many."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _adapter(folder: Path, path: Path) -> str:
    """What to do with a PEFT adapter: weights that are added to a base model's."""
    try:
        written: Any = json.loads(path.read_text(encoding="utf-8"))
        kind, base, task = (written.get(key) for key in ("peft_type", "base_model_name_or_path", "task_type"))
    except (OSError, ValueError, AttributeError):
        kind = base = task = None
    auto = f"AutoPeftModelFor{MERGED_BY[task]}" if task in MERGED_BY else "AutoPeftModel"
    merged = f"{folder}-merged"
    return (
        f"is a PEFT adapter ({kind or 'of an unknown kind'}, over {base or 'an unnamed base'}), no whole model. Merge "
        f'it where peft is installed: python -c "from peft import {auto} as M; '
        f"M.from_pretrained({str(folder)!r}).merge_and_unload().save_pretrained({merged!r})\", and copy the base's "
        "tokenizer files there"
    )
