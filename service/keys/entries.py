"""Keys as they are written down: TOML with names, hashes and limits, and never a key itself.

    [[key]]
    name = "search-team"
    hashes = ["sha256:9f86d0...", {hash = "sha256:60303a...", until = 2026-12-31T00:00:00Z}]
    models = ["qa"]
    requests_per_second = 50
    tokens_per_second = 20000
    share = 0.5

A hash is SHA-256 of the token's bytes. A slow one (bcrypt, Argon2) is for passwords, which people choose and others
guess; a token is 256 random bits, which nobody guesses at any speed (NIST SP 800-63B, section 5.1.1.2, asks for it of
memorised secrets alone), and a slow hash before the permit would be a way to stop the service.

Owns the form. Knows nothing of where it is kept or who asks.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import tomllib
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.errors import ConfigurationError
from service.scheduler.quota import Limits

NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
PREFIX = "sha256:"
TOKEN_BYTES = 32
_HASH = re.compile(rf"{PREFIX}[0-9a-f]{{64}}")


def new_token() -> str:
    """Make a token: 256 random bits, behind a word that those who look for leaked secrets can search for."""
    return f"bertie_{secrets.token_urlsafe(TOKEN_BYTES)}"


def digest(token: bytes) -> bytes:
    """Get a token's SHA-256."""
    return hashlib.sha256(token).digest()


def written(token: str) -> str:
    """Get what is written down of a token."""
    return PREFIX + digest(token.encode()).hex()


def _hash(value: Any) -> Any:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise ValueError(f"must be {PREFIX} and 64 digits of 0-9a-f; write no key here, but its hash")
    return value


class Hash(BaseModel):
    """A token's hash.

    Attributes:
        until: when it expires; None: never.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    hash: Annotated[str, BeforeValidator(_hash)]
    until: AwareDatetime | None = None

    @property
    def digest(self) -> bytes:
        """The hash's bytes."""
        return bytes.fromhex(self.hash.removeprefix(PREFIX))

    @property
    def expires(self) -> float:
        """When it expires, Unix time; infinite where it does not."""
        return float("inf") if self.until is None else self.until.timestamp()


def _as_hash(value: Any) -> Any:
    return {"hash": value} if isinstance(value, str) else value


Rate = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Burst = Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False)]


class Entry(BaseModel):
    """A key.

    Attributes:
        name: in logs and metrics.
        hashes: of its tokens: two at once while one takes the other's place.
        models: that it may use; None: all.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    hashes: Annotated[list[Annotated[Hash, BeforeValidator(_as_hash)]], Field(min_length=1)]
    models: Annotated[list[str], Field(min_length=1)] | None = None
    requests_per_second: Rate | None = None
    requests_burst: Burst | None = None
    tokens_per_second: Rate | None = None
    tokens_burst: Burst | None = None
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0

    @property
    def limits(self) -> Limits:
        """What it may use."""
        return Limits(**{name: getattr(self, name) for name in Limits.__dataclass_fields__})


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    key: list[Entry] = []


def parse(text: str) -> list[Entry]:
    """Read keys.

    Raises:
        ConfigurationError: it is no TOML, or a field is wrong; one line that says where and quotes nothing.
    """
    try:
        found = _File.model_validate(tomllib.loads(text)).key
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"it is no TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError("it is nested too deeply") from None
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_input=False)
        place = ".".join(map(str, first["loc"]))
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigurationError(f"{place}: {first['msg'].removeprefix('Value error, ')}{more}") from None
    check(found)
    return found


def check(entries: list[Entry]) -> None:
    """Check that no name and no hash stands twice. Raises ConfigurationError."""
    names: set[str] = set()
    owners: dict[str, str] = {}
    for entry in entries:
        if entry.name in names:
            raise ConfigurationError(f"two keys are called {entry.name}: give each a name of its own")
        names.add(entry.name)
        for each in entry.hashes:
            if each.hash in owners:
                raise ConfigurationError(f"a hash of {entry.name} is one of {owners[each.hash]} already")
            owners[each.hash] = entry.name
