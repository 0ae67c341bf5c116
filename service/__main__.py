"""`python -m service`: the program, which can be stopped from its first moment.

As process 1 of a container, a process gets no signal that it has no handler for: so there is one before the imports,
which take half a second. A command ends by a signal as any program does: not with the status of one that was done.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal, or run one of `service.commands`. Returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    from service import commands

    if arguments and arguments[0] in commands.COMMANDS:  # which wait for none of the server's imports
        return commands.find(arguments[0])(arguments[1:])
    with contextlib.suppress(ValueError):  # signals belong to the main thread
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # nothing is open yet
    from service import program

    return program.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
