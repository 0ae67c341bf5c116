"""The program that runs the attacks: every fault of the table is attacked, and the table says what was measured."""

from pathlib import Path

import pytest

from bench.chaos import __main__ as program
from bench.chaos.result import Result, table
from bench.chaos.roster import ATTACKS


def test_every_fault_is_attacked() -> None:
    numbers = [number for number, _ in ATTACKS]
    assert set(numbers) == set(range(1, 17))
    assert numbers == sorted(numbers)


def test_the_table_has_values_with_units() -> None:
    result = Result(3, "a flood | of bodies", "≤ 250 ms")
    result.put("p99", 123.456, "ms")
    result.put("ready again after", None, "s")
    result.put("statuses", [200, 429])
    assert table([result], markdown=True).splitlines()[-1] == (
        "| 3 | a flood \\| of bodies | p99 123 ms; ready again after never; statuses 200, 429 | ≤ 250 ms | **no** |"
    )


def test_an_attack_that_cannot_be_made_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(models: Path) -> Result:
        raise RuntimeError("no such port")

    def held(models: Path) -> Result:
        return Result(2, "a list", "refused", met=True)

    monkeypatch.setattr(program, "ATTACKS", ((1, broken), (2, held), (3, broken)))
    assert program.main(["--only", "1,2"]) == 1
    shown = capsys.readouterr().out
    assert "broke RuntimeError: no such port" in shown
    assert "1 of 2 hold" in shown
    assert program.main(["--only", "2", "--markdown"]) == 0
    assert "| 2 | a list |  | refused | yes |" in capsys.readouterr().out
