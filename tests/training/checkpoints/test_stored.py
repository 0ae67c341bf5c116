"""Weights in every kind of file that folders have, to the same model; and what is wrong with a file, in one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from tests.training.samples import make_model, save_checkpoint
from training.checkpoints import stored, weights
from training.checkpoints.configs import load_config
from training.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier in safetensors."""
    return save_checkpoint(tmp_path / "c", "ForSequenceClassification", num_labels=3)


def take(folder: Path) -> Tensors:
    """The weights, whose file goes."""
    path = folder / stored.SAFE
    found = {name: tensor.clone() for name, tensor in load_file(path).items()}
    path.unlink()
    return found


def loaded(folder: Path) -> tuple[Tensors, list[str]]:
    model, missing = weights.load(AutoModelForSequenceClassification, folder, load_config(folder))
    return model.state_dict(), missing


def halves(tensors: Tensors) -> tuple[Tensors, Tensors]:
    names = sorted(tensors)
    return {name: tensors[name] for name in names[::2]}, {name: tensors[name] for name in names[1::2]}


def single(folder: Path, tensors: Tensors) -> None:
    torch.save(tensors, folder / stored.PICKLED)


def single_of_2019(folder: Path, tensors: Tensors) -> None:
    torch.save(tensors, folder / stored.PICKLED, _use_new_zipfile_serialization=False)


def shards(folder: Path, tensors: Tensors) -> None:
    write_shards(folder, tensors, stored.PICKLED, torch.save)


def safe_shards(folder: Path, tensors: Tensors) -> None:
    write_shards(folder, tensors, stored.SAFE, save_file)


def write_shards(folder: Path, tensors: Tensors, name: str, save: Callable[..., None]) -> None:
    named = {}
    for i, part in enumerate(halves(tensors), 1):
        file = name.replace(".", f"-{i:05d}-of-00002.")
        save(part, folder / file)
        named |= dict.fromkeys(part, file)
    (folder / (f"{name}.index.json")).write_text(json.dumps({"metadata": {}, "weight_map": named}))


def of_a_training_loop(folder: Path, tensors: Tensors) -> None:
    single(folder, {"epoch": 3, "state_dict": tensors})  # type: ignore[dict-item]


def with_old_names(folder: Path, tensors: Tensors) -> None:
    ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, old in ends.items():
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    single(folder, {f"module.{name}": tensor for name, tensor in tensors.items()})


def with_position_ids(folder: Path, tensors: Tensors) -> None:
    single(folder, tensors | {"bert.embeddings.position_ids": torch.arange(80)[None]})


def in_half_precision(folder: Path, tensors: Tensors) -> None:
    brain, half = halves(tensors)
    single(folder, {name: tensor.bfloat16() for name, tensor in brain.items()} | {n: t.half() for n, t in half.items()})


LAYOUTS = {
    "one file": single,
    "one file of before torch 1.6": single_of_2019,
    "shards": shards,
    "shards in safetensors": safe_shards,
    "a training loop's": of_a_training_loop,
    "old names": with_old_names,
    "position ids": with_position_ids,
    "fp16 and bf16": in_half_precision,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_model(folder: Path, layout: str) -> None:
    tensors = take(folder)
    LAYOUTS[layout](folder, dict(tensors))
    found, missing = loaded(folder)
    assert missing == []
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    tolerance = 1e-2 if layout == "fp16 and bf16" else 0
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance)
    shapes = stored.shapes(folder)
    assert {name: shapes[name].sizes for name in tensors} == {name: tuple(t.shape) for name, t in tensors.items()}


def test_a_bare_encoder_and_a_task_class_s(folder: Path) -> None:
    encoder = make_model("Model", seed=1)
    take(folder)
    single(folder, encoder.state_dict())
    found, missing = loaded(folder)
    assert missing == ["classifier.bias", "classifier.weight"]
    name = "encoder.layer.1.output.dense.weight"
    assert torch.equal(found[f"bert.{name}"], encoder.state_dict()[name])


def test_safetensors_go_first(folder: Path) -> None:
    (folder / stored.PICKLED).write_bytes(b"never looked at")
    assert loaded(folder)[1] == []


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def test_no_code_is_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    take(folder)
    for old in (True, False):
        torch.save({"a": torch.zeros(2), "b": Code()}, folder / stored.PICKLED, _use_new_zipfile_serialization=old)
        for read in (stored.read, stored.shapes):
            with pytest.raises(CheckpointError, match=r"wants posix\.system, which could run code .*save_file$"):
                read(folder)
    assert not (tmp_path / "ran").exists()


def test_a_whole_model_is_no_weights(folder: Path) -> None:
    take(folder)
    torch.save(make_model("ForSequenceClassification"), folder / stored.PICKLED)
    with pytest.raises(
        CheckpointError, match=r"wants transformers\..*BertForSequenceClassification, .* its state_dict\("
    ):
        loaded(folder)


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("write", [single, single_of_2019, safe_shards])
def test_a_file_that_is_cut_off(folder: Path, write: Callable[[Path, Tensors], None], share: float) -> None:
    write(folder, take(folder))
    path = stored.files(folder)[-1]
    cut(path, share)
    with pytest.raises(CheckpointError, match=rf"{path.name} .*download it again$") as error:
        loaded(folder)
    assert "\n" not in str(error.value)
    if path.suffix == ".safetensors":
        with pytest.raises(CheckpointError, match="download it again"):
            stored.shapes(folder)


def test_how_much_of_a_file_is_there(folder: Path) -> None:
    path = folder / stored.SAFE
    size = path.stat().st_size
    cut(path)
    with pytest.raises(CheckpointError, match=f"cut off: it has {size // 2:,} of {size:,} bytes"):
        loaded(folder)


def test_a_shard_that_is_missing(folder: Path) -> None:
    shards(folder, take(folder))
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"has 1 of the 2 files of weights .*: download pytorch_model-00002"):
        loaded(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "lists no files"),
        ("[]", "lists no files"),
        ('{"weight_map": {}}', "not in its folder"),
        ('{"weight_map": {"a": "../other.bin"}}', "not in its folder"),
        ('{"weight_map": {"a": 1}}', "not in its folder"),
    ],
)
def test_an_index_that_lists_nothing_to_read(folder: Path, content: str, message: str) -> None:
    take(folder)
    (folder / (stored.INDICES[1])).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        loaded(folder)


def test_what_holds_no_weights(folder: Path) -> None:
    take(folder)
    for content, message in (([torch.zeros(2)], "holds one list"), ({"a": "text"}, "'a' is no weight but a str")):
        torch.save(content, folder / stored.PICKLED)
        with pytest.raises(CheckpointError, match=message):
            loaded(folder)


def test_one_weight_by_two_names(folder: Path) -> None:
    norm = "bert.embeddings.LayerNorm"
    single(folder, take(folder) | {f"{norm}.gamma": torch.ones(32)})
    with pytest.raises(CheckpointError, match=rf"two weights are called {norm}\.weight"):
        loaded(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(folder: Path, value: float) -> None:
    tensors = take(folder)
    tensors["bert.encoder.layer.1.output.dense.bias"][3] = value
    single(folder, tensors)
    with pytest.raises(CheckpointError, match=r"layer\.1\.output\.dense\.bias holds 1 of 32 values that are no finite"):
        loaded(folder)


def test_another_architecture_s_weights(folder: Path) -> None:
    take(folder)
    single(folder, make_model("ForSequenceClassification", "Albert", embedding_size=16).state_dict())
    with pytest.raises(
        CheckpointError, match=r"its config says bert, and its \d+ weights are another model's \(albert\."
    ):
        loaded(folder)
