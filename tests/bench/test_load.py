"""Percentiles, and what wrk prints."""

import json
import math
import subprocess
from pathlib import Path

import pytest

from bench import wrk
from bench.errors import ClientError
from bench.load import Load, percentile

OUTPUT = """Running 3s test @ http://127.0.0.1:8000/classify
  1 threads and 32 connections
bench-wrk {"duration": 2000000, "requests": 1000, "status": 40, "lost": 3, "p50": 1500, "p95": 2500, "p99": 90000}
"""


@pytest.mark.parametrize(("q", "expected"), [(50, 5), (51, 6), (95, 10), (99, 10), (10, 1), (100, 10)])
def test_percentile_is_a_value_that_occurred(q: float, expected: float) -> None:
    assert percentile([7, 3, 1, 10, 5, 2, 9, 4, 8, 6], q) == expected


def test_percentile_of_one_and_of_none() -> None:
    assert percentile([3.0], 99) == 3.0
    assert math.isnan(percentile([], 50))


def test_load_of_latencies() -> None:
    load = Load.of([0.3, 0.1, 0.2], errors=2, seconds=1.5)
    assert load == Load(seconds=1.5, answered=3, errors=2, p50=0.2, p95=0.3, p99=0.3)


def test_parses_what_the_script_prints() -> None:
    """Answers with an error's status are requests for wrk; here they are none."""
    assert wrk.parse(OUTPUT) == Load(seconds=2.0, answered=960, errors=43, p50=0.0015, p95=0.0025, p99=0.09)


def test_where_nothing_was_answered_there_is_no_latency() -> None:
    line = OUTPUT.replace('"requests": 1000', '"requests": 40')
    assert math.isnan(wrk.parse(line).p99)


def test_output_without_the_line_is_an_error() -> None:
    with pytest.raises(ClientError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_script_carries_any_body(tmp_path: Path) -> None:
    """Each byte reaches Lua as it is: quotes, backslashes, line ends, other scripts."""
    body = json.dumps({"text": 'say "no" \\ 100 %s — 東京\n'}, ensure_ascii=False).encode() + b"\x00\xff"
    quoted = wrk._quoted(body)
    assert quoted.isascii()
    # Lua's decimal escapes, read back: \ddd is one byte.
    inside, found, at = quoted[1:-1], bytearray(), 0
    while at < len(inside):
        escaped = inside[at] == "\\"
        found.append(int(inside[at + 1 : at + 4]) if escaped else ord(inside[at]))
        at += 4 if escaped else 1
    assert bytes(found) == body
    assert quoted in wrk.script([b"{}", body])


@pytest.mark.skipif(not wrk.available(), reason="no wrk on this machine")
def test_wrk_says_why_it_failed() -> None:
    with pytest.raises((ClientError, subprocess.TimeoutExpired)):
        wrk.run("http://127.0.0.1:1/", [b"{}"], connections=1, seconds=1)
