"""Counts on the meta device are the real modules' counts, and agree with the papers."""

import pytest
from transformers import AutoModel

from bench.compare import parameters, subjects
from tests.bench.compare.shapes import TINY, tiny
from tests.training import tiny as families


@pytest.mark.parametrize("name", ["bert-base", "albert-base"])
def test_no_parameter_is_lost_or_counted_twice(name: str) -> None:
    config = tiny()[name].config
    real = AutoModel.from_config(config)
    counted = parameters.count(config)
    assert counted.total == sum(parameter.numel() for parameter in real.parameters())
    assert counted.layers == counted.layer * counted.stored
    assert counted.pooler == 32 * 32 + 32
    assert (counted.stored, counted.run) == ((1, 3) if name == "albert-base" else (3, 3))


@pytest.mark.parametrize("family", ["Roberta", "Electra"])
def test_checkpoints_of_other_families_are_counted(family: str) -> None:
    config_class, settings = families.FAMILIES[family]
    config = config_class(**families.SHAPE | settings)
    counted = parameters.count(config)
    assert counted.total == sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    assert (counted.pooler > 0) == (family == "Roberta")


def test_the_projection_counts_as_embedding() -> None:
    wide, narrow = (parameters.count(subjects.albert(**TINY, embedding_size=size)) for size in (16, 8))
    tables_and_norm = (97 + 64 + 2 + 2) * 8
    assert wide.embeddings - narrow.embeddings == tables_and_norm + 8 * 32
    assert wide.layers == narrow.layers


def test_published_sizes() -> None:
    """Within 6 %: the papers round, and count heads for the largest."""
    for subject in subjects.choose():
        assert parameters.count(subject.config).total == pytest.approx(subject.published, rel=0.06), subject.name


def test_grid_changes_one_thing_at_a_time() -> None:
    cells = {(cell.embedding_size, cell.shared): cell.parameters for cell in parameters.grid()}
    assert len(cells) == 8
    for size in (64, 128, 256, 768):
        shared, apart = cells[size, True], cells[size, False]
        assert shared.embeddings == apart.embeddings
        assert apart.layers == 12 * shared.layers
    assert all(cell.parameters.total == pytest.approx(cell.published, rel=0.035) for cell in parameters.grid())
