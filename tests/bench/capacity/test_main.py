"""The program: a short measurement of the real service, the check beside it, and the tables."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.capacity import check, plan
from bench.capacity.__main__ import main
from bench.capacity.clients import Point
from bench.capacity.costs import Costs
from bench.capacity.traffic import Mix
from tests.bench.capacity.samples import COSTS

MODELS = Path(__file__).parents[3] / "models"


def test_it_measures_and_checks_the_real_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "costs.json"
    arguments = ["--costs", str(file), "--models", str(MODELS), "--names", "sentiment-albert", "--seconds", "0.3"]
    assert main(["measure", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["models"].keys() == {"sentiment-albert"}
    costs = Costs.load(file)
    assert costs.refusal > 0
    assert 0 < costs.request + 20 * costs.text_token < 0.1
    assert costs.memory > 50e6
    model = costs.models["sentiment-albert"]
    assert 0 < model.batch.seconds(1, 16) < model.batch.seconds(8, 32)

    assert main(["check", *arguments, "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[2:].split("  ")[0] for line in lines[2:-1]] == ["1 clients", "4 clients", "8 clients", "32 clients",
                     "50% of the peak", "80% of the peak", "150% of the peak"]  # fmt: skip


def test_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "costs.json"
    COSTS.save(file)
    arguments = ["--costs", str(file), "--mix", "m:100", "--span", "30", "--times", "3"]
    page = tmp_path / "page.md"
    page.write_text(
        "".join(f"<!-- capacity: {key} -->\n<!-- /capacity -->\n" for key in ("units", "sizes", "scenarios"))
    )
    assert main(["plan", *arguments, "--rates", "1000", "--fill", str(page)]) == 0
    assert capsys.readouterr().out.count("3 × the load") == 2
    text = page.read_text()
    assert "| 1,000 | 12 | 3 |" in text  # 1000 / (0.6 * 145), 7 on a machine, and one to lose
    assert "| m, 64 tokens | 8.00 | 3.8 |" in text  # 6.4 ms alone, 0.8 of the speed beside another
    assert text.count("3 × the load") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "--mix", "other:8"], "no costs of other"),
        (["plan", "--mix", "m:8", "--rates", "fast"], "--rates"),
        (["check", "--names", "other"], "are of m, not of other"),
    ],
)
def test_an_error_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    file = tmp_path / "costs.json"
    COSTS.save(file)
    assert main([*arguments, "--costs", str(file)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_peak_is_that_of_the_cores_or_of_the_loop() -> None:
    mix = Mix.of("m:100")
    assert plan.peak(COSTS, mix) == pytest.approx(2 * 0.8 / 11e-3, rel=0.02)
    assert plan.peak(replace(COSTS, request=50e-3), mix) == pytest.approx(1 / 50e-3, rel=0.25)


def test_money_follows_from_machines() -> None:
    prices = plan.Prices(core_hour=0.1, machine_cores=8, machine_memory=2**31, spare=0)
    size = plan.size(COSTS, 145.0, 500.0, prices, use=0.5)
    assert (size.replicas, size.machines) == (7, 3)
    assert size.month == pytest.approx(3 * 8 * 0.1 * 730)
    assert size.million == pytest.approx(3 * 8 * 0.1 / 3600 / 500 * 1e6)


def test_what_differs_too_much_is_named() -> None:
    measured = Point(100.0, 0.01, 0.02, 0.0)
    assert check.Pair("x", measured, Point(110.0, 0.011, 0.018, 0.1)).off == []
    assert check.Pair("x", measured, Point(120.0, 0.008, 0.021, 0.2)).off == ["rate", "p50", "refused"]


def test_a_crowd_is_felt_until_its_last_slow_second() -> None:
    chosen = plan.scenarios(Mix.of("m:100"), 145.0, use=0.6, times=5.0, seconds=60.0)
    scenario = chosen["5 × the load"]
    found = plan.Outcome(seconds=[(float(i), 3.0 if 10 <= i < 17 else 0.01) for i in range(60)])
    assert plan.felt(found, scenario) == 7
    found.seconds = [(float(i), 3.0) for i in range(60)]
    assert plan.felt(found, scenario) == float("inf")
