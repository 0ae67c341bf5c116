"""Keys as they are written down: what is taken, what is refused, and that no error repeats a token."""

import hashlib
import string

import pytest

from service.errors import ConfigurationError
from service.keys import entries
from service.scheduler.quota import Limits

ONE, TWO = entries.written("one"), entries.written("two")


def key(*lines: str, name: str = "a", hashes: str = f'["{ONE}"]') -> str:
    return "\n".join(["[[key]]", f'name = "{name}"', f"hashes = {hashes}", *lines, ""])


def refused(text: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        entries.parse(text)
    assert "\n" not in error.value.detail
    return error.value.detail


def test_a_token_is_256_random_bits_and_its_hash_is_sha256() -> None:
    tokens = {entries.new_token() for _ in range(100)}
    assert len(tokens) == 100
    for token in tokens:
        assert token.startswith("bertie_")
        assert len(token.removeprefix("bertie_")) == 43  # 256 bits by 6 bits a character
        assert set(token) <= set(string.ascii_letters + string.digits + "-_")
    assert "sha256:" + hashlib.sha256(b"one").hexdigest() == ONE


def test_an_entry_with_all_fields() -> None:
    text = key(
        'models = ["qa", "nli"]', "requests_per_second = 50", "requests_burst = 100", "tokens_per_second = 2e4",
        "tokens_burst = 40000", "share = 0.5",
        hashes=f'["{ONE}", {{hash = "{TWO}", until = 2026-12-31T00:00:00Z}}]',
    )  # fmt: skip
    (entry,) = entries.parse(text)
    assert (entry.name, entry.models) == ("a", ["qa", "nli"])
    assert entry.limits == Limits(50, 100, 20_000, 40_000, 0.5)
    one, two = entry.hashes
    assert one.digest == hashlib.sha256(b"one").digest() == entries.digest(b"one")
    assert one.expires == float("inf")
    assert two.expires == 1798675200


def test_a_name_and_a_hash_are_enough() -> None:
    (entry,) = entries.parse(key())
    assert entry.models is None
    assert entry.limits == Limits()


@pytest.mark.parametrize("text", ["", "\n# nothing yet\n", "key = []"])
def test_a_text_may_hold_no_keys(text: str) -> None:
    assert entries.parse(text) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[key]", "it is no TOML: "),
        ("keys = 1", "keys: Extra inputs are not permitted"),
        ("[key]\nname = 'a'", "key: Input should be a valid list"),
        ("[[key]]", "key.0.name: Field required (and 1 more)"),
        (key(hashes="[]"), "key.0.hashes: List should have at least 1 item"),
        (key(hashes=f'"{ONE}"'), "key.0.hashes: Input should be a valid list"),
        (key(hashes="[7]"), "key.0.hashes.0: "),
        (key(hashes="[{hash = 7}]"), "key.0.hashes.0.hash: must be sha256: and 64 digits"),
        (key(hashes=f'["{ONE[:-1]}"]'), "key.0.hashes.0.hash: must be sha256: and 64 digits"),
        (key(hashes=f'["{ONE}0"]'), "key.0.hashes.0.hash: must be sha256: and 64 digits"),
        (key(hashes=f'["{ONE}\\n"]'), "key.0.hashes.0.hash: must be sha256: and 64 digits"),
        (key(hashes=f'["{ONE.upper()}"]'), "key.0.hashes.0.hash: must be sha256: and 64 digits"),
        (key(hashes=f'["md5{ONE[6:]}"]'), "key.0.hashes.0.hash: must be sha256: and 64 digits"),
        (key(hashes=f'[{{hash = "{ONE}", until = 2026-12-31T00:00:00}}]'), "key.0.hashes.0.until: "),
        (key(hashes=f'[{{hash = "{ONE}", until = 2026-12-31}}]'), "key.0.hashes.0.until: "),
        (key(hashes=f'[{{hash = "{ONE}", until = 1798675200}}]'), "key.0.hashes.0.until: "),
        (key(hashes=f'[{{hash = "{ONE}", unitl = 2026-12-31T00:00:00Z}}]'), "key.0.hashes.0.unitl: Extra"),
        (key(name=""), "key.0.name: String should match"),
        (key(name="a b"), "key.0.name: String should match"),
        (key(name="a\\n"), "key.0.name: String should match"),
        (key(name="é"), "key.0.name: String should match"),
        (key(name="a" * 65), "key.0.name: String should match"),
        (key("models = []"), "key.0.models: List should have at least 1 item"),
        (key('models = "qa"'), "key.0.models: Input should be a valid list"),
        (key("requests_per_second = 0"), "key.0.requests_per_second: Input should be greater than 0"),
        (key("requests_per_second = true"), "key.0.requests_per_second: Input should be a valid number"),
        (key("tokens_per_second = inf"), "key.0.tokens_per_second: Input should be"),
        (key("tokens_per_second = nan"), "key.0.tokens_per_second: Input should be"),
        (key("requests_burst = 0.5"), "key.0.requests_burst: Input should be greater than or equal to 1"),
        (key("share = 0"), "key.0.share: Input should be greater than 0"),
        (key("share = 1.5"), "key.0.share: Input should be less than or equal to 1"),
        (key("shares = 1"), "key.0.shares: Extra inputs are not permitted"),
        (key() + key(hashes=f'["{TWO}"]'), "two keys are called a: give each a name of its own"),
        (key() + key(name="b"), "a hash of b is one of a already"),
        (key(hashes=f'["{ONE}", {{hash = "{ONE}"}}]'), "a hash of a is one of a already"),
        ("key = " + "[" * 5000 + "]" * 5000, "it is nested too deeply"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(text: str, why: str) -> None:
    assert refused(text).startswith(why)


def test_a_token_in_the_place_of_a_hash_is_not_repeated() -> None:
    """The error goes to the log."""
    token = entries.new_token()
    assert token not in refused(key(hashes=f'["{token}"]'))
    assert token not in refused(key(hashes=f'[{{hash = "{ONE}", until = "{token}"}}]'))
