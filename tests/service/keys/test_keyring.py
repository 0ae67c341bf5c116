"""Which tokens are good, and that changes of the file count soon, whatever becomes of it."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from service.errors import ConfigurationError, RateLimited, Unauthorized
from service.keys import entries, keyring
from service.keys.keyring import MOST_BYTES, Keyring
from service.settings import Settings
from tests.engines import until

SOON = 2.0


def entry(name: str, *tokens: str, more: str = "") -> str:
    hashes = ", ".join(f'"{entries.written(token)}"' for token in tokens or (name,))
    return f'[[key]]\nname = "{name}"\nhashes = [{hashes}]\n{more}\n'


def replace(path: Path, text: str) -> None:
    """Write a file at once, as editors and `keys` do."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    os.replace(new, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def make(path: Path | None = None, **changes: Any) -> Keyring:
    made = Keyring(Settings(keys_file=path, **changes))
    made.load()
    return made


@contextlib.asynccontextmanager
async def watching(made: Keyring) -> AsyncIterator[Keyring]:
    watch = asyncio.create_task(made.watch())
    yield made
    assert not watch.done(), watch
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch


def knows(made: Keyring, token: str) -> bool:
    try:
        return made.find(token.encode()) is not None
    except Unauthorized:
        return False


POLL_SECONDS = keyring.POLL_SECONDS


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "POLL_SECONDS", 0.02)


# ---- look-up --------------------------------------------------------------------------------------------------------


def test_no_keys_are_wanted_where_none_are_set() -> None:
    assert not make().wanted


def test_plain_tokens_have_names_by_their_number() -> None:
    made = make(api_keys=(SecretStr("first"), SecretStr("zweiter-schlüssel"), SecretStr("first")))
    assert made.wanted
    assert made.find(b"first").name == "key-1"
    assert made.find("zweiter-schlüssel".encode()).name == "key-2"
    for wrong in (b"", b"firs", b"firstt", b"First", b"\xff"):
        with pytest.raises(Unauthorized, match="unknown"):
            made.find(wrong)


def test_keys_come_from_a_file_a_variable_and_plain_tokens_together(path: Path) -> None:
    path.write_text(entry("a", more='models = ["qa"]'))
    made = make(path, keys=entry("b", more="share = 0.5"), api_keys=(SecretStr("c"),))
    assert {made.find(token).name for token in (b"a", b"b", b"c")} == {"a", "b", "key-1"}
    assert made.find(b"a").models == {"qa"}
    assert made.find(b"b").models is None
    quota = made.find(b"b").quota
    assert quota is not None
    assert quota.limits.share == 0.5
    assert made.find(b"a").quota is None  # nothing to count


