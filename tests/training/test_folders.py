"""Folders that are no checkpoint: one line says what each is and what to do, and nothing of the library's words."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training import folders
from training.checkpoints import stored
from training.checkpoints.configs import load_config
from training.errors import CheckpointError
from training.tokenizers.loading import load_tokenizer

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 267832558\n"
)


def write(folder: Path, **files: object) -> Path:
    folder.mkdir()
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


BERT = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "bert-base-uncased", "task_type": "SEQ_CLS"}

KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing": (lambda folder: folder, r"c is no folder$"),
    "an empty one": (write, r"c is empty: download the checkpoint again"),
    "a pointer for weights": (
        lambda folder: write(folder, config__json=BERT, model__safetensors=POINTER),
        r"model\.safetensors is a Git LFS pointer, not the file itself \(267,832,558 bytes\): run `git lfs pull` in ",
    ),
    "a pointer for a config": (
        lambda folder: write(folder, config__json=POINTER), r"config\.json is a Git LFS pointer",
    ),
    "a pointer for a tokenizer": (
        lambda folder: write(folder, config__json=BERT, model__safetensors="x", tokenizer__json=POINTER),
        r"tokenizer\.json is a Git LFS",
    ),
    "a pointer without a size": (
        lambda folder: write(folder, config__json=BERT, model__safetensors="x", vocab__txt=POINTER.split("oid")[0]),
        r"vocab\.txt is a Git LFS pointer, not the file itself: run",
    ),
    "an adapter": (
        lambda folder: write(folder, adapter_config__json=ADAPTER, adapter_model__safetensors="x"),
        r"is a PEFT adapter \(LORA, over bert-base-uncased\), no whole model\. Merge it .*"
        r"from peft import AutoPeftModelForSequenceClassification as M; M\.from_pretrained\('.*/c'\)"
        r"\.merge_and_unload\(\)\.save_pretrained\('.*/c-merged'\)",
    ),
    "an adapter with a broken config": (
        lambda folder: write(folder, adapter_config__json="[", config__json=BERT),
        r"is a PEFT adapter \(of an unknown kind, over an unnamed base\)",
    ),
    "Keras": (
        lambda folder: write(folder, config__json=BERT, tf_model__h5="x"),
        r"its weights are TensorFlow's alone.*from_tf=True\)\.save_pretrained\(d\)",
    ),
    "Flax": (
        lambda folder: write(folder, config__json=BERT, flax_model__msgpack="x"),
        r"its weights are Flax's alone.*from_flax=True\)\.save_pretrained\(d\)",
    ),
    "Google's": (
        lambda folder: write(folder, bert_config__json={}, bert_model__ckpt__index="x", vocab__txt="a"),
        r"has no config\.json; it holds a TensorFlow checkpoint.*transformers-cli convert --model_type bert "
        r"--tf_checkpoint .*/c/bert_model\.ckpt --config .*/c/bert_config\.json --pytorch_dump_output .*/c/pytorch",
    ),
    "Google's ALBERT": (
        lambda folder: write(folder, albert_config__json={}, **{"model.ckpt-best.index": "x"}),
        r"--model_type albert --tf_checkpoint .*/c/model\.ckpt-best --config .*/albert_config\.json",
    ),
    "no config": (lambda folder: write(folder, notes__txt="x"), r"has no config\.json; it holds notes\.txt"),
    "no weights": (
        lambda folder: write(folder, config__json=BERT),
        r"has no weights: looked for model\.safetensors, model\.safetensors\.index\.json, pytorch_model\.bin, .*; it "
        r"holds config\.json",
    ),
    "no model_type": (lambda folder: write(folder, config__json={}), r'no model_type; write .* "model_type": "bert"'),
    "quantised": (
        lambda folder: write(folder, config__json=BERT | {"quantization_config": {"quant_method": "gptq"}}),
        r"its weights are quantised already \(gptq\)",
    ),
    "a broken config": (lambda folder: write(folder, config__json="{"), r"config\.json"),
}  # fmt: skip


def open_checkpoint(folder: Path) -> None:
    folders.check(folder)
    load_config(folder)
    stored.files(folder)
    load_tokenizer(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_one_line_says_what_it_is(tmp_path: Path, kind: str) -> None:
    make, message = KINDS[kind]
    folder = make(tmp_path / "c")
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(folder)
    assert "\n" not in str(error.value)


def test_a_pointer_beside_what_was_fetched_is_no_fault(tmp_path: Path) -> None:
    """As `git lfs pull --include` leaves it."""
    folder = write(tmp_path / "c", config__json=BERT, model__safetensors=POINTER, tf_model__h5=POINTER)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert stored.files(folder) == [folder / "pytorch_model.bin"]


def test_a_shard_that_is_a_pointer(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "a.bin", "b": "b.bin"}}
    folder = write(tmp_path / "c", **{"pytorch_model.bin.index.json": index, "a.bin": "x", "b.bin": POINTER})
    with pytest.raises(CheckpointError, match=r"b\.bin is a Git LFS pointer"):
        stored.files(folder)


TOKENIZERS = {
    "nothing": ({"config__json": BERT}, r"there is no tokenizer: looked for tokenizer\.json, vocab\.txt, .*; copy the"),
    "half of one": ({"vocab__json": {}}, r"there is no tokenizer: vocab\.json lies there without its merges\.txt"),
    "a pointer": ({"vocab__txt": "a", "tokenizer_config__json": POINTER}, r"tokenizer_config\.json is a Git LFS"),
    "a broken one": ({"tokenizer__json": "{}", "config__json": BERT}, "no fast tokenizer can be loaded"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_folder_without_a_tokenizer(tmp_path: Path, kind: str) -> None:
    files, message = TOKENIZERS[kind]
    with pytest.raises(CheckpointError, match=message) as error:
        load_tokenizer(write(tmp_path / "c", **files))
    assert "\n" not in str(error.value)


def test_many_files_are_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", **{f"f{i}": "x" for i in range(9)})
    assert folders.listed(folder) == "f0, f1, f2, f3, f4, f5 and 3 more"


def test_an_adapter_s_head_says_how_many_labels(tmp_path: Path) -> None:
    """The config of a base without a head says two, and peft goes by that unless it is told."""
    folder = write(tmp_path / "a", adapter_config__json=json.dumps({"task_type": "SEQ_CLS", "peft_type": "LORA"}))
    name = "base_model.model.classifier.weight"
    tensors = {name: torch.zeros(5, 8), "base_model.model.x.lora_A.weight": torch.zeros(2, 8)}
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"AutoPeftModelForSequenceClassification .*a', num_labels=5\)\.merge_and"
    ):
        folders.check(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"from_pretrained\('[^']*'\)\.merge_and_unload"):
        folders.check(folder)
