"""`make gpu-check` as far as a machine without a GPU can go: the same path on the CPU, and the refusal."""

import json

import pytest
import torch

from bench import gpu_check

HAS_GPU = torch.cuda.is_available()


def test_the_whole_path_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--device", "cpu", "--quick"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["passed"]
    found = {(row["precision"], row["packed"]): row for row in report["rows"]}
    assert set(found) == {("fp32", False), ("fp32", True), ("int8", False)}
    assert all(found["fp32", packed]["difference"] <= 1e-4 for packed in (False, True))
    assert all(row["provider"] == "cpu" and row["rows_per_second"] > 0 for row in report["rows"])


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_without_a_gpu_it_fails_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 1
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.skipif(not HAS_GPU, reason="this machine has no GPU")
def test_on_a_gpu() -> None:
    assert gpu_check.main([]) == 0
