"""How soon Bertie is ready, what its import costs, and what it uses when it is idle.

    python -m bench.startup                 # the bundles in models/, five starts

Ends with one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import command, serving
from bench.errors import BenchError

WANTED = {"ready_seconds": 2.0, "import_seconds": 0.5, "idle_cores": 0.01, "idle_rss": 300e6}
"""At most. `import_seconds` is of the package alone; what the program imports is shown beside it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return the exit status: 1 where the service does not start."""
    parser = command.parser("bench.startup", __doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bundles")
    parser.add_argument("--rounds", type=int, default=5, help="starts (%(default)s)")
    parser.add_argument("--idle-seconds", type=float, default=10.0, help="%(default)s")
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Measure and print."""
    found = measure(options.models, rounds=options.rounds, idle_seconds=options.idle_seconds)
    shown = (
        ("from process start to ready", "ready_seconds", 1, "s"),
        ("import service", "import_seconds", 1, "s"),
        ("import service.program", "program_import_seconds", 1, "s"),
        ("processor when idle", "idle_cores", 100, "% of a core"),
        ("resident when idle", "idle_rss", 1e-6, "MB"),
    )
    for title, name, scale, unit in shown:
        wanted = f"(wanted ≤ {WANTED[name] * scale:g} {unit})" if name in WANTED else ""
        print(f"{title:30} {found[name] * scale:8.2f} {unit} {wanted}")
    print(json.dumps(found))
    return 0


def measure(models_dir: Path, *, rounds: int, idle_seconds: float) -> dict[str, Any]:
    """Get medians over `rounds` starts; idleness is measured after the last.

    Raises:
        BenchError: the service did not start.
    """
    imports = {
        name: statistics.median(_import_seconds(module) for _ in range(rounds))
        for name, module in (("import_seconds", "service"), ("program_import_seconds", "service.program"))
    }
    ready = []
    for i in range(rounds):
        with serving.bertie(models_dir) as (server, _):
            ready.append(time.perf_counter() - server.started)
            if i == rounds - 1:
                time.sleep(serving.SETTLE_SECONDS)
                before = server.usage()
                time.sleep(idle_seconds)
                after = server.usage()
    return {
        "ready_seconds": statistics.median(ready),
        "ready_seconds_each": ready,
        **imports,
        "idle_cores": (after.cpu_seconds - before.cpu_seconds) / idle_seconds,
        "idle_rss": after.rss,
        "idle_threads": after.threads,
    }


def _import_seconds(module: str) -> float:
    """Time an import in a fresh interpreter, beyond its own start."""
    program = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"import {module}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
