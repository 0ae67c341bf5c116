"""What is said of the machine."""

import pytest

from bench import machine


def test_processor_load_and_versions() -> None:
    found = machine.describe(("numpy", "no-such-package"))
    assert found["processor"]
    assert found["load_before"] >= 0
    assert found["numpy"][0].isdigit()
    assert found["no-such-package"] == ""


def test_a_machine_without_cpuinfo_has_a_processor_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.CPUINFO.__class__, "read_text", lambda *_, **__: "flags : none\n")
    assert machine.describe(())["processor"]
