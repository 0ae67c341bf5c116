"""Files to disk in chunks: hashed as they are written, bounded in bytes and time, tried again where they break off.

Knows nothing of where they come from: that is an `Opener`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

TRIES = 3
BACK_OFF = 1.0
"""Seconds before the second try; twice as many before the third."""
MOST_WAIT = 60.0
"""Seconds that a server may ask to be left alone."""
LEAST_RATE = 1000
"""Bytes a second: what is slower than this for as long as an idle connection may last has stalled."""
CHUNK = 1 << 20
MAX_MANIFEST = 4 << 20
"""Bytes of a bundle's manifest, and of an image's."""

T = TypeVar("T")


class Interrupted(Exception):
    """A transfer that broke off, and may do better at another try.

    Attributes:
        wait: seconds that the other side asks for.
    """

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Stream:
    """A file on its way.

    Attributes:
        begin: the byte with which it begins; 0 where the other side cannot begin elsewhere.
        chunks: its bytes from there; they raise `Interrupted`.
    """

    begin: int
    chunks: Iterator[bytes]


Opener: TypeAlias = Callable[[int], AbstractContextManager[Stream]]
"""Opens one file from a byte on, if it can. Raises ValueError: it is not to be had; `Interrupted`: not now."""
Place: TypeAlias = Callable[[str], Opener]
"""A folder, as openers of its files by name; of what is itself a file, by the empty name."""


def tried(attempt: Callable[[], T]) -> T:
    """Call `attempt` until it does not break off, `TRIES` times at most. Raises what the last call raises."""
    for number in range(TRIES - 1):
        try:
            return attempt()
        except Interrupted as error:
            if error.wait > MOST_WAIT:
                raise Interrupted(f"{error}; it asks for {error.wait:.0f} s of patience") from error
            time.sleep(max(error.wait, BACK_OFF * 2**number))
    return attempt()


def read(source: Opener, most: int) -> bytes:
    """Read a small file. Raises ValueError: it is not to be had, or has more than `most` bytes; `Interrupted`."""

    def attempt() -> bytes:
        content = bytearray()
        with source(0) as stream:
            for chunk in stream.chunks:
                content += chunk
                if len(content) > most:
                    raise ValueError(f"what comes has more than {most} bytes")
        return bytes(content)

    return tried(attempt)


def paced(chunks: Iterator[bytes], idle_seconds: float) -> Iterator[bytes]:
    """Pass chunks on while they come: a drip would outlive any bound on a silence.

    Args:
        idle_seconds: with fewer than `LEAST_RATE` bytes a second, after which it has stalled.

    Raises:
        Interrupted: it has.
    """
    begin, size = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        size += len(chunk)
        if (seconds := time.monotonic() - begin) > idle_seconds:
            if size < LEAST_RATE * seconds:
                raise Interrupted(f"it stalls: {size} bytes in {seconds:.0f} s")
            begin, size = time.monotonic(), 0


class Download:
    """The files of one fetch, of `most` bytes together."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._used = 0

    def save(self, source: Opener, path: Path, sha256: str = "", most: int | None = None) -> str:
        """Write a file to `path` and get its sha256.

        A try that breaks off goes on where it was, if the source can.

        Args:
            sha256: that it must have; empty where any will do.
            most: bytes of this file.

        Raises:
            ValueError: it is not to be had, too large, or has another sha256.
            Interrupted: all tries broke off.
            OSError: it cannot be written.
        """
        most = min(self.most - self._used, self.most if most is None else most)
        digest, done = hashlib.sha256(), 0
        with open(path, "wb") as file:

            def attempt() -> None:
                nonlocal digest, done
                with source(done) as stream:
                    if stream.begin != done:
                        file.seek(0)
                        file.truncate()
                        digest, done = hashlib.sha256(), 0
                    for chunk in stream.chunks:
                        done += len(chunk)
                        if done > most:
                            raise ValueError(f"{path.name} is too large: {most} bytes are left of {self.most}")
                        file.write(chunk)
                        digest.update(chunk)

            tried(attempt)
        self._used += done
        found = digest.hexdigest()
        if sha256 and found != sha256:
            raise ValueError(f"{path.name} has sha256 {found}, and {sha256} is expected")
        return found
