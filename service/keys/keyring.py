"""The keys that a service knows now: look-up by token, and the file that they come from.

Owns which tokens are good and when the file is read again. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import ConfigurationError, Unauthorized
from service.keys import entries
from service.keys.entries import Entry, Hash
from service.scheduler.quota import Bucket, Quota
from service.settings import Settings

logger = logging.getLogger(__name__)

REFUSALS = 100.0
"""Of one key in a second that come at once. A client that goes on asking, whatever it is told, waits for more of them:
or the refusals alone would take the event loop's time."""
REFUSAL_SECONDS = 4.0
"""At most, that such a refusal waits. A thousand connections are then refused 300 times a second, however they ask."""
MOST_BYTES = 1 << 20
"""Of a file: thousands of keys."""
POLL_SECONDS = 0.4
"""Between two looks at the file. It is read when two looks have found the same change, so that nothing half-written is,
and a change counts within a second."""

State = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A key, known by its name alone.

    Attributes:
        models: that it may use; None: all.
        quota: what it may use of them; None where it has no limits.
        refusals: what it may be refused at once.
    """

    name: str
    models: frozenset[str] | None
    quota: Quota | None
    refusals: Bucket

    def refuse(self) -> float:
        """Get the seconds that the refusal of a request is to wait, the next one in line behind it."""
        wait = self.refusals.wait(1, time.monotonic())
        if wait >= REFUSAL_SECONDS:  # by chance, or a thousand connections would all ask again at one moment
            return REFUSAL_SECONDS * random.uniform(0.5, 1.0)
        self.refusals.level -= 1
        return wait


class Keyring:
    """The keys of a service.

    Attributes:
        wanted: whether a request needs one: any are set. A file that holds none shuts out all, and never opens to all.
    """

    def __init__(self, settings: Settings) -> None:
        self.wanted = settings.wants_keys
        self._tokens = [token.get_secret_value() for token in settings.api_keys]
        self._text = settings.keys
        self._path = settings.keys_file
        self._processes = settings.processes
        self._state: State | None = None  # of the file, when it was last tried
        self._keys: dict[str, Key] = {}
        # A digest is looked up as it is: how long that takes may tell of the digest, from which nobody who does not
        # know the token can work out another's. The token goes into SHA-256 and nowhere else.
        self._known: dict[bytes, tuple[Key, float]] = {}

    def find(self, token: bytes) -> Key:
        """Get the key of a token. Raises Unauthorized: there is none, or it has expired."""
        found = self._known.get(entries.digest(token))
        if found is None:
            raise Unauthorized("the API key is unknown")
        key, expires = found
        if time.time() >= expires:
            raise Unauthorized("the API key has expired")
        return key

    def load(self) -> None:
        """Read all keys. Raises ConfigurationError: what is wrong, and where."""
        found = [
            Entry(name=f"key-{number}", hashes=[Hash(hash=entries.written(token))])
            for number, token in enumerate(dict.fromkeys(self._tokens), 1)
        ]
        if self._text is not None:
            try:
                found += entries.parse(self._text)
            except ConfigurationError as error:
                raise ConfigurationError(f"BERTIE_KEYS: {error.detail}") from None
        if self._path is not None:
            self._state = _state(self._path)
            try:
                found += entries.parse(_read(self._path))
            except ConfigurationError as error:
                raise ConfigurationError(f"the key file {self._path}: {error.detail}") from None
        entries.check(found)
        self._set(found)

    async def watch(self) -> None:
        """Take up the file's changes until cancelled. Where it is broken the keys stay as they are, and the log says
        once why."""
        if self._path is None:
            return
        before = self._state
        while True:
            await asyncio.sleep(POLL_SECONDS)
            state = await asyncio.to_thread(_state, self._path)
            if state != self._state and state == before:
                await self._reload()
            before = state

    async def _reload(self) -> None:
        names = set(self._keys)
        try:
            await asyncio.to_thread(self.load)
        except ConfigurationError as error:
            logger.error("the keys stay as they were: %s", error.detail)
            return
        added, removed = sorted(self._keys.keys() - names), sorted(names - self._keys.keys())
        fields = {"keys": len(self._keys), "added": ",".join(added), "removed": ",".join(removed)}
        logger.info("keys reloaded", extra={"fields": fields})

    def _set(self, found: Sequence[Entry]) -> None:
        """Know these keys from now on. What is in flight keeps the keys that it came with."""
        keys = {entry.name: self._key(entry) for entry in found}
        known = {each.digest: (keys[entry.name], each.expires) for entry in found for each in entry.hashes}
        self._keys, self._known = keys, known
        if self.wanted and not known:
            logger.warning("there are no keys: every request is refused")

    def _key(self, entry: Entry) -> Key:
        before, limits = self._keys.get(entry.name), entry.limits.of_each(self._processes)
        quota = None if before is None else before.quota
        if limits.unlimited:
            quota = None
        elif quota is None or quota.limits != limits:
            quota = Quota(entry.name, limits, quota)
        models = None if entry.models is None else frozenset(entry.models)
        return Key(entry.name, models, quota, Bucket(REFUSALS, None))


def _read(path: Path) -> str:
    """Read a file of bounded size. Raises ConfigurationError."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigurationError("it is no file")
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"it cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise ConfigurationError(f"it has more than {MOST_BYTES} bytes, which is the limit")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigurationError("it is not UTF-8") from None


def _state(path: Path) -> State | None:
    """Tell one content of a file from another: a new inode, as renaming and swapped links leave it, or other times."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
