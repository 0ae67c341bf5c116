"""Bundles that nobody should serve, and files that change while they are served (fault 10)."""

from pathlib import Path

import pytest

from bench.chaos import bundles


@pytest.mark.parametrize("case", list(bundles.BROKEN))
def test_a_broken_bundle_is_refused_in_one_line_that_names_it(bundled_models: Path, case: str) -> None:
    result = bundles.refused(bundled_models, only=(case,))
    assert result[case] == "exit 3, 1 line"
    assert result["refused rightly"] == "1 of 1"


@pytest.mark.parametrize("change", list(bundles.CHANGES))
def test_weights_that_change_on_disk_do_no_harm(bundled_models: Path, change: str) -> None:
    result = bundles.changed_while_served(bundled_models, only=(change,))
    assert result[f"{change}: wrong answers"] == 0, result.measured()
    assert result[f"{change}: exit status"] == "none: it serves", result.measured()


def test_logits_that_are_no_numbers_are_an_error_of_that_request_alone(bundled_models: Path) -> None:
    result = bundles.nan_logits(bundled_models)
    assert result["engine's: status"] == 500
    assert result["engine's: null scores"] == 0
    assert result["engine's: neighbours answered"] == 7
    assert result["graph's: status"] in (500, "refused at start, exit 3")
    assert result["graph's: others"] == 200
