"""Files over HTTP: statuses and broken connections to errors, redirects that give no secret away.

Knows nothing of bundles. Only this module knows httpx2, which comes with the extra `remote`.
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2 as httpx

from service import __version__
from service.repository.sources.reference import is_loopback, without_secrets
from service.repository.sources.transfer import Interrupted, Opener, Place, Stream, paced, read

CONNECT_SECONDS = 10.0
MOST_REDIRECTS = 5
MAX_JSON = 4 << 20
AGAIN = (408, 425, 429)
"""Statuses that ask to try again, beside 5xx."""
WHY = {
    401: "it wants to know who asks",
    403: "it is not allowed",
    404: "there is no such file",
    410: "there is no such file any more",
}


class Refused(ValueError):
    """An answer that is none, and will be none the next time.

    Attributes:
        status: of HTTP.
        challenge: how to say who asks: the answer's `WWW-Authenticate`; empty where it came after a redirect, for no
            secret of the one is the other's.
    """

    def __init__(self, message: str, status: int, challenge: str) -> None:
        super().__init__(message)
        self.status = status
        self.challenge = challenge


class Web:
    """A client of HTTP(S), with the proxies and certificates of the environment (`HTTPS_PROXY`, `SSL_CERT_FILE`).

    Args:
        idle_seconds: for which a connection may say nothing, or next to nothing.
        plain: whether http is good enough for other machines than this one.
    """

    def __init__(self, idle_seconds: float, *, plain: bool = False) -> None:
        self._plain = plain
        self._idle_seconds = idle_seconds
        self._client = httpx.Client(
            timeout=httpx.Timeout(idle_seconds, connect=min(idle_seconds, CONNECT_SECONDS)),
            headers={"User-Agent": f"bertie/{__version__}", "Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def folder(self, url: str, headers: Mapping[str, str] | None = None) -> Place:
        """Get the files below a URL; its query, a signature perhaps, goes with each."""
        parts = urlsplit(url)

        def place(name: str) -> Opener:
            path = f"{parts.path.rstrip('/')}/{name}" if name else parts.path
            return self.file(urlunsplit(parts._replace(path=path)), headers)

        return place

    def file(self, url: str, headers: Mapping[str, str] | None = None, form: Mapping[str, str] | None = None) -> Opener:
        """Get a file, by POST where there is a form; it goes on where it broke off, if the server can.

        After RFC 9110, sections 13.1.5 and 14.
        """
        tag = ""

        @contextmanager
        def opener(begin: int) -> Iterator[Stream]:
            nonlocal tag
            ranged = {"Range": f"bytes={begin}-"} if begin else {}
            if begin and tag:
                ranged["If-Range"] = tag  # what is another file by now comes whole
            with self._answer(url, {**(headers or {}), **ranged}, form) as answer:
                tag = "" if (found := answer.headers.get("ETag", "")).startswith("W/") else found
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise ValueError(f"{without_secrets(url)} is packed on its way, though it was not to be")
                goes_on = answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-")
                if answer.status_code == 206 and not goes_on:
                    raise ValueError(f"{without_secrets(url)} answers with another part of the file than was asked for")
                chunks = paced(answer.iter_raw(), self._idle_seconds)
                yield Stream(begin if answer.status_code == 206 else 0, chunks)

        return opener

    def json(self, url: str, headers: Mapping[str, str] | None = None, form: Mapping[str, str] | None = None) -> Any:
        """Get JSON.

        Raises:
            ValueError: it is not to be had, or is none.
            Interrupted: all tries broke off.
        """
        content = read(self.file(url, headers, form), MAX_JSON)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{without_secrets(url)} answers with no JSON: {error}") from error

    @contextmanager
    def _answer(self, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None) -> Iterator[httpx.Response]:
        shown = without_secrets(url)
        try:
            request = self._client.build_request("POST" if form else "GET", url, headers=headers, data=form)
            for redirects in range(MOST_REDIRECTS + 1):
                self._check(request)
                answer = self._client.send(request, stream=True)
                try:
                    if answer.next_request is None:
                        _raise_for(answer, shown, "" if redirects else answer.headers.get("WWW-Authenticate", ""))
                        yield answer
                        return
                    # Not httpx's own way of following: it reads a redirect's body, of whatever size. Its next request
                    # has lost its credentials where that is for another origin.
                    if request.url.scheme == "https" and answer.next_request.url.scheme == "http":
                        raise ValueError(f"{shown} redirects from https to plain http")
                    request = answer.next_request
                finally:
                    answer.close()
            raise ValueError(f"{shown} redirects more than {MOST_REDIRECTS} times")
        except httpx.TransportError as error:
            raise Interrupted(f"{shown}: {str(error) or type(error).__name__}") from error
        except httpx.InvalidURL as error:
            raise ValueError(f"{shown} is no URL: {error}") from error

    def _check(self, request: httpx.Request) -> None:
        if request.url.scheme == "http" and not self._plain and not is_loopback(request.url.host):
            raise ValueError(f"{without_secrets(str(request.url))} is plain http, which can be tampered with")


def _raise_for(answer: httpx.Response, shown: str, challenge: str) -> None:
    status = answer.status_code
    if status in (200, 206):
        return
    if status in AGAIN or status >= 500:
        raise Interrupted(f"{shown} answers {status}", _seconds(answer.headers.get("Retry-After", "")))
    why = f": {WHY[status]}" if status in WHY else ""
    raise Refused(f"{shown} answers {status}{why}", status, challenge)


def _seconds(retry_after: str) -> float:
    """Read `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3)."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0
