"""What `doctor` says of this machine, and what it finds wrong where something is."""

import json
import platform
from collections.abc import Mapping

import pytest

from training import doctor
from training.__main__ import main

ASKED = ["torch<3,>=2.11; extra == 'train'", "numpy>=2", "matplotlib>=3; extra == 'measure'", "not a requirement ??"]


def installed(monkeypatch: pytest.MonkeyPatch, versions: Mapping[str, str]) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ASKED)
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, ""))
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: 1)


GOOD = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "onnxruntime": "1.32.0"}


def test_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, GOOD)
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    report = json.loads(output.splitlines()[-1])
    assert report["faults"] == []
    facts = report["facts"]
    assert facts["Python"] == platform.python_version()
    assert "may be used" in facts["cores"]
    assert "GB free" in facts["memory"]
    assert "CPU" in facts["ONNX Runtime"]
    assert "torch 2.13.0+cpu" in facts["versions"]


@pytest.mark.parametrize(
    ("versions", "fault"),
    [
        (GOOD | {"torch": ""}, "torch is not installed: pip install 'torch<3,>=2.11'"),
        (
            GOOD | {"torch": "2.5.0"},
            "torch 2.5.0 is installed, and Bertie wants <3,>=2.11: pip install",
        ),
        (GOOD | {"onnxruntime-gpu": "1.32.0"}, "onnxruntime and onnxruntime-gpu are both installed"),
        (GOOD | {"onnxruntime": ""}, "no ONNX Runtime is installed"),
    ],
)
def test_what_is_wrong(
    versions: Mapping[str, str], fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, versions)
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert f"wrong: {fault}" in captured.out
    assert f"error: {fault}" in captured.err


def test_threads_beyond_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, GOOD)
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 2)
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: 64)
    assert doctor.run().faults == ["torch computes on 64 threads where 2 cores may be used: set OMP_NUM_THREADS=2"]


def test_without_bertie_s_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, GOOD)

    def absent(name: str) -> list[str]:
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", absent)
    assert doctor.run().faults[0].startswith("bertie is not installed")
