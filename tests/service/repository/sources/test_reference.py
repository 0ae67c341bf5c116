"""References: what is one, what pins it, and what of it may be shown."""

import pytest

from service.errors import BundleError
from service.repository.sources.reference import Reference, parse, without_secrets

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/models/qa", Reference("https", "host/models/qa")),
        (f"https://host/qa.tar.gz?sig=a%2Fb#sha256={HEX}", Reference("https", "host/qa.tar.gz?sig=a%2Fb", HEX)),
        (f"s3://bucket/qa#sha256={HEX.upper()}", Reference("s3", "bucket/qa", HEX)),
        ("file:///models/qa", Reference("file", "/models/qa")),
        ("http://127.0.0.1:80/qa", Reference("http", "127.0.0.1:80/qa")),
        ("http://[::1]/qa", Reference("http", "[::1]/qa")),
        ("oci://[::1]:5000/qa:v1", Reference("oci", "[::1]:5000/qa:v1")),
        (" hf://org/repo \n", Reference("hf", "org/repo")),
    ],
)
def test_a_reference_is_read(text: str, expected: Reference) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models/qa", "'models/qa' is no reference to a bundle: it begins with one of https://, http://, file://"),
        ("ftp://host/qa", "'ftp://host/qa' is no reference"),
        ("https://", "'https://' is no reference"),
        ("https:///qa", "https:///qa: it names no host"),
        ("https://[::1/qa", "it names no host"),
        ("https://host/a b", "it holds a space"),
        ("https://host/a\nb", "it holds a space"),
        ("https://host/qa#sha256=ab12", "after # comes sha256= and the 64 digits"),
        (f"https://host/qa#{HEX}", "after # comes sha256="),
        ("https://host/qa#", "after # comes sha256="),
        ("http://host/qa", "http://host/qa: plain http can be tampered with; use https, or add #sha256=HEX"),
        ("http://127.0.0.1.evil.org/qa", "plain http can be tampered with"),
        ("oci://registry", "it is to be oci://REGISTRY/REPOSITORY:TAG or ...@sha256:DIGEST"),
        ("oci://registry/QA:v1", "it is to be oci://REGISTRY"),
        ("oci://registry/qa@sha256:ab12", "it is to be oci://REGISTRY"),
        ("oci://registry/../qa:v1", "it is to be oci://REGISTRY"),
    ],
)
def test_what_is_none_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(BundleError) as raised:
        parse(text)
    assert said in raised.value.detail
    assert "\n" not in raised.value.detail or "\n" in text


def test_plain_http_is_taken_with_a_hash() -> None:
    assert parse(f"http://host/qa#sha256={HEX}").pinned


@pytest.mark.parametrize(
    ("text", "pinned", "digest"),
    [
        (f"hf://org/repo#sha256={HEX}", True, ""),
        ("hf://org/repo@main", False, ""),
        (f"oci://registry/qa@sha256:{HEX}", True, HEX),
        (f"oci://registry/qa:v1@sha256:{HEX}", True, HEX),
        ("oci://registry/qa:v1", False, ""),
    ],
)
def test_what_pins(text: str, pinned: bool, digest: str) -> None:
    assert (parse(text).pinned, parse(text).digest) == (pinned, digest)


@pytest.mark.parametrize(
    ("text", "archive"),
    [
        ("https://host/qa.tar.gz", True),
        ("https://host/qa.tgz?sig=x", True),
        ("s3://bucket/qa.tar", True),
        ("https://host/qa?file=qa.tar", False),
        ("oci://registry/qa.tar", False),
    ],
)
def test_what_is_an_archive(text: str, archive: bool) -> None:
    assert parse(text).is_archive is archive


def test_neither_password_nor_signature_is_shown() -> None:
    shown = parse("https://user:pass%40@host:8443/qa.tar?X-Sig=abc").shown
    assert shown == "https://host:8443/qa.tar"
    assert without_secrets("https://user:p@ss@host/qa@v1") == "https://host/qa@v1"
    assert parse("hf://org/repo@main/qa").shown == "hf://org/repo@main/qa"
    with pytest.raises(BundleError) as raised:
        parse("http://user:secret@host/qa?sig=secret")
    assert "secret" not in raised.value.detail
