"""`python -m service keys`: make, list, rotate and revoke API keys in a key file.

    python -m service keys new NAME [--models qa,nli] [--requests-per-second 50] ...   prints the token, once
    python -m service keys rotate NAME [--keep-for 7d]                                 prints the new token, once
    python -m service keys list
    python -m service keys revoke NAME

The file is --file, else BERTIE_KEYS_FILE's. It holds hashes alone: a token that is lost cannot be read from it. A
service that runs with the file takes up a change within a second.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError
from service.keys.entries import Entry

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LIMITS = {
    "requests_per_second": "most requests a second",
    "requests_burst": "how many may come at once; a second's worth if left out",
    "tokens_per_second": "most tokens a second",
    "tokens_burst": "how many may come at once; a second's worth if left out",
    "share": "most of the queue that it may hold, above 0, at most 1",
}


def main(arguments: Sequence[str]) -> int:
    """Run a command. Returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.file is None:
        print("bertie: name the key file: --file FILE, or BERTIE_KEYS_FILE", file=sys.stderr)
        return 2
    try:
        from service.keys import editing
    except ImportError:
        print("bertie: keys wants tomlkit: pip install tomlkit", file=sys.stderr)
        return 1
    file: Path = options.file
    try:
        match options.command:
            case "new":
                limits = {name: value for name in ("models", *_LIMITS) if (value := getattr(options, name)) is not None}
                print(editing.add(file, options.name, limits))
            case "rotate":
                token, until = editing.rotate(file, options.name, options.keep_for)
                print(token)
                print(f"the other tokens of {options.name} are good until {_time(until)}", file=sys.stderr)
            case "list":
                for entry in editing.read(file):
                    print(_line(entry))
            case "revoke":
                editing.revoke(file, options.name)
                print(f"revoked {options.name}")
    except ConfigurationError as error:
        print(f"bertie: {error.detail}", file=sys.stderr)
        return 1
    return 0


def _line(entry: Entry) -> str:
    now = datetime.now(UTC)
    tokens = [
        f"sha256:{each.digest.hex()[:8]}..."
        + ("" if each.until is None else f" {'expired' if each.until <= now else 'until'} {_time(each.until)}")
        for each in entry.hashes
    ]
    said = [entry.name, ", ".join(tokens), "models " + (",".join(entry.models) if entry.models else "all")]
    said += [f"{name} {value:g}" for name in _LIMITS if (value := getattr(entry, name)) not in (None, 1.0)]
    return "  ".join(said)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 30m, 12h or 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("names no model")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service keys", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where: dict[str, Any] = {
        "type": Path,
        "default": os.environ.get("BERTIE_KEYS_FILE") or None,
        "help": "the key file (BERTIE_KEYS_FILE)",
    }
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="add a key and print its token")
    rotate = commands.add_parser("rotate", help="give a key a new token and print it")
    listed = commands.add_parser("list", help="one line a key")
    revoke = commands.add_parser("revoke", help="take a key out")
    for each in (new, rotate, revoke):
        each.add_argument("name", metavar="NAME")
    for each in (new, rotate, listed, revoke):
        each.add_argument("--file", **where)
    new.add_argument("--models", type=_names, metavar="NAME,NAME", help="that it may use; all if left out")
    for name, text in _LIMITS.items():
        new.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="N", help=text)
    rotate.add_argument(
        "--keep-for", type=_duration, default=timedelta(days=7), metavar="TIME",
        help="how long the other tokens stay good, as in 30m, 12h, 7d (7d); 0s: not at all",
    )  # fmt: skip
    return parser
