"""The service under attack: a real process, its log, its memory and its end.

Owns start, stop and the reading of /proc. Every process that is started here is ended here, by its id.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.chaos import raw
from bench.chaos.raw import Address
from bench.errors import ServerError

ROOT = Path(__file__).parents[2]
PROGRAM = ("-m", "service")
START_SECONDS = 60.0
MB = 1e6


class Service:
    """A service that serves, in a process of its own. Use it as a context manager.

    Attributes:
        pid: of the process that serves.
        address: where it listens.
        log: its records so far; a line that is no JSON is a record with that message.
    """

    def __init__(
        self,
        models: Path,
        *names: str,
        program: Sequence[str] = PROGRAM,
        wait: bool = True,
        read: bool = True,
        environment: dict[str, str] | None = None,
        **settings: str,
    ) -> None:
        """
        Args:
            names: bundles to load; all of the folder when empty.
            program: what Python runs.
            wait: until it serves; else come in while it starts.
            read: its log, to the end; else leave it unread once it serves, as a log collector that hangs.
            environment: other variables than `BERTIE_*`.
            settings: `BERTIE_TIMEOUT_SECONDS="5"`, without the prefix and in lower case: `timeout_seconds="5"`.

        Raises:
            ServerError: it did not come to serve.
        """
        self.log: list[dict[str, Any]] = []
        self.address: Address = ("127.0.0.1", 0)
        self._read = read
        self._partial = b""
        self._serving = threading.Event()
        self._done = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, *program],
            env=variables(models, *names, **settings) | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if wait:
            self._serving.wait(START_SECONDS)
            if not self.address[1]:
                words = self.log[-1]["message"] if self.log else "it wrote nothing"
                self.stop(0)
                raise ServerError(f"the service did not start: {words}")

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def ops(self) -> Address:
        """Where health and metrics are asked for: a port of their own if there is one, else the main one."""
        found = next((record["ops_address"] for record in self.log if record.get("ops_address")), None)
        return _address(found) if found else self.address

    @property
    def serves(self) -> bool:
        """Whether it has said that it serves."""
        return bool(self.address[1])

    def messages(self, level: str = "") -> list[str]:
        """The log's messages, of that level or of all."""
        return [str(each["message"]) for each in self.log if not level or each.get("level") == level]

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def exit_status(self, seconds: float) -> int | None:
        """Waits for its end; None where it goes on."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def ends(self, number: signal.Signals, seconds: float) -> tuple[int | None, float]:
        """Sends a signal and waits for the end. Returns the exit status, None where it goes on, and the seconds."""
        began = time.perf_counter()
        self.send(number)
        return self.exit_status(seconds), time.perf_counter() - began

    def stop(self, seconds: float = 1.0) -> None:
        """SIGTERM, a little time, SIGKILL."""
        if self.alive and seconds:
            self._process.terminate()
            self.exit_status(seconds)
        if self.alive:
            self._process.kill()
        self._process.wait()
        self._done.set()
        self._reader.join(5)
        if self._process.stderr is not None:
            self._process.stderr.close()

    # ---- what it uses ----

    def rss(self) -> int:
        """Bytes resident now."""
        return status(self.pid, "VmRSS") * 1024

    def forget_peak(self) -> int:
        """Begins a new peak and returns the bytes resident now."""
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.rss()

    def peak(self) -> int:
        """Most bytes resident since `forget_peak`."""
        return status(self.pid, "VmHWM") * 1024

    def threads(self) -> int:
        """How many it has."""
        return status(self.pid, "Threads")

    def named_threads(self, prefix: str) -> int:
        """How many whose name begins so, for the kernel."""
        found = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += (task / "comm").read_text().startswith(prefix)
        return found

    # ---- what it says ----

    def ready(self, timeout: float = 5.0) -> int:
        """The status of readiness."""
        return raw.get(self.ops, "/health/ready", timeout=timeout).status

    def live(self, timeout: float = 5.0) -> int:
        """The status of liveness."""
        return raw.get(self.ops, "/health/live", timeout=timeout).status

    def metric(self, name: str, **labels: str) -> float | None:
        """A metric's sum; None where there is none."""
        return raw.metric(raw.get(self.ops, "/metrics").text, name, **labels)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        descriptor = self._process.stderr.fileno()
        while not self._done.is_set():
            if self.serves and not self._read:
                return
            if not select.select([descriptor], [], [], 0.1)[0]:
                continue
            data = os.read(descriptor, 65536)
            if not data:
                break
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self._note(line)
        self._serving.set()

    def _note(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        try:
            record = json.loads(text)
        except ValueError:
            record = None
        self.log.append(record if isinstance(record, dict) and "message" in record else {"message": text})
        if self.log[-1]["message"] == "serving" and "address" in self.log[-1]:
            self.address = _address(self.log[-1]["address"])
            self._serving.set()


def start(models: Path, *names: str, seconds: float = 15.0, **settings: str) -> tuple[int | None, list[str], float]:
    """Starts a service that should refuse to. Returns its exit status, None where it went on, its lines on stderr, and
    the seconds. One that comes to serve is asked once for a prediction and ended."""
    began = time.perf_counter()
    with Service(models, *names, wait=False, **settings) as service:  # type: ignore[arg-type]
        while service.alive and not service.serves and time.perf_counter() - began < seconds:
            time.sleep(0.02)
        status, took = service.exit_status(0.01), time.perf_counter() - began
    return status, service.messages(), took


def variables(models: Path, *names: str, **settings: str) -> dict[str, str]:
    """The environment of a service: ours without any BERTIE_*, and these settings."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("BERTIE_")}
    chosen = {"port": "0", "log_format": "json", "models_dir": str(models.resolve()), "models": ",".join(names)}
    return ours | {f"BERTIE_{name.upper()}": value for name, value in (chosen | settings).items()}


def status(pid: int, name: str) -> int:
    """A number of /proc/PID/status; 0 where the process has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def until(condition: Callable[[], object], seconds: float, step: float = 0.05) -> float | None:
    """Seconds until the condition holds; None where it does not in that time."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > seconds:
            return None
        time.sleep(step)
    return time.perf_counter() - began


def _address(url: str) -> Address:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port
