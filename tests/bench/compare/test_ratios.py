"""What is held against what, and which way round."""

import dataclasses

import pytest

from bench.compare import ratios
from bench.compare.ratios import Ratio
from bench.compare.results import Comparison, Row
from bench.report.figure import Figure


def two_pairs(comparison: Comparison) -> list[ratios.Pair]:
    """The tiny ALBERT and BERT, and the same again, of which the ALBERT was neither served nor trained."""
    bert, albert, _ = comparison.rows
    bert = dataclasses.replace(
        bert, training=Figure((300.0, 400.0)), latency={"int8": {8: Figure((2.0,))}}, flops={8: 50}
    )
    albert = dataclasses.replace(
        albert, training=Figure((100.0, 200.0)), latency={"int8": {8: Figure((3.0,), estimated=True)}}, flops={8: 60}
    )
    return [(albert, bert), (dataclasses.replace(albert, training=None, latency={}), bert)]


def test_pairs_are_of_the_same_shape(tiny_comparison: Comparison) -> None:
    def names(rows: tuple[Row, ...]) -> list[tuple[str, str]]:
        return [(a.name, b.name) for a, b in ratios.pairs(dataclasses.replace(tiny_comparison, rows=rows))]

    assert names(tiny_comparison.rows) == [("albert-base", "bert-base")]
    assert names(tiny_comparison.rows[1:]) == []


def test_albert_is_over_bert_and_training_is_time(tiny_comparison: Comparison) -> None:
    pairs = two_pairs(tiny_comparison)
    found = {quantity.name: quantity for quantity in ratios.quantities(pairs)}
    (albert, bert), _ = pairs
    assert found["operations, 8 tokens"].ratios == (Ratio(1.2, False),) * 2
    assert found["time of a row, int8"].ratios == (Ratio(1.5, True), None)
    assert found["time of training"].ratios == (Ratio(2.5, False), None)  # the median of 3 and 2
    for figure in found["parameters"].ratios:
        assert figure is not None
        assert figure.value == pytest.approx(albert.parameters.total / bert.parameters.total)
    assert list(found)[:2] == ["parameters", "checkpoint file"]


def test_what_no_pair_was_measured_in_is_not_there(tiny_comparison: Comparison) -> None:
    _, second = two_pairs(tiny_comparison)
    names = [quantity.name for quantity in ratios.quantities([second])]
    assert "time of training" not in names
    assert not any(name.startswith("time of a row") for name in names)
