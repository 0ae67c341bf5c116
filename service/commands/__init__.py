"""The commands beside serving, one file each: `python -m service NAME ...` runs `service.commands.NAME.main`.

`main` takes the arguments after the name and returns the exit status: 0, 1 where what was asked cannot be done, 2 for
wrong usage. It says what is wrong in one line on the standard error.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

COMMANDS: dict[str, str] = {
    "models": "List, add, check and remove versions of models, and say which of them answer.",
    "keys": "Make, list, rotate and revoke API keys.",
    "score": "Score the rows of Parquet, JSON lines or CSV files, here or on a Ray cluster.",
}
"""What each command does, by name."""


def find(name: str) -> Callable[[Sequence[str]], int]:
    """Import a command of `COMMANDS`."""
    main: Callable[[Sequence[str]], int] = importlib.import_module(f"{__name__}.{name}").main
    return main
