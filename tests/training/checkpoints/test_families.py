"""Families: each says where all of its weights are, and nobody else asks which family a checkpoint is of."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.samples import recipe, save_checkpoint
from tests.training.tiny import PAIRS, tiny
from training.checkpoints import families
from training.errors import RecipeError
from training.export import graph
from training.finetune import runner as finetune


def test_each_family_has_a_file() -> None:
    folder = Path(families.__file__).parent
    assert len(families.FAMILIES) == len({family.called for family in families.FAMILIES.values()})
    for name, family in families.FAMILIES.items():
        assert family.model_type == name
        assert (folder / f"{name.replace('-', '_')}.py").is_file()
        assert family.called.split(" ", 1)[0] in ("A", "An")


def test_the_graph_asks_for_no_family_by_name() -> None:
    source = Path(graph.__file__).read_text(encoding="utf-8")
    assert "model_type" not in source
    assert not [name for name in families.FAMILIES if f'"{name}"' in source]


@pytest.mark.parametrize(("name", "head"), PAIRS)
def test_every_weight_has_a_place(name: str, head: str) -> None:
    """What a family doesn't name would be left out of its graph."""
    model = tiny(name, head)
    config = model.config
    family = families.of(config)
    shaped = graph.head_of(model)
    head_modules = {shaped.last, shaped.dense, shaped.norm if hasattr(shaped, "norm") else ""}
    found = {key.rpartition(".")[0] for key in model.state_dict()}
    assert found == {*family.modules(config), *head_modules} - {""}


def test_distances_are_in_torchs_buckets() -> None:
    model = tiny("MPNet", "QuestionAnswering")
    bias = families.of(model.config).relative_bias(model.config)
    assert bias is not None
    distances = torch.arange(-500, 501)
    expected = model.mpnet.encoder.relative_position_bucket(distances, 32, 128).numpy()
    farthest = len(bias.buckets) // 2
    assert np.array_equal(bias.buckets[np.clip(distances.numpy(), -farthest, farthest) + farthest], expected)


def test_an_attention_of_its_own_is_trained_with(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "encoder", family="MPNet", pad_token_id=1)
    made = recipe(folder, tmp_path / "o", "t", attention="sdpa")
    config = finetune._load_config(made)
    model, _ = finetune._load_model(made, config)
    assert model.config._attn_implementation == "eager"
    with pytest.raises(RecipeError, match="the head of mpnet has the encoder's dropout"):
        finetune._load_config(recipe(folder, tmp_path / "o", "t", classifier_dropout=0.4))
