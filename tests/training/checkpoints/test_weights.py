"""A folder's weights in a model: whole, newly initialized in part, or refused by the name of what is wrong."""

import json
from pathlib import Path

import pytest
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
)

from tests.training.samples import save_checkpoint
from training.checkpoints import weights as pretrained
from training.errors import CheckpointError

HEAD = ["classifier.bias", "classifier.weight"]


def classifier(folder: Path, labels: int, **options: bool) -> list[str]:
    """The names of the weights that a classifier of so many labels does not find in `folder`."""
    config = AutoConfig.from_pretrained(folder, num_labels=labels)
    return pretrained.load(AutoModelForSequenceClassification, folder, config, **options)[1]


def test_what_the_folder_lacks_is_named(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "three", "ForSequenceClassification", num_labels=3)
    assert classifier(folder, 3) == []
    assert classifier(folder, 2, other_head=True) == HEAD
    assert classifier(save_checkpoint(tmp_path / "bare"), 2) == HEAD


def test_a_head_of_another_shape_is_taken_for_none_only_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "three", "ForSequenceClassification", num_labels=3)
    with pytest.raises(CheckpointError, match=r"three: weights do not have the shapes .*: classifier\.bias"):
        classifier(folder, 2)


def test_an_encoder_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "wide")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 96}))
    with pytest.raises(CheckpointError, match=r"weights do not have the shapes .*: bert\.encoder\.layer\.0"):
        classifier(folder, 2, other_head=True)


def test_a_head_that_the_family_has_not_is_said(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "bart", family="Bart", encoder_layers=1, decoder_layers=1)
    config = AutoConfig.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="transformers has no ModelForMultipleChoice of bart"):
        pretrained.load(AutoModelForMultipleChoice, folder, config)


def test_an_encoder_is_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_checkpoint(tmp_path / "bert")
    config = AutoConfig.from_pretrained(folder)
    pretrained.encoder(AutoModelForMaskedLM, folder, config, "sdpa")
    assert "cls.predictions.bias" in caplog.text
    config.num_hidden_layers += 1
    for auto, missing in ((AutoModelForMaskedLM, "bert.encoder.layer"), (AutoModel, "encoder.layer")):
        with pytest.raises(CheckpointError, match=rf"weights of the encoder are missing \({missing}"):
            pretrained.encoder(auto, folder, config, "sdpa")
