"""The soak's verdict: memory that grew, or an answer that was not 200, fails it."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from bench import serving, soak
from bench.soak import Sample, Soak


@contextlib.contextmanager
def nobody(*_: object) -> Iterator[tuple[None, str]]:
    yield None, ""


@pytest.mark.parametrize(
    ("last", "statuses", "status"),
    [
        (100, {200: 9}, 0),
        (103, {200: 9}, 1),
        (100, {200: 8, 500: 1}, 1),
        (100, {200: 8, 503: 1}, 1),
        (100, {200: 8, 422: 1}, 1),
        (100, {200: 8, 0: 1}, 1),
    ],
)
def test_verdict(
    last: int, statuses: dict[int, int], status: int,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = Soak((Sample(1, 100, 1, 1), Sample(9, last, 1, 1)), statuses)
    monkeypatch.setattr(serving, "bertie", nobody)
    monkeypatch.setattr(soak, "run", lambda *_, **__: found)
    assert soak.main([]) == status
    shown = capsys.readouterr().out
    assert ("1 bad answers" in shown) == (len(statuses) > 1)
    assert json.loads(shown.splitlines()[-1])["growth"] == pytest.approx(last / 100 - 1)
