"""A transfer's tries, bounds and patience, against openers that fail as they are told."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.repository.sources import transfer
from service.repository.sources.transfer import Download, Interrupted, Stream, paced, read, tried

CONTENT = bytes(range(256)) * 4


class Source:
    """Gives CONTENT, but breaks off after so many bytes at each of its first tries."""

    def __init__(self, *breaks: int, resumes: bool = True, seconds: float = 0.0, size: int = 64) -> None:
        self.breaks, self.resumes, self.seconds, self.size = list(breaks), resumes, seconds, size
        self.begins: list[int] = []

    @contextmanager
    def __call__(self, begin: int) -> Iterator[Stream]:
        self.begins.append(begin)
        begin = begin if self.resumes else 0
        yield Stream(begin, self._chunks(begin, self.breaks.pop(0) if self.breaks else len(CONTENT)))

    def _chunks(self, begin: int, end: int) -> Iterator[bytes]:
        while begin < end:
            time.sleep(self.seconds)
            yield CONTENT[begin : (begin := min(begin + self.size, end))]
        if end < len(CONTENT):
            raise Interrupted("it broke off")


@pytest.mark.parametrize(("resumes", "begins"), [(True, [0, 100, 600]), (False, [0, 100, 600])])
def test_a_broken_transfer_goes_on_or_begins_again(resumes: bool, begins: list[int], tmp_path: Path) -> None:
    source = Source(100, 600, resumes=resumes)
    found = Download(10_000).save(source, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert found == hashlib.sha256(CONTENT).hexdigest()
    assert source.begins == begins


def test_a_shorter_second_try_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    """A file that changed between two tries comes whole, and may be shorter."""
    contents = [b"a" * 100, b"b" * 10]

    @contextmanager
    def source(begin: int) -> Iterator[Stream]:
        def chunks() -> Iterator[bytes]:
            yield contents.pop(0)
            if contents:
                raise Interrupted("it broke off")

        yield Stream(0, chunks())

    Download(1000).save(source, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"b" * 10


def test_three_tries_and_no_more(tmp_path: Path) -> None:
    source = Source(1, 2, 3, 4)
    with pytest.raises(Interrupted, match="it broke off"):
        Download(10_000).save(source, tmp_path / "file")
    assert source.begins == [0, 1, 2]


def test_what_is_not_to_be_had_is_not_tried_again() -> None:
    tries = []

    def attempt() -> None:
        tries.append(1)
        raise ValueError("no such file")

    with pytest.raises(ValueError, match="no such file"):
        tried(attempt)
    assert len(tries) == 1


def test_the_wait_grows_and_is_what_the_other_side_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(transfer, "BACK_OFF", 1.0)
    monkeypatch.setattr(time, "sleep", waited.append)

    def attempt(wait: float) -> None:
        raise Interrupted("busy", wait)

    for wait in (0.0, 1.5):
        with pytest.raises(Interrupted):
            tried(lambda wait=wait: attempt(wait))
    assert waited == [1.0, 2.0, 1.5, 2.0]
    with pytest.raises(Interrupted, match="busy; it asks for 3600 s of patience"):
        tried(lambda: attempt(3600))
    assert len(waited) == 4


def test_another_hash_is_refused(tmp_path: Path) -> None:
    found = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(ValueError, match=f"file has sha256 {found}, and {'0' * 64} is expected"):
        Download(10_000).save(Source(), tmp_path / "file", "0" * 64)


def test_bytes_are_bounded_over_all_files_and_by_file(tmp_path: Path) -> None:
    download = Download(1500)
    download.save(Source(100), tmp_path / "a")
    with pytest.raises(ValueError, match="b is too large: 476 bytes are left of 1500"):
        download.save(Source(), tmp_path / "b")
    assert (tmp_path / "b").stat().st_size <= 476
    with pytest.raises(ValueError, match="c is too large"):
        Download(10_000).save(Source(), tmp_path / "c", most=1023)
    Download(10_000).save(Source(), tmp_path / "c", most=1024)


def test_a_slow_drip_is_a_stall() -> None:
    """Bytes that keep coming would outlive any time without a byte."""
    begin = time.monotonic()
    with Source(seconds=0.01, size=1)(0) as stream, pytest.raises(Interrupted, match=r"it stalls: \d+ bytes in 0 s"):
        list(paced(stream.chunks, 0.05))
    assert time.monotonic() - begin < 3


def test_what_keeps_its_pace_is_no_stall() -> None:
    for seconds, size in ((0.2, 1024), (0.02, 100)):
        with Source(seconds=seconds, size=size)(0) as stream:
            assert b"".join(paced(stream.chunks, 0.05)) == CONTENT


def test_a_small_file_is_read_and_bounded() -> None:
    assert read(Source(100), 1024) == CONTENT
    with pytest.raises(ValueError, match="more than 1023 bytes"):
        read(Source(), 1023)
