"""Bundles in tars: found wherever they are, and nothing else ever written."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.errors import BundleError
from service.repository.manifest import MANIFEST, TOKENIZER
from service.repository.sources import archive, fetch
from service.repository.sources.transfer import MAX_MANIFEST
from tests.bundles import change_manifest, make_bundle
from tests.remote import Web, files_of, tar_of
from tests.service.repository.sources.conftest import sha256_of

GRAPH = "model.fp32.onnx"


def member(name: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    """What is no file: a link, a device, a folder."""
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, target, size
    return found


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@pytest.fixture
def unpack(tmp_path: Path, target: Path) -> Callable[..., Path]:
    """Unpacks tars, the uppermost first, to `target`."""

    def unpacked(*contents: bytes, sha256: str = "", most: int = 10_000_000) -> Path:
        paths = []
        for number, content in enumerate(contents):
            paths.append(tmp_path / f"{number}.tar")
            paths[-1].write_bytes(content)
        archive.unpack(iter(paths), target, sha256, most)
        return target

    return unpacked


Unpack = Callable[..., Path]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("prefix", ["", "./", "sentiment/", "./models/", "/models/a/b/"])
def test_a_bundle_is_found_in_whatever_folder(packed: bool, prefix: str, unpack: Unpack, elsewhere: Path) -> None:
    unpacked = unpack(tar_of({"readme": b"#", **files_of(elsewhere, prefix)}, packed=packed))
    assert files_of(unpacked) == files_of(elsewhere)


@pytest.mark.parametrize("name", ["sentiment.tar", "sentiment.tar.gz", "sentiment.tgz"])
def test_an_archive_is_fetched(name: str, web: Web, elsewhere: Path, cache: Path, sha256: str) -> None:
    """Whether it is packed is seen in it: servers and people rename."""
    web.files[f"/{name}"] = tar_of(files_of(elsewhere, "sentiment/"), packed=name != "sentiment.tar")
    for pin in ("", f"#sha256={sha256}"):
        found = fetch(f"{web.url}/{name}{pin}", cache)
        assert files_of(found) == files_of(elsewhere)
        assert found.name == "sentiment"
    assert len(web.asked) == 1


def test_nothing_else_is_written(unpack: Unpack, elsewhere: Path, tmp_path: Path, target: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("as it was")
    unpacked = unpack(
        tar_of(
            {**files_of(elsewhere, "a/"), "../secret": b"x", str(secret): b"x", "a/../../secret": b"x", "a/more": b"x"},
            member("a/link", tarfile.SYMTYPE, str(secret)),
            member("a/hard", tarfile.LNKTYPE, "../secret"),
            member("a/device", tarfile.CHRTYPE),
            member("a/pipe", tarfile.FIFOTYPE),
            member("a", tarfile.DIRTYPE),
        )
    )
    assert files_of(unpacked) == files_of(elsewhere)
    assert secret.read_text() == "as it was"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_a_device_is_no_file_of_a_bundle(kind: bytes, unpack: Unpack, elsewhere: Path) -> None:
    files = files_of(elsewhere, "a/")
    del files[f"a/{GRAPH}"]
    with pytest.raises(ValueError, match=f"{GRAPH} is missing beside the {MANIFEST} in it, as a regular file"):
        unpack(tar_of(files, member(f"a/{GRAPH}", kind, "/etc/passwd")))


def test_what_holds_no_bundle(unpack: Unpack, elsewhere: Path) -> None:
    for files in ({}, {"a": b"b"}, {MANIFEST: b"{}"}, {MANIFEST: b"\xff"}, {f"{MANIFEST}/a": b"{}"}):
        with pytest.raises(ValueError, match=f"no folder in it holds a bundle with its {MANIFEST}"):
            unpack(tar_of(files))


def test_other_manifests_are_passed_over(unpack: Unpack, elsewhere: Path) -> None:
    files = {f"web/{MANIFEST}": b'{"name": "app"}', f"huge/{MANIFEST}": b" " * (MAX_MANIFEST + 1)}
    assert files_of(unpack(tar_of({**files, **files_of(elsewhere, "a/")}))) == files_of(elsewhere)


def test_of_several_bundles_the_hash_tells(unpack: Unpack, elsewhere: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", "nli")
    content = tar_of({**files_of(elsewhere, "a/"), **files_of(other, "b/")})
    with pytest.raises(ValueError, match=f"several bundles, in 'a' and 'b': say which by #sha256= of its {MANIFEST}"):
        unpack(content)
    assert files_of(unpack(content, sha256=sha256_of(other))) == files_of(other)


def test_another_bundle_than_the_hash_says(unpack: Unpack, elsewhere: Path, sha256: str) -> None:
    with pytest.raises(ValueError, match=f"it holds a bundle of sha256={sha256}, and not of sha256={'0' * 64}"):
        unpack(tar_of(files_of(elsewhere)), sha256="0" * 64)


def test_a_file_that_is_not_what_the_manifest_says(unpack: Unpack, elsewhere: Path) -> None:
    files = files_of(elsewhere)
    with pytest.raises(ValueError, match=f"{GRAPH} has sha256 {hashlib.sha256(b'x').hexdigest()}, and the manifest"):
        unpack(tar_of(files | {GRAPH: b"x"}))


def test_a_file_that_is_there_twice_is_the_last_one(unpack: Unpack, elsewhere: Path) -> None:
    """So `tar --append` updates a file."""
    files = files_of(elsewhere)
    old = tar_of(files | {GRAPH: b"old"})
    with tarfile.open(fileobj=io.BytesIO(old)) as tar:
        tar.getmembers()
        end = tar.offset  # where the block of zeros begins
    assert files_of(unpack(old[:end] + tar_of({GRAPH: files[GRAPH]}))) == files


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.01, 0.2, 0.4])
def test_a_truncated_archive(packed: bool, keep: float, unpack: Unpack, elsewhere: Path) -> None:
    content = tar_of(files_of(elsewhere), packed=packed)
    with pytest.raises(ValueError, match=r"the archive is broken|no folder in it|is missing|unexpected end"):
        unpack(content[: int(len(content) * keep)])


def test_a_broken_stream(unpack: Unpack, elsewhere: Path) -> None:
    content = bytearray(tar_of(files_of(elsewhere), packed=True))
    content[len(content) // 2] ^= 255
    with pytest.raises(ValueError, match=r"the archive is broken|has sha256|is missing"):
        unpack(bytes(content))


def test_zstd_is_named(unpack: Unpack) -> None:
    with pytest.raises(ValueError, match="it is packed with zstd: pack it with gzip, or not at all"):
        unpack(b"\x28\xb5\x2f\xfd" + b"\0" * 600)


def test_a_bomb_is_bounded(unpack: Unpack, elsewhere: Path) -> None:
    bomb = tar_of({"zeros": b"\0" * 30_000_000, **files_of(elsewhere)}, packed=True)
    assert len(bomb) < 100_000
    with pytest.raises(ValueError, match="it has more than 10000000 bytes, unpacked"):
        unpack(bomb)


def test_a_size_that_lies_is_bounded(unpack: Unpack, elsewhere: Path) -> None:
    """A header claims an exabyte; and a sparse file, that has no bytes there, as many."""
    for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE):
        claim = member("a/b", kind, size=1 << 60)
        content = claim.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024
        with pytest.raises(ValueError, match=r"bytes, unpacked|no folder in it|broken"):
            unpack(content)


def test_files_are_bounded_together(unpack: Unpack, elsewhere: Path) -> None:
    content = tar_of(files_of(elsewhere))
    size = sum(len(each) for name, each in files_of(elsewhere).items() if name != MANIFEST)
    with pytest.raises(ValueError, match=r"bytes, unpacked|bytes together"):
        unpack(content, most=size - 1)


def test_a_sparse_file_counts_with_what_is_written(unpack: Unpack, elsewhere: Path) -> None:
    """It has no bytes in the tar, and would fill the disk with zeros."""
    sparse = tarfile.TarInfo(GRAPH)
    sparse.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
    files = files_of(elsewhere)
    del files[GRAPH]
    with pytest.raises(ValueError, match="its files have more than 10000000 bytes together"):
        unpack(tar_of(files, sparse))


def test_a_header_is_bounded(unpack: Unpack, elsewhere: Path) -> None:
    """tarfile reads an extended header into memory, of whatever size."""
    header = member("a", tarfile.XHDTYPE, size=archive.MAX_HEADER + 1)
    with pytest.raises(ValueError, match=f"a header in it has {archive.MAX_HEADER + 512} bytes"):
        unpack(header.tobuf() + b"\0" * (archive.MAX_HEADER + 1024))


def test_members_are_bounded(unpack: Unpack, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 10)
    with pytest.raises(ValueError, match="it holds more than 10 files"):
        unpack(tar_of({str(number): b"" for number in range(11)}))


# ---- layers ---------------------------------------------------------------------------------------------------------


def test_the_uppermost_layer_counts(unpack: Unpack, elsewhere: Path) -> None:
    files = files_of(elsewhere, "models/")
    below = files | {f"models/{GRAPH}": b"old"}
    assert files_of(unpack(tar_of({f"models/{GRAPH}": files[f"models/{GRAPH}"]}), tar_of(below))) == files_of(elsewhere)


def test_no_layer_below_is_looked_at_without_need(elsewhere: Path, tmp_path: Path, target: Path) -> None:
    (tmp_path / "top").write_bytes(tar_of(files_of(elsewhere, "models/")))
    taken = []

    def tars() -> Iterator[Path]:
        taken.append("top")
        yield tmp_path / "top"
        taken.append("below")
        yield tmp_path / "nowhere"

    archive.unpack(tars(), target, "", 10_000_000)
    assert taken == ["top"]


@pytest.mark.parametrize("taken_out", ["models/.wh.old", ".wh.models", "models/.wh..wh..opq", ".wh..wh..opq"])
def test_what_a_layer_takes_out_is_gone(
    taken_out: str, unpack: Unpack, elsewhere: Path, tmp_path: Path, target: Path
) -> None:
    """Whether it names a folder, or all that is below one."""
    old = make_bundle(tmp_path / "x", "nli")
    layers = (tar_of(files_of(elsewhere, "new/")), tar_of({taken_out: b""}), tar_of(files_of(old, "models/old/")))
    assert files_of(unpack(*layers)) == files_of(elsewhere)
    with pytest.raises(ValueError, match="no folder in it"):
        unpack(*layers[1:])


def test_a_link_above_hides_a_file_below(unpack: Unpack, elsewhere: Path) -> None:
    above = tar_of({}, member(f"m/{TOKENIZER}", tarfile.SYMTYPE, "/etc/passwd"))
    with pytest.raises(ValueError, match=f"{TOKENIZER} is missing"):
        unpack(above, tar_of(files_of(elsewhere, "m/")))


def test_a_bundle_with_a_name_that_is_no_folders(web: Web, elsewhere: Path, cache: Path) -> None:
    for name, said in (
        ("..", "does not begin with a dot"),
        (".incoming-x", "does not begin"),
        ("\N{PARTY POPPER}" * 100, "too long"),
    ):
        change_manifest(elsewhere, name=name)
        web.files["/a.tar"] = tar_of(files_of(elsewhere))
        with pytest.raises(BundleError, match=said):
            fetch(f"{web.url}/a.tar", cache)
        assert [path.name for path in cache.rglob("*") if path.name != ".lock"] in ([], ["sha256"])
    assert sorted(os.listdir(cache.parent)) == ["cache", "elsewhere"]


def test_gzip_in_members(unpack: Unpack, elsewhere: Path) -> None:
    """A gzip stream may have several members."""
    content = tar_of(files_of(elsewhere))
    assert files_of(unpack(gzip.compress(content[:5000]) + gzip.compress(content[5000:]))) == files_of(elsewhere)
