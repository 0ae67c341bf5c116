"""Who is compared: order, names, checkpoints in a model's place."""

from pathlib import Path

import pytest

from bench.compare import subjects
from tests.training.samples import save_checkpoint
from training.errors import CheckpointError, TrainingError

SIX = ["bert-base", "albert-base", "bert-large", "albert-large", "albert-xlarge", "albert-xxlarge"]


def test_all_six_unless_named() -> None:
    assert [subject.name for subject in subjects.choose()] == SIX
    assert [subject.name for subject in subjects.choose(("albert-base", "bert-base"))] == ["bert-base", "albert-base"]


def test_nothing_but_the_shape_differs() -> None:
    bert, albert = (subject.config for subject in subjects.choose(("bert-base", "albert-base")))
    for name in ("hidden_act", "hidden_dropout_prob", "hidden_size", "num_attention_heads", "intermediate_size"):
        assert getattr(bert, name) == getattr(albert, name)


def test_an_unknown_size_is_named_with_the_nearest() -> None:
    with pytest.raises(TrainingError, match=r"'albert-bass' .* did you mean 'albert-base'\?"):
        subjects.choose(("bert-base", "albert-bass"))


def test_a_checkpoint_takes_a_place_or_adds_a_row(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "mine", "ForSequenceClassification", num_labels=3)
    chosen = subjects.choose(("bert-base", "albert-base"), {"bert-base": folder, "mine": folder})
    assert [(s.name, s.checkpoint, s.published) for s in chosen] == [
        ("bert-base", folder, 108_000_000),
        ("albert-base", None, 12_000_000),
        ("mine", folder, None),
    ]
    assert chosen[0].config.num_labels == 3  # its head as it is


def test_what_could_not_be_exported_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "mine", is_decoder=True)
    with pytest.raises(CheckpointError, match="only encoders"):
        subjects.choose((), {"mine": folder})
    with pytest.raises(CheckpointError, match="is no folder"):
        subjects.choose((), {"mine": tmp_path / "absent"})
