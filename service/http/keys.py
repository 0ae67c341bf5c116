"""API keys: who may call."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence

from service.errors import Unauthorized


class Keys:
    """The keys of a service; none: it is open to all."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode("utf-8") for key in keys]

    def check(self, headers: Mapping[str, str]) -> int | None:
        """Check a request's bearer token, and get the number of its key; None where no key is wanted.

        Raises:
            Unauthorized: it bears no key, or an unknown one.
        """
        if not self._keys:
            return None
        scheme, _, token = headers.get("authorization", "").encode("latin-1").partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthorized("this service wants an API key: Authorization: Bearer KEY")
        token = token.strip(b" ")
        # Every key is compared, each in constant time: the time taken tells neither how much of a key was right nor
        # which key it was.
        matches = [hmac.compare_digest(token, key) for key in self._keys]
        if not any(matches):
            raise Unauthorized("the API key is unknown")
        return matches.index(True)
