"""A measurement in a process of its own, so that nothing that others loaded counts for it.

Owns the way there and back: a request as JSON on the command line, the answer as JSON on the last line of the output.
Imports nothing heavy: what a child imports is part of what it measures.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError

STATUS = Path("/proc/self/status")


class ChildError(BenchError):
    """A measuring process ended without an answer."""


class KilledError(ChildError):
    """A measuring process was killed, as happens when memory runs out."""


def call(module: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run `python -m module` with `request` and get its answer.

    Raises:
        KilledError: a signal ended it.
        ChildError: it failed; the message is the last line of its errors.
    """
    done = subprocess.run([sys.executable, "-m", module, json.dumps(request)], capture_output=True, text=True)
    if done.returncode < 0:
        cause = ": probably out of memory" if -done.returncode == signal.SIGKILL else ""
        raise KilledError(f"the process was killed by signal {-done.returncode}{cause}")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ChildError(lines[-1] if lines else f"the process ended with status {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def answer(function: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Do the child's side: print what `function` makes of the request."""
    print(json.dumps(function(json.loads(sys.argv[1]))))


def resident(field: str = "VmRSS") -> int:
    """Get the bytes of this process in memory: now (`VmRSS`), or at most so far (`VmHWM`)."""
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