def test_a_key_may_have_two_tokens_and_one_expires(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = f'{{hash = "{entries.written("old")}", until = 2030-01-01T00:00:00Z}}'
    path.write_text(f'[[key]]\nname = "a"\nhashes = [{old}, "{entries.written("new")}"]')
    made = make(path)
    monkeypatch.setattr(time, "time", lambda: 1893455999.0)
    assert made.find(b"old") is made.find(b"new")
    monkeypatch.setattr(time, "time", lambda: 1893456000.0)
    with pytest.raises(Unauthorized, match="has expired"):
        made.find(b"old")
    assert made.find(b"new").name == "a"


def test_nothing_looks_at_the_token_itself_but_its_hash() -> None:
    """What compares a token byte by byte tells by its time how much was right: here SHA-256 alone reads it."""

    class Shy(bytes):
        def _no(self, *_: object) -> Any:
            raise AssertionError("something looked at the token")

        __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __len__ = __iter__ = __getitem__ = _no
        __contains__ = __add__ = __bool__ = decode = startswith = endswith = find = strip = split = hex = _no

    made = make(api_keys=(SecretStr("first"), SecretStr("second")))
    assert made.find(Shy(b"second")).name == "key-2"
    with pytest.raises(Unauthorized):
        made.find(Shy(b"seconds"))
    assert b"second" not in repr(vars(made)["_known"]).encode()


# ---- what stops the start -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "bytes", "long", "toml"])
def test_a_file_that_cannot_be_read_stops_the_start(path: Path, kind: str) -> None:
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "bytes":
            path.write_bytes(b"\xff\xfe")
        case "long":
            path.write_text("#" * (MOST_BYTES + 1))
        case "toml":
            path.write_text("[[key]")
    with pytest.raises(ConfigurationError, match=f"the key file {path}: it ") as error:
        make(path)
    assert "\n" not in error.value.detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_file_that_may_not_be_read_stops_the_start(path: Path) -> None:
    path.write_text(entry("a"))
    path.chmod(0)
    with pytest.raises(ConfigurationError, match="it cannot be read: Permission denied"):
        make(path)


def test_a_variable_that_is_wrong_is_named() -> None:
    with pytest.raises(ConfigurationError, match="BERTIE_KEYS: it is no TOML"):
        make(keys="[[key]")


def test_a_name_and_a_token_stand_once_in_all(path: Path) -> None:
    path.write_text(entry("a"))
    with pytest.raises(ConfigurationError, match="two keys are called a"):
        make(path, keys=entry("a", "other"))
    with pytest.raises(ConfigurationError, match="a hash of a is one of key-1 already"):
        make(path, api_keys=(SecretStr("a"),))


def test_a_megabyte_of_keys(path: Path) -> None:
    path.write_text("".join(entry(f"team-{i}") for i in range(8500)))
    assert 900_000 < path.stat().st_size <= MOST_BYTES
    assert make(path).find(b"team-8499").name == "team-8499"


@pytest.mark.parametrize("text", ["", "\n", "# nobody yet"])
def test_an_empty_file_shuts_out_all(path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(text)
    made = make(path)
    assert made.wanted
    assert "every request is refused" in caplog.text
    with pytest.raises(Unauthorized):
        made.find(b"a")
    assert make(keys="").wanted


def test_before_the_file_is_read_all_are_shut_out(path: Path) -> None:
    path.write_text(entry("a"))
    made = Keyring(Settings(keys_file=path))
    assert made.wanted
    with pytest.raises(Unauthorized):
        made.find(b"a")


# ---- changes --------------------------------------------------------------------------------------------------------


async def test_a_change_counts_soon(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(entry("a") + entry("b"))
    caplog.set_level(logging.INFO)
    async with watching(make(path)) as made:
        replace(path, entry("b") + entry("c"))
        await until(lambda: knows(made, "c"), SOON)
        assert not knows(made, "a")
        assert knows(made, "b")
        path.write_text(entry("b"))  # in place
        await until(lambda: not knows(made, "c"), SOON)
    fields = [vars(record)["fields"] for record in caplog.records if record.message == "keys reloaded"]
    assert fields == [{"keys": 2, "added": "c", "removed": "a"}, {"keys": 1, "added": "", "removed": "c"}]


def test_a_change_counts_within_a_second() -> None:
    """Two looks, and some time to read."""
    assert 2 * POLL_SECONDS <= 0.8


async def test_a_secret_of_kubernetes_is_followed(tmp_path: Path) -> None:
    """keys.toml -> ..data/keys.toml, and ..data -> a folder; the kubelet swaps the second link."""
    for name, token in (("..1", "a"), ("..2", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys.toml").write_text(entry(token))
        os.utime(tmp_path / name / "keys.toml", (1, 1))  # not by its time alone
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys.toml").symlink_to("..data/keys.toml")
    async with watching(make(tmp_path / "keys.toml")) as made:
        assert knows(made, "a")
        (tmp_path / "..new").symlink_to("..2")
        os.replace(tmp_path / "..new", tmp_path / "..data")
        await until(lambda: knows(made, "b"), SOON)
        assert not knows(made, "a")


@pytest.mark.parametrize("broken", ["[[key]", "[[key]]\nname = 'a'\nhashes = ['sha256:12']", "#" * (MOST_BYTES + 1)])
async def test_a_broken_file_keeps_the_keys_and_is_told_once(
    path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(entry("a"))
    async with watching(make(path)) as made:
        replace(path, broken)
        await until(lambda: caplog.records, SOON)
        await asyncio.sleep(0.2)
        assert knows(made, "a")
        assert len(caplog.records) == 1
        assert caplog.records[0].getMessage().startswith(f"the keys stay as they were: the key file {path}: ")
        replace(path, entry("b"))
        await until(lambda: knows(made, "b"), SOON)
        assert not knows(made, "a")


async def test_a_file_that_goes_keeps_the_keys_and_may_come_back(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(entry("a"))
    async with watching(make(path)) as made:
        path.unlink()
        await until(lambda: caplog.records, SOON)
        await asyncio.sleep(0.2)
        assert [record.getMessage() for record in caplog.records] == [
            f"the keys stay as they were: the key file {path}: it cannot be read: No such file or directory"
        ]
        assert knows(made, "a")
        path.write_text(entry("b"))
        await until(lambda: knows(made, "b"), SOON)


async def test_a_file_that_is_being_written_is_not_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Truncated, it would shut out all; half-written, those of its second half."""
    path.write_text(entry("a") + entry("b"))
    async with watching(make(path)) as made:
        for _ in range(40):
            with open(path, "w") as file:
                for part in (entry("a"), "[[key]]\nname = ", '"b"\n', f'hashes = ["{entries.written("b")}"]\n'):
                    file.write(part)
                    file.flush()
                    await asyncio.sleep(0.003)
                    assert knows(made, "a")
                    assert knows(made, "b")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_emptied_file_shuts_out_all(path: Path) -> None:
    """The last key was revoked."""
    path.write_text(entry("a"))
    async with watching(make(path)) as made:
        replace(path, "")
        await until(lambda: not knows(made, "a"), SOON)
        assert made.wanted


async def test_what_a_key_has_used_outlives_a_change(path: Path) -> None:
    path.write_text(entry("a", more="requests_per_second = 0.001") + entry("b", more="requests_per_second = 0.001"))
    async with watching(make(path)) as made:
        first, second = made.find(b"a").quota, made.find(b"b").quota
        assert first is not None
        assert second is not None
        first.take(1)
        second.take(1)
        changed = entry("b", more="requests_per_second = 0.002\nrequests_burst = 100")
        replace(path, entry("a", "a", "new", more="requests_per_second = 0.001") + changed)
        await until(lambda: knows(made, "new"), SOON)
        assert made.find(b"new").quota is first
        later = made.find(b"b").quota
        assert later is not None
        assert later is not second
        with pytest.raises(RateLimited):
            later.take(1)
        replace(path, entry("a", more="") + entry("b"))
        await until(lambda: not knows(made, "new"), SOON)
        assert made.find(b"a").quota is None


async def test_without_a_file_there_is_nothing_to_watch() -> None:
    await asyncio.wait_for(make(keys=entry("a")).watch(), 1)
