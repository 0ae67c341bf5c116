"""How far a run is, on the standard error."""

from __future__ import annotations

import io

from service.scoring.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_five_seconds() -> None:
    now, out = [100.0], io.StringIO()
    progress = Progress(1000, 100, 0, out, clock=lambda: now[0])
    for _ in range(100):
        now[0] += 0.2
        progress.add(4, 1)
    lines = out.getvalue().splitlines()
    assert len(lines) in (3, 4)
    assert lines[0] == "225 of 1,000 rows (22.5%), 25 rows/s, 0:00:31 left, 25 rejected"
    progress.end()
    assert out.getvalue().splitlines()[-1] == "600 of 1,000 rows (60.0%), 25 rows/s, 0:00:16 left, 100 rejected"
    assert (progress.rows, progress.rejected, round(progress.seconds)) == (500, 100, 20)


def test_a_terminal_gets_one_line_that_is_written_over() -> None:
    now, out = [0.0], Terminal()
    progress = Progress(10, 0, 0, out, clock=lambda: now[0])
    for _ in range(10):
        now[0] += 0.3
        progress.add(1, 0)
    progress.end()
    assert out.getvalue().count("\r") == 6
    assert out.getvalue().endswith("10 of 10 rows (100.0%), 3 rows/s, 0:00:00 left, 0 rejected\033[K\n")


def test_an_empty_input_is_done() -> None:
    out = io.StringIO()
    Progress(0, 0, 0, out).end()
    assert out.getvalue() == "0 of 0 rows (100.0%), 0 rows/s, ? left, 0 rejected\n"
