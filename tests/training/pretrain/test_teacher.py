"""Learning from a teacher: of the words that were masked, of real tokens alone, and as a part like any other."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModel

from tests.training.pretrain.materials import PAD, recipe, write_teacher
from training.errors import CheckpointError, RecipeError
from training.pretrain import corpus, models, throughput, trainer
from training.pretrain.batches import Batch, collate, real_tokens
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.rows import Rows
from training.tokenizers import vocabulary


@pytest.fixture
def taught(corpus_file: str, wordpiece: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretrainRecipe:
    """ALBERT with a teacher, six steps."""
    monkeypatch.setattr(throughput, "MEASURE_SECONDS", 0.01)
    return recipe(
        corpus=(corpus_file,), tokenizer=str(wordpiece), cache=str(tmp_path / "cache"), output=str(tmp_path / "run"),
        teacher=write_teacher(tmp_path / "teacher", wordpiece), teacher_weight=3.0, dropout=0.0,
    )  # fmt: skip


def batch_of(made: PretrainRecipe, count: int = 6) -> tuple[Batch, torch.Tensor]:
    """Rows of the corpus, and their ids before masking."""
    known = vocabulary.load(made.tokenizer)
    text = corpus.load(made.corpus, known, Path(made.cache))
    rows = Rows(made, text, range(len(text)), known)
    items = [rows.make(number, 0) for number in range(count)]
    batch = collate(items, PAD, made.max_length)
    ids = torch.full_like(batch["input_ids"], PAD)
    for place, row in zip(ids, items, strict=True):
        whole = np.array(row.input_ids)
        whole[row.positions] = row.labels
        place[: len(whole)] = torch.from_numpy(whole)
    return batch, ids


def test_it_reads_what_was_masked(taught: PretrainRecipe) -> None:
    batch, ids = batch_of(taught)
    assert not torch.equal(batch["input_ids"], ids)
    objective = models.make(taught, vocabulary.load(taught.tokenizer))
    assert objective.teacher
    with torch.no_grad():
        wanted = AutoModel.from_pretrained(taught.teacher).eval()(
            input_ids=ids, attention_mask=batch["attention_mask"], token_type_ids=batch["token_type_ids"]
        )
    assert torch.allclose(objective.teacher.hidden(batch), wanted.last_hidden_state, atol=1e-6)


def test_the_loss_is_of_normal_states_at_real_tokens(taught: PretrainRecipe) -> None:
    batch, _ = batch_of(taught)
    objective = models.make(taught, vocabulary.load(taught.tokenizer))
    assert objective.teacher
    states = objective.teacher.hidden(batch)
    count = objective.counts(batch)["hidden"]
    assert count == real_tokens(batch) < batch["input_ids"].numel()
    scaled = 5 * states + 2
    scaled[batch["attention_mask"] == 0] = 99.0
    assert objective.teacher.loss(batch, scaled).tolist() == pytest.approx([0, count], abs=1e-3)
    error, cosine = (objective.teacher.loss(batch, torch.randn_like(states)) / count).tolist()
    assert (error, cosine) == (pytest.approx(2, abs=0.2), pytest.approx(0, abs=0.1))
    assert cosine == pytest.approx(1 - error / 2, abs=1e-5)
    real = batch["attention_mask"].bool()
    found = objective.model.base_model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], token_type_ids=batch["token_type_ids"]
    ).last_hidden_state
    left, right = (functional.layer_norm(x, (32,))[real] for x in (found, states))
    assert objective(batch)["hidden"][0].item() == pytest.approx(
        (left - right).square().mean(-1).sum().item(), rel=1e-5
    )


def test_a_run_learns_from_it_and_does_not_keep_it(taught: PretrainRecipe) -> None:
    metrics = trainer.run(dataclasses.replace(taught, steps=40, save_steps=40, eval_steps=20, optimizer="adamw"))
    first, last = metrics["train"][0], metrics["dev"][-1]
    assert first["loss"] == pytest.approx(first["mlm_loss"] + first["sop_loss"] + 3 * first["hidden_loss"])
    assert last["hidden_loss"] < 0.8 * first["hidden_loss"]
    assert last["hidden_cosine"] == pytest.approx(1 - last["hidden_loss"] / 2)
    saved = load_file(Path(taught.output) / "checkpoint-40" / "weights.safetensors")
    assert all(name.startswith("model.") for name in saved)
    assert metrics["parameters"] == sum(tensor.numel() for tensor in saved.values())
    alone = dataclasses.replace(taught, teacher="")
    assert metrics["flops_per_token"] > throughput.flops_per_token(alone, models.make(
        alone, vocabulary.load(taught.tokenizer)).model.config)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16", "attention": "bf16_eager", "dropout": 0.1},
        {"family": "spanbert", "masking": "span", "pairs": "none", "embedding_size": 0},
    ],
    ids=["bf16", "spanbert"],
)
def test_resume_continues_exactly(taught: PretrainRecipe, tmp_path: Path, changes: dict[str, Any]) -> None:
    whole, cut = (dataclasses.replace(taught, output=str(tmp_path / name), **changes) for name in ("whole", "cut"))
    metrics = trainer.run(whole)
    shutil.copytree(Path(whole.output) / "checkpoint-3", Path(cut.output) / "checkpoint-3")
    again = trainer.run(cut, resume=True)
    speeds = {"tokens_per_second", "peak_share"}
    histories = [
        [{key: value for key, value in entry.items() if key not in speeds} for entry in run["train"]]
        for run in (metrics, again)
    ]
    assert histories[0] == histories[1]
    assert metrics["dev"] == again["dev"]


def test_what_does_not_fit(taught: PretrainRecipe, wordpiece: Path, bytebpe: Path, tmp_path: Path) -> None:
    known = vocabulary.load(taught.tokenizer)

    def load(folder: str) -> None:
        models.make(dataclasses.replace(taught, teacher=folder), known)

    with pytest.raises(CheckpointError, match="has hidden size 16, the student 32"):
        load(write_teacher(tmp_path / "thin", wordpiece, hidden_size=16))
    with pytest.raises(CheckpointError, match="has 40 positions, and rows are 48 tokens long"):
        load(write_teacher(tmp_path / "short", wordpiece, max_position_embeddings=40))
    with pytest.raises(CheckpointError, match="knows of one segment, and pairs 'order' makes two"):
        load(write_teacher(tmp_path / "single", wordpiece, type_vocab_size=1))
    with pytest.raises(CheckpointError, match="has another vocabulary"):
        load(write_teacher(tmp_path / "other", bytebpe))
    with pytest.raises(CheckpointError, match="nowhere"):
        load(str(tmp_path / "nowhere"))
    config = json.loads((Path(taught.teacher) / "config.json").read_text())
    (tmp_path / "headless").mkdir()
    (tmp_path / "headless" / "config.json").write_text(json.dumps(config | {"intermediate_size": 49}))
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(taught.teacher) / name, tmp_path / "headless")
    with pytest.raises(CheckpointError, match="do not have the shapes"):
        load(str(tmp_path / "headless"))


def test_recipes_with_a_teacher() -> None:
    with pytest.raises(RecipeError, match="teacher_weight must be above 0"):
        recipe(teacher="t", teacher_weight=0.0)
    with pytest.raises(RecipeError, match="of which a teacher says nothing"):
        recipe(teacher="t", family="electra", masking="subword", pairs="none")
