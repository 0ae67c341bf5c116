"""A reference to a bundle elsewhere: its scheme, its address, and the hash that pins what is there."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.errors import BundleError

SCHEMES = ("https", "http", "file", "hf", "s3", "gs", "oci")
ARCHIVES = (".tar", ".tar.gz", ".tgz")
HASH = re.compile(r"sha256=([0-9a-f]{64})", re.IGNORECASE)
IMAGE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?)/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(:(?P<tag>\w[\w.-]{0,127}))?(@sha256:(?P<digest>[0-9a-f]{64}))?"
)
"""What follows `oci://` (OCI distribution specification 1.1, "Pulling manifests")."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a bundle is.

    Attributes:
        scheme: one of `SCHEMES`.
        address: what follows `://`, without the hash.
        sha256: of the bundle's manifest.json, which holds the sha256 of every other file; empty where none is given.
    """

    scheme: str
    address: str
    sha256: str = ""

    @property
    def url(self) -> str:
        """Scheme and address."""
        return f"{self.scheme}://{self.address}"

    @property
    def shown(self) -> str:
        """The URL for a log or an error: without a password, and without a query, which may hold a signature."""
        return without_secrets(self.url)

    @property
    def digest(self) -> str:
        """The sha256 of an OCI manifest that the reference pins, or an empty string."""
        found = IMAGE.fullmatch(self.address) if self.scheme == "oci" else None
        return (found["digest"] or "") if found else ""

    @property
    def pinned(self) -> bool:
        """Whether what is there can only ever be the same."""
        return bool(self.sha256 or self.digest)

    @property
    def is_archive(self) -> bool:
        """Whether it names a tar, and not a folder, by the end of its path."""
        return self.scheme != "oci" and self.address.partition("?")[0].endswith(ARCHIVES)


def parse(text: str) -> Reference:
    """Read a reference: `SCHEME://ADDRESS`, or with a hash `SCHEME://ADDRESS#sha256=HEX`.

    Plain http is taken from this machine alone, or with a hash: then who is in between can read and not change.

    Raises:
        BundleError: it is none.
    """
    text = text.strip()
    address, sharp, fragment = text.partition("#")
    scheme, _, rest = address.partition("://")
    shown = without_secrets(address)
    if scheme not in SCHEMES or not rest:
        raise BundleError(f"{shown!r} is no reference to a bundle: it begins with one of {'://, '.join(SCHEMES)}://")
    if not text.isprintable() or any(character.isspace() for character in rest):
        raise BundleError(f"reference {shown!r}: it holds a space or a character that cannot be printed")
    found = HASH.fullmatch(fragment)
    if sharp and not found:
        raise BundleError(f"reference {shown}: after # comes sha256= and the 64 digits of the manifest's sha256")
    reference = Reference(scheme, rest, found[1].lower() if found else "")
    if scheme == "oci" and not IMAGE.fullmatch(rest):
        raise BundleError(f"reference {shown}: it is to be oci://REGISTRY/REPOSITORY:TAG or ...@sha256:DIGEST")
    if scheme in ("http", "https"):
        try:
            host = urlsplit(address).hostname
        except ValueError:
            host = None
        if not host:
            raise BundleError(f"reference {shown}: it names no host")
        if scheme == "http" and not is_loopback(host) and not reference.sha256:
            raise BundleError(f"reference {shown}: plain http can be tampered with; use https, or add #sha256=HEX")
    return reference


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine by its very name."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_secrets(url: str) -> str:
    """Take password and query out of a URL."""
    return re.sub(r"://[^/]*@", "://", url.partition("?")[0]) if url.startswith("http") else url
