"""How the C library's malloc treats the memory that engines ask for, and what loading has freed.

Owns the calls to glibc; on another C library they do nothing.
"""

from __future__ import annotations

import ctypes
from typing import Any

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_KEPT_BLOCK = 32 << 20  # the most that glibc takes
_KEPT_TOP = 256 << 20


def keep_blocks() -> None:
    """Let malloc keep the large blocks that are freed, for the next call of an engine.

    By default those over 128 kB come from the kernel and go back to it, and each page is zeroed anew: a tenth of the
    time of an int8 call of some hundred tokens (docs/lab.md). What is kept is what the largest calls have needed.
    """
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_TOP)


def share_arenas(count: int) -> None:
    """Let threads share so many of malloc's arenas. To be called before they are started.

    By default each has its own, up to 8 a core, and each keeps what its largest calls have needed.
    """
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, count)


def return_freed() -> None:
    """Give the system what has been freed until now: after loading 8 to 15 MB a bundle, which malloc would keep."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
