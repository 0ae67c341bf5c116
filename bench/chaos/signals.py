"""Signals: SIGTERM as process 1 while models load, SIGINT twice, SIGHUP. (13)"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from bench import rows
from bench.chaos import raw
from bench.chaos.engine import Steer, faulty
from bench.chaos.raw import Reply
from bench.chaos.result import Result
from bench.chaos.target import PROGRAM, ROOT, Service, until, variables

UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")
LOADING = "onnxruntime"
"""Mapped by a process that is about to load models."""


def while_loading(models: Path, *, delays: tuple[float, ...] = (0.0, 0.4, 0.8), patience: float = 6.0) -> Result:
    """SIGTERM, so many seconds after ONNX Runtime was mapped, to a service that is process 1 of its namespace."""
    first = _can_be_first()
    result = Result(
        13,
        f"SIGTERM {'as process 1 ' if first else ''}while loading",
        "stops within 3 s: exit 0 or 143, no traceback",
    )
    result.put("as process 1", first)
    good = []
    for delay in delays:
        outcome, seconds, words = _terminated_while_loading(models, delay, patience, first=first)
        result.put(f"at {delay:g} s", outcome, f"({seconds:.1f} s)")
        good.append(outcome in ("exit 0", "exit 143", f"exit {-signal.SIGTERM}") and seconds <= 3 and not words)
    result.met = all(good)
    return result


def _terminated_while_loading(models: Path, delay: float, patience: float, *, first: bool) -> tuple[str, float, bool]:
    """How it ended, after how many seconds, and whether it wrote a traceback."""
    process = subprocess.Popen(
        [*(UNSHARE if first else ()), sys.executable, *PROGRAM], env=variables(models), cwd=ROOT,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    pid = process.pid
    words: list[bytes] = []
    assert process.stderr is not None
    reader = threading.Thread(target=words.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        if first:
            until(lambda: _children(process.pid), 5.0, 0.01)
            pid = _children(process.pid)[0]
        until(lambda: LOADING in _maps(pid), 20.0, 0.01)
        time.sleep(delay)
        if any(b'"serving"' in line for line in words):
            return "serving already", 0.0, False
        os.kill(pid, signal.SIGTERM)
        began = time.perf_counter()
        try:
            status = process.wait(patience)
        except subprocess.TimeoutExpired:
            served = any(b'"serving"' in line for line in words)
            return "ignored: it serves" if served else "ignored", time.perf_counter() - began, False
        took = time.perf_counter() - began
        reader.join(2)
        return f"exit {status}", took, any(b"Traceback" in line for line in words)
    finally:
        for each in {pid, process.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        process.wait()
        reader.join(2)
        process.stderr.close()


def _can_be_first() -> bool:
    if not shutil.which(UNSHARE[0]):
        return False
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=10)
    return done.returncode == 0


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return ""


def interrupted_twice(models: Path, *, windows: int = 300, times: int = 3) -> Result:
    """SIGINT, and again before the first has done its work, while a long document is being read."""
    result = Result(
        13, "SIGINT twice, a long document under way", "exit 0 or 130 soon after the second; never an abort (-6)"
    )
    words = " ".join(itertools.islice(itertools.cycle(rows.sentences()), windows * 10))
    body = raw.dump({"question": "Who wrote the notes?", "context": words})
    statuses, took, tracebacks = [], [], 0
    for i in range(times):
        with Service(models, "qa", drain_seconds="5") as service:
            asked = _Asked(service, "/qa", body)
            time.sleep(1.0)
            service.send(signal.SIGINT)
            time.sleep(0.1 + 0.3 * i)
            status, seconds = service.ends(signal.SIGINT, 15)
            statuses.append(status)
            took.append(seconds)
            asked.join()
            tracebacks += sum("Traceback" in line for line in service.messages())
    result.put("exit statuses", statuses)
    result.put("after at most", max(took), "s")
    result.put("tracebacks", tracebacks)
    result.met = set(statuses) <= {0, 130} and max(took) <= 3 and not tracebacks
    return result


def hung_up(models: Path, *, seconds: float = 1.0) -> Result:
    """SIGHUP drains as SIGTERM does."""
    result = Result(13, "SIGHUP, a request under way", "the request answered, exit 0")
    with (
        Steer(seconds=seconds) as steer,
        faulty(models, steer, drain_seconds="5") as service,
    ):
        asked = _Asked(service, "/classify", raw.dump({"text": "a good film"}))
        time.sleep(0.4)
        status, took = service.ends(signal.SIGHUP, seconds + 8)
        asked.join()
        result.put("exit status", status)
        result.put("after", took, "s")
        result.put("the request got", asked.reply.status)
    result.met = status == 0 and asked.reply.status == 200
    return result


class _Asked(threading.Thread):
    """A request on its way."""

    def __init__(self, service: Service, path: str, body: bytes) -> None:
        super().__init__(daemon=True)
        self.reply = Reply()
        self._arguments = service.address, path, body
        self.start()

    def run(self) -> None:
        self.reply = raw.post(*self._arguments, timeout=20)
