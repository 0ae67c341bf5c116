"""Changes to a key file: what else stands in it stays, and who reads finds the old file or the new one."""

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.errors import ConfigurationError
from service.keys import editing, entries

COMMENTED = """\
# The keys of the lab.

[[key]]  # asks at night
name = "batch"
hashes = [
    # since March
    "sha256:{hash}",
]
share = 0.5  # agreed with search

# Kept for later:
# [[key]]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_its_owners_alone_and_holds_no_token(path: Path) -> None:
    before = os.umask(0)
    try:
        token = editing.add(path, "search", {"models": ["qa"], "requests_per_second": 5.0})
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    assert token not in path.read_text()
    (entry,) = editing.read(path)
    assert (entry.name, entry.models, entry.requests_per_second) == ("search", ["qa"], 5)
    assert [each.hash for each in entry.hashes] == [entries.written(token)]
    assert list(path.parent.iterdir()) == [path]


def test_comments_and_other_keys_stay_as_they_are(path: Path) -> None:
    text = COMMENTED.format(hash="ab" * 32)
    path.write_text(text)
    editing.add(path, "search", {})
    assert path.read_text().startswith(text)
    editing.revoke(path, "search")
    assert path.read_text().strip() == text.strip()
    editing.rotate(path, "batch", timedelta(days=1))
    kept = [line for line in text.splitlines() if "#" in line and "March" not in line]
    assert [line for line in kept if line not in path.read_text()] == []


def test_a_rotated_key_has_two_tokens_for_a_while(path: Path) -> None:
    first = editing.add(path, "a", {})
    second, until = editing.rotate(path, "a", timedelta(days=7))
    assert abs(until - datetime.now(UTC) - timedelta(days=7)) < timedelta(seconds=10)
    (entry,) = editing.read(path)
    assert [(each.hash, each.until) for each in entry.hashes] == [
        (entries.written(first), until),
        (entries.written(second), None),
    ]


def test_rotating_again_prolongs_nothing_and_forgets_what_has_expired(path: Path) -> None:
    first = editing.add(path, "a", {})
    second, early = editing.rotate(path, "a", timedelta(hours=1))
    third, late = editing.rotate(path, "a", timedelta(days=7))
    (entry,) = editing.read(path)
    assert {each.hash: each.until for each in entry.hashes} == {
        entries.written(first): early,
        entries.written(second): late,
        entries.written(third): None,
    }
    fourth, _ = editing.rotate(path, "a", timedelta(0))
    (entry,) = editing.read(path)
    assert [(each.hash, each.until) for each in entry.hashes] == [(entries.written(fourth), None)]


def test_the_last_key_can_be_revoked_and_another_made(path: Path) -> None:
    editing.add(path, "a", {})
    editing.revoke(path, "a")
    assert editing.read(path) == []
    editing.add(path, "b", {})
    assert [entry.name for entry in editing.read(path)] == ["b"]
    path.write_text("key = []\n")
    editing.add(path, "c", {})
    assert [entry.name for entry in editing.read(path)] == ["c"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no key called 'a'"),
        ("[[key]", "it is no TOML"),
        ("[[key]]\nname = 'a'", "key.0.hashes: Field required"),
        (f"key = [{{name = 'a', hashes = ['sha256:{'ab' * 32}']}}]", "has its keys in an array"),
    ],
)
def test_what_cannot_be_changed_stays_as_it_is(path: Path, text: str, why: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        editing.rotate(path, "a", timedelta(days=1))
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        editing.revoke(path, "a")
    assert path.read_text() == text


def test_a_wrong_key_is_not_added(path: Path) -> None:
    editing.add(path, "a", {})
    before = path.read_text()
    for name, limits, why in (
        ("a", {}, "two keys are called a"),
        ("b c", {}, "key.1.name: "),
        ("b", {"share": 2.0}, "key.1.share: "),
    ):
        with pytest.raises(ConfigurationError, match=f"{path}: {why}"):
            editing.add(path, name, limits)
    assert path.read_text() == before


def test_a_file_keeps_its_mode_and_a_link_stays_one(path: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "real.toml"
    editing.add(real, "a", {})
    real.chmod(0o640)
    path.symlink_to(real)
    editing.add(path, "b", {})
    assert path.is_symlink()
    assert mode(real) == 0o640
    assert [entry.name for entry in editing.read(real)] == ["a", "b"]


def test_a_file_that_is_written_while_it_fails_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editing.add(path, "a", {})
    before = path.read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="cannot be written: No space left on device"):
        editing.add(path, "b", {})
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]


def test_no_folder_and_no_text(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened: No such file or directory"):
        editing.add(path / "no" / "keys.toml", "a", {})
    with pytest.raises(ConfigurationError, match="cannot be read: No such file or directory"):
        editing.read(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        editing.read(path)


def test_of_many_at_once_none_is_lost(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda i: editing.add(path, f"team-{i}", {}), range(24)))
    found = {entry.name: entry.hashes[0].hash for entry in editing.read(path)}
    assert found == {f"team-{i}": entries.written(token) for i, token in enumerate(tokens)}
