"""A function in a process of its own, so that a flood and the clients that it is to harm do not share an interpreter.

Owns such a process's start and end.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Apart:
    """A call that goes on while the block lasts; it is ended with the block, if it has not ended itself."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        """
        Args:
            function: of a module's top level; its arguments and its result are pickled.
        """
        context = multiprocessing.get_context("spawn")
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_call, args=(sender, function, arguments), daemon=True)
        self._process.start()
        sender.close()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def result(self, seconds: float) -> Any:
        """What it returns.

        Raises:
            TimeoutError: it did not in that time.
            EOFError: it failed; its traceback is on stderr.
        """
        if not self._receiver.poll(seconds):
            raise TimeoutError("the load generator did not end")
        return self._receiver.recv()


def _call(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))
