"""Load by `wrk` (Debian: apt-get install wrk): one thread in C, so that the cores are left to the server.

Owns the Lua script that wrk runs and the line that it prints. The percentiles are wrk's own: it fills in for requests
that it could not send while it waited for one that took more than twice the mean (coordinated omission).
"""

from __future__ import annotations

import json
import math
import shutil
import string
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.errors import ClientError
from bench.load import Load

MARK = "bench-wrk "
TIMEOUT = 60
"""Seconds after which wrk calls a request lost."""
SAFE = frozenset((string.ascii_letters + string.digits + " .,:;{}[]_-'").encode())

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies = {
%(bodies)s
}
local requests, at = {}, 0

function init(args)
  for i, body in ipairs(bodies) do requests[i] = wrk.format(nil, nil, nil, body) end
end

function request()
  at = at %% #requests + 1
  return requests[at]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '%(mark)s{"duration": %%d, "requests": %%d, "status": %%d, "lost": %%d, "p50": %%d, "p95": %%d, "p99": %%d}\\n',
    summary.duration, summary.requests, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


def available() -> bool:
    """Whether there is a `wrk` on this machine."""
    return shutil.which("wrk") is not None


def run(url: str, bodies: Sequence[bytes], *, connections: int, seconds: float) -> Load:
    """Post `bodies` one after another from so many connections for so long (whole seconds, at least one).

    Raises:
        ClientError: wrk failed.
    """
    duration = max(1, round(seconds))
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as folder:
        path = Path(folder) / "load.lua"
        path.write_text(script(bodies), encoding="ascii")
        command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}s", f"--timeout={TIMEOUT}s", "-s", str(path), url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration + TIMEOUT + 30)
    if done.returncode:
        raise ClientError(f"wrk ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return parse(done.stdout)


def script(bodies: Sequence[bytes]) -> str:
    """Write the Lua program that posts `bodies`."""
    return SCRIPT % {"bodies": "\n".join(f"  {_quoted(body)}," for body in bodies), "mark": MARK}


def parse(output: str) -> Load:
    """Read what wrk printed.

    Raises:
        ClientError: the script's line is missing.
    """
    line = next((line for line in output.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise ClientError(f"wrk did not print its result: {output.strip()[-200:]}")
    found = json.loads(line.removeprefix(MARK))
    # `requests` counts every complete answer, those with an error's status too.
    answered = found["requests"] - found["status"]
    return Load(
        seconds=found["duration"] / 1e6,
        answered=answered,
        errors=found["status"] + found["lost"],
        **{name: found[name] / 1e6 if answered else math.nan for name in ("p50", "p95", "p99")},
    )


def _quoted(body: bytes) -> str:
    """Write a Lua string of any bytes."""
    return '"' + "".join(chr(byte) if byte in SAFE else f"\\{byte:03d}" for byte in body) + '"'
