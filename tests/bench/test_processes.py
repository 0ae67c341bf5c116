"""A short run on small bundles, and the verdict."""

import json
from pathlib import Path

import pytest

from bench import processes


def test_a_short_run(models_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(processes, "APART_SECONDS", 0.5)
    monkeypatch.setattr(processes, "RESTART_SECONDS", 20.0)
    arguments = ["--rounds", "1", "--seconds", "1", "--kills", "1", "--connections", "4", "--client", "python"]
    assert processes.main([*arguments, "--models", str(models_dir)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [each["processes"] for each in found["fronts"]] == [1, 2]
    assert all(each["load"]["answered"] > 10 and not each["load"]["errors"] for each in found["fronts"])
    assert all(each["cpu_seconds"] > 0 for each in found["fronts"])
    assert found["pss"]["2"] < found["pss"]["3"]
    [kill] = found["kills"]
    assert (kill["refused"], kill["lost"] <= 4) == (0, True)
    monkeypatch.setattr(processes, "PSS_BYTES", 0.0)
    monkeypatch.setattr(
        processes, "front", lambda options, n: processes.Front(n, processes.Load.of([0.1], errors=0, seconds=1), 1.0)
    )
    monkeypatch.setattr(processes, "memory", lambda models, n: 1e6 * n)
    monkeypatch.setattr(processes, "kill", lambda options: [processes.Kill(0.1, 0, 4, 10, 4)])
    assert processes.main([]) == 1
    monkeypatch.setattr(processes, "PSS_BYTES", 60e6)
    assert processes.main([]) == 0
    monkeypatch.setattr(processes, "kill", lambda options: [processes.Kill(0.1, 1, 4, 10, 4)])
    assert processes.main([]) == 1
