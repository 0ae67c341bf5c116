"""The file of disagreements: lines of JSON, a bound, and nothing that stops the service."""

import json
import logging
import stat
import threading
import time
from pathlib import Path

import pytest

from service.rollout import disagreements as module
from service.rollout.disagreements import Disagreements
from service.tasks import Classification, ClassificationExample


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_records_are_lines_of_json_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    file = Disagreements(path, 1_000_000)
    answer = Classification("good", 0.9, {"good": 0.9, "bad": float("inf")}, False)
    file.add({"input": ClassificationExample("a\nb"), "answers": {"1": answer}})
    file.add({"input": "déjà"})
    file.close()
    first, second = lines(path)
    assert first["input"] == {"text": "a\nb", "text_pair": None, "top_k": None}
    assert first["answers"]["1"]["scores"] == {"good": 0.9, "bad": None}  # type: ignore[index]
    assert second == {"input": "déjà"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_bounded_and_one_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    file = Disagreements(path, 1000)
    for number in range(100):
        file.add({"number": number, "text": "x" * 60})
        while file._waiting.qsize() > 100:
            time.sleep(0.001)
    file.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file.jsonl", "file.jsonl.1"]
    assert all(each.stat().st_size <= 1000 for each in tmp_path.iterdir())
    numbers = [record["number"] for record in lines(tmp_path / "file.jsonl.1") + lines(path)]
    assert numbers == list(range(100 - len(numbers), 100))


def test_a_longer_line_is_written_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    file = Disagreements(path, 100)
    file.add({"text": "x" * 500})
    file.close()
    assert len(lines(path)) == 1


def test_a_disk_that_is_full_is_told_once_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "none" / "file.jsonl"
    file = Disagreements(path, 1000)
    with caplog.at_level(logging.ERROR):
        file.add({"text": "a secret"})
        file.add({"text": "b"})
        while file._waiting.qsize():
            time.sleep(0.001)
        time.sleep(0.05)
        assert len(caplog.records) == 1
        assert "secret" not in caplog.text
        path.parent.mkdir()
        file.add({"text": "c"})
        file.close()
    assert lines(path) == [{"text": "c"}]


def test_a_file_that_is_slow_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, writes = threading.Event(), []

    def slow(self: Disagreements, line: bytes) -> None:
        gate.wait(10)
        writes.append(line)

    monkeypatch.setattr(Disagreements, "_write", slow)
    file = Disagreements(tmp_path / "file.jsonl", 1000)
    began = time.perf_counter()
    for number in range(3 * module.MOST_WAITING):
        file.add({"number": number})
    file.close(seconds=0.01)
    assert time.perf_counter() - began < 1.0
    gate.set()
    file._thread.join(10)
    assert module.MOST_WAITING <= len(writes) <= module.MOST_WAITING + 1
