"""`python -m service keys`: one plain line each."""

import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from service import program
from service.commands import keys
from service.keys import editing, entries
from tests.serving import running

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BERTIE_KEYS_FILE", str(tmp_path / "keys.toml"))
    return tmp_path / "keys.toml"


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    out, err = capsys.readouterr()
    return out, err


def test_a_new_key_is_printed_once(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--requests-per-second", "50", "--requests-burst", "100", "--tokens-per-second", "2e4"]
    limits += ["--tokens-burst", "4e4", "--share", "0.5", "--models", "qa, nli"]
    assert keys.main(["new", "search", *limits]) == 0
    out, err = said(capsys)
    assert (out.count("\n"), err) == (1, "")
    (entry,) = editing.read(path)
    assert entry.hashes[0].hash == entries.written(out.strip())
    assert (entry.models, entry.share, entry.tokens_burst) == (["qa", "nli"], 0.5, 40_000)
    assert keys.main(["list"]) == 0
    assert said(capsys)[0] == (
        f"search  {entry.hashes[0].hash[:15]}...  models qa,nli  requests_per_second 50  requests_burst 100  "
        "tokens_per_second 20000  tokens_burst 40000  share 0.5\n"
    )


def test_rotate_list_and_revoke(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys.main(["new", "search"])
    old = said(capsys)[0].strip()
    assert keys.main(["rotate", "search", "--keep-for", "12h"]) == 0
    out, err = said(capsys)
    assert out.count("\n") == err.count("\n") == 1
    (entry,) = editing.read(path)
    assert [each.hash for each in entry.hashes] == [entries.written(old), entries.written(out.strip())]
    until = entry.hashes[0].until
    assert until is not None
    assert abs(until - datetime.now(UTC) - timedelta(hours=12)) < timedelta(seconds=10)
    assert err == f"the other tokens of search are good until {until:%Y-%m-%dT%H:%M:%SZ}\n"
    keys.main(["list"])
    line = said(capsys)[0]
    assert re.fullmatch(r"search  sha256:\w{8}\.\.\. until \S+, sha256:\w{8}\.\.\.  models all\n", line), line
    path.write_text(path.read_text().replace(f"{until:%Y}-", "2001-"))
    keys.main(["list"])
    assert " expired 2001-" in said(capsys)[0]
    assert keys.main(["revoke", "search"]) == 0
    assert said(capsys)[0] == "revoked search\n"
    assert editing.read(path) == []


def test_what_cannot_be_done_is_one_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main(["list"]) == 1
    assert said(capsys) == ("", f"bertie: {path} cannot be read: No such file or directory\n")
    keys.main(["new", "a"])
    said(capsys)
    assert keys.main(["new", "a"]) == 1
    assert said(capsys) == ("", f"bertie: {path}: two keys are called a: give each a name of its own\n")
    assert keys.main(["revoke", "b"]) == 1
    assert said(capsys) == ("", f"bertie: {path} has no key called 'b'\n")


def test_the_file_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main(["list"]) == 2
    assert said(capsys)[1] == "bertie: name the key file: --file FILE, or BERTIE_KEYS_FILE\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["rotate", "a", "--keep-for", "soon"], ["rotate", "a", "--keep-for", "7"], ["new", "a", "--models", ","],
        ["new"], ["new", "a", "--share", "much"], ["remove", "a"],
    ],
)  # fmt: skip
def test_wrong_usage_is_2(path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        keys.main(arguments)
    assert error.value.code == 2
    assert not path.exists()


def test_without_tomlkit_it_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "service.keys.editing", None)
    monkeypatch.delattr("service.keys.editing")
    assert keys.main(["list"]) == 1
    assert said(capsys)[1] == "bertie: keys wants tomlkit: pip install tomlkit\n"


def test_it_is_a_command_of_the_program(path: Path) -> None:
    command = [sys.executable, "-m", "service", "keys", "new", "a"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    (entry,) = editing.read(path)
    assert (entry.name, entry.hashes[0].hash) == ("a", entries.written(done.stdout.strip()))


def test_a_running_service_follows_the_commands(
    path: Path, models_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an operator does it: a key, a new token for it, the end of the old one; no restart."""

    def command(*arguments: str) -> str:
        assert keys.main(arguments) == 0
        return said(capsys)[0].strip()

    def status(token: str) -> int:
        headers = {"authorization": f"Bearer {token}"}
        return httpx.post(f"{service.url}/classify", json={"text": "good"}, headers=headers, timeout=30).status_code

    def becomes(token: str, wanted: int) -> None:
        end = time.monotonic() + 20
        while status(token) != wanted:
            assert time.monotonic() < end
            time.sleep(0.05)

    old = command("new", "search", "--models", "sentiment")
    with running(models_dir, BERTIE_KEYS_FILE=str(path)) as service:
        assert [status(old), status("bertie_guess")] == [200, 401]
        new = command("rotate", "search", "--keep-for", "1h")
        becomes(new, 200)
        assert status(old) == 200
        newest = command("rotate", "search", "--keep-for", "0s")
        becomes(newest, 200)
        assert [status(old), status(new)] == [401, 401]
        command("revoke", "search")
        becomes(newest, 401)
    names = {record["key"] for record in service.log if "key" in record}
    assert names == {"search"}
    assert not any(token in str(service.log) for token in (old, new, newest))
    assert "there are no keys: every request is refused" in {record["message"] for record in service.log}


def test_a_key_file_that_is_wrong_is_one_line(path: Path, models_dir: Path) -> None:
    path.write_text("[[key]")
    environment = os.environ | {"BERTIE_MODELS_DIR": str(models_dir), "BERTIE_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "service"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == program.CANNOT_START
    (line,) = done.stderr.splitlines()
    assert f"cannot start: the key file {path}: it is no TOML: " in line


def test_serving_does_without_tomlkit() -> None:
    code = "import sys, service.app, service.program; print('tomlkit' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr
