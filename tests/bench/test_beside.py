"""What runs beside, measured for a moment on a real service."""

import json
from pathlib import Path

import pytest

from bench import beside


@pytest.mark.parametrize("part", ["shadow", "cache"])
def test_a_moment(part: str, models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [part, "--rounds", "1", "--seconds", "0.5", "--connections", "4"]
    assert beside.main([*arguments, "--bundle", str(models_dir / "sentiment")]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    if part == "shadow":
        assert told["p95"]["ratio"] > 0
        assert told["compared"] + told["dropped"] > 0
    else:
        assert set(told) == {"the same sentence", "half repeats", "all new"}
        assert all(each[which]["rate"] > 0 for each in told.values() for which in ("off", "on"))


def test_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert beside.main(["cache", "--bundle", str(tmp_path)]) == 1
    assert "no bundle" in capsys.readouterr().err
