"""A checkpoint in a folder or on a hub: what is fetched, and one line for each way in which that fails."""

import errno
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from service.repository.manifest import MANIFEST
from tests.training.hub import Hub, serving
from tests.training.samples import recipe, save_checkpoint
from training.__main__ import main
from training.checkpoints import stored
from training.checkpoints.source import Repository, find
from training.errors import CheckpointError
from training.finetune import runner as finetune

NAME = "owner/film"
LABELS = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
CARD = b"---\nlicense: apache-2.0\nbase_model: theirs/encoder\n---\n# Film\n"
OTHERS = {
    "tf_model.h5": b"h5", "flax_model.msgpack": b"m", "model.onnx": b"o", "training_args.bin": b"t",
    "pytorch_model.bin": b"p", "optimizer.pt": b"x", "README.md": CARD,
}  # fmt: skip


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's folder. Read-only by convention."""
    folder = tmp_path_factory.mktemp("checkpoint") / "film"
    return save_checkpoint(folder, "ForSequenceClassification", **LABELS)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    return folder


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        at(monkeypatch, hub.endpoint)
        yield hub


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the library would have waited before each further try."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """What HF_ENDPOINT does before the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


def leavings(cache: Path) -> list[Path]:
    """Files that were begun and not finished."""
    return [path for path in cache.rglob("*") if "incomplete" in path.name]


def test_a_folder_wins(hub: Hub, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(film, tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    source = find(NAME)
    assert (source.name, source.commit, source.whole()) == (NAME, "", Path(NAME))
    assert source.sizes() == {"model.safetensors": (film / "model.safetensors").stat().st_size}
    assert not hub.asked
    with pytest.raises(CheckpointError, match="is no repository on a hub: --revision v1 says nothing of it"):
        find(NAME, "v1")


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./film", "a/b/c", "../x"])
def test_what_can_be_no_repository_is_a_folder(name: str, hub: Hub) -> None:
    assert find(name).folder == Path(name)
    assert not hub.asked


def test_only_what_is_needed_is_fetched(hub: Hub, film: Path) -> None:
    commit = hub.push(NAME, film, **OTHERS)
    source = find(NAME)
    assert isinstance(source, Repository)
    assert (source.name, source.commit) == (NAME, commit)
    assert hub.fetched() == {"config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert source.described() == {"license": "apache-2.0", "base_model": "theirs/encoder"}
    folder = source.whole()
    assert hub.fetched() == {"config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "model.safetensors"}
    assert stored.shapes(folder) == stored.shapes(film)
    hub.asked.clear()
    assert find(NAME).whole() == folder
    assert not hub.fetched()  # it is in the cache


def test_shapes_come_by_ranges(hub: Hub, film: Path) -> None:
    hub.push(NAME, film, **OTHERS)
    source = find(NAME)
    hub.asked.clear()
    assert source.shapes() == stored.shapes(film)
    assert [(method, wanted) for method, _, wanted in hub.asked] == [("GET", "bytes=0-100000")]
    assert not (source.folder / "model.safetensors").exists()


def test_shards_by_their_index(hub: Hub, film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(film, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {"a.safetensors": list(tensors)[::2], "b.safetensors": list(tensors)[1::2]}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.push(NAME, folder, **OTHERS)
    source = find(NAME)
    assert list(source.sizes()) == ["a.safetensors", "b.safetensors"]
    assert source.shapes() == stored.shapes(film)
    assert {path.name for path in source.whole().iterdir()} >= parts.keys()
    assert "pytorch_model.bin" not in hub.fetched()
    (folder / "b.safetensors").unlink()
    hub.push(NAME, folder)
    with pytest.raises(
        CheckpointError, match=r"has no b\.safetensors, which its model\.safetensors\.index\.json names"
    ):
        find(NAME).sizes()


def test_torch_s_format_where_there_is_no_other(hub: Hub, film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(film, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    hub.push(NAME, folder, **{"tf_model.h5": b"h5"})
    source = find(NAME)
    assert list(source.sizes()) == ["pytorch_model.bin"]
    assert source.shapes() is None  # it would have to be fetched
    assert "pytorch_model.bin" not in hub.fetched()
    assert stored.shapes(source.whole()) == stored.shapes(film)
    assert source.shapes() == stored.shapes(film)


def test_no_weights_that_can_be_read(hub: Hub, film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tf"
    shutil.copytree(film, folder)
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    hub.push(NAME, folder)
    with pytest.raises(CheckpointError, match=r"owner/film has no weights .* it holds .*tf_model\.h5.*hf download"):
        find(NAME).whole()


def test_revisions(hub: Hub, film: Path) -> None:
    first, second = hub.push(NAME, film, "v1"), hub.push(NAME, film, **{"README.md": CARD})
    hub.repos[NAME].names["refs/pr/1"] = first
    assert [find(NAME, name).commit for name in ("v1", "", "refs/pr/1", first)] == [first, second, first, first]
    with pytest.raises(CheckpointError, match=r"owner/film has no revision 'v2': name one of its branches"):
        find(NAME, "v2")


def test_a_gated_repository_wants_the_token(hub: Hub, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push(NAME, film)
    hub.tokens, hub.repos[NAME].token = {"good", "another"}, "good"
    with pytest.raises(CheckpointError, match=r"owner/film is gated: ask for access on its page, .* set HF_TOKEN"):
        find(NAME)
    monkeypatch.setenv("HF_TOKEN", "good")
    assert (find(NAME).whole() / "model.safetensors").is_file()
    monkeypatch.setenv("HF_TOKEN", "another")
    with pytest.raises(CheckpointError, match="is gated"):
        find(NAME)
    monkeypatch.setenv("HF_TOKEN", "bad")
    with pytest.raises(CheckpointError, match=r"does not take the token \(401\): set HF_TOKEN to a valid one"):
        find(NAME)


def test_no_such_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CheckpointError, match=r"runs/finl is no folder here, and no repository on http.* without HF_TOKEN"
    ):
        find("runs/finl")
    hub.tokens = {"good"}
    monkeypatch.setenv("HF_TOKEN", "good")
    with pytest.raises(CheckpointError, match="that HF_TOKEN may read: check the name"):
        find("runs/finl")


def test_a_file_that_is_listed_and_not_there(hub: Hub, film: Path, cache: Path) -> None:
    hub.push(NAME, film)
    hub.repos[NAME].gone = {"model.safetensors"}
    with pytest.raises(CheckpointError, match=r"a file that the hub lists is not there .*model\.safetensors"):
        find(NAME).whole()
    assert not leavings(cache)


@pytest.mark.parametrize(("retry_after", "said"), [("7", "in 7 seconds"), ("", "in a few minutes")])
def test_asked_too_often(hub: Hub, film: Path, retry_after: str, said: str) -> None:
    hub.push(NAME, film)
    hub.busy, hub.retry_after = {"/api/": 99}, retry_after
    with pytest.raises(CheckpointError, match=rf"was asked too often \(429\): try again {said}; with HF_TOKEN set"):
        find(NAME)


def test_a_file_asked_for_too_often_is_waited_for(hub: Hub, film: Path, hurried: list[float]) -> None:
    hub.push(NAME, film)
    hub.busy, hub.retry_after = {"model.safetensors": 2}, "3"
    assert stored.shapes(find(NAME).whole()) == stored.shapes(film)
    assert hurried == [4.0, 4.0]  # one second more, for rounding


def test_a_file_asked_for_far_too_often(hub: Hub, film: Path, cache: Path, hurried: list[float]) -> None:
    hub.push(NAME, film)
    hub.busy = {"model.safetensors": 99}
    with pytest.raises(CheckpointError, match=r"was asked too often \(429\): try again in a few minutes"):
        find(NAME).whole()
    assert not leavings(cache)


def test_a_transfer_that_breaks_off_goes_on_where_it_was(
    hub: Hub, film: Path, monkeypatch: pytest.MonkeyPatch, hurried: list[float]
) -> None:
    hub.push(NAME, film)
    hub.broken = {"model.safetensors": 1}
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    folder = find(NAME).whole()
    assert (folder / "model.safetensors").read_bytes() == (film / "model.safetensors").read_bytes()
    ranges = [wanted for method, path, wanted in hub.asked if method == "GET" and path.endswith("model.safetensors")]
    assert ranges[0] == ""
    assert int(ranges[1].removeprefix("bytes=").rstrip("-")) > 1000
    assert len(ranges) == 2


def test_a_transfer_that_always_breaks_off(hub: Hub, film: Path, cache: Path, hurried: list[float]) -> None:
    hub.push(NAME, film)
    hub.broken = {"model.safetensors": 99}
    hub.repos[NAME].commits[find(NAME).commit]["model.safetensors"] = b"\0" * 10  # no half of it is new for long
    with pytest.raises(
        CheckpointError, match=r"owner/film: the transfer .*broke off .*: try again; files that came whole"
    ):
        find(NAME).whole()
    assert not leavings(cache)


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_that_fails(hub: Hub, film: Path, status: int) -> None:
    hub.push(NAME, film)
    hub.failing = status
    with pytest.raises(CheckpointError, match=rf"owner/film: http://127\S+ answers {status}: try again later"):
        find(NAME)


def test_offline_the_cache_is_used(hub: Hub, film: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.push(NAME, film)
    find(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    source = find(NAME)
    assert (source.commit, list(source.sizes()), source.shapes()) == (commit, ["model.safetensors"], None)
    with pytest.raises(CheckpointError, match=r"its weights are not in the cache .* HF_HUB_OFFLINE is set: unset it"):
        source.whole()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = find(NAME).whole()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert find(NAME).whole() == folder
    assert find(NAME).shapes() == stored.shapes(film)
    with pytest.raises(CheckpointError, match=r"other/one is no folder here, it is not in the cache .*OFFLINE is set"):
        find("other/one")
    assert not hub.asked


def test_no_network(hub: Hub, film: Path, monkeypatch: pytest.MonkeyPatch, hurried: list[float]) -> None:
    hub.push(NAME, film)
    folder = find(NAME).whole()
    at(monkeypatch, "http://127.0.0.1:9")  # nobody listens there
    assert find(NAME).whole() == folder
    with pytest.raises(
        CheckpointError, match=r"other/one is no folder here, it is not .* no hub answers at .*: check the"
    ):
        find("other/one")


def test_a_full_disk(hub: Hub, film: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system of 64 KiB, where one can be made; else a write that fails as on one."""
    hub.push(NAME, film)
    cache.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(cache)], capture_output=True, check=False
    )
    if mounted.returncode:

        def full(*arguments: Any, **more: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    try:
        with pytest.raises(
            CheckpointError, match=r"owner/film: the disk is full where the cache is .*make room, or set"
        ):
            find(NAME).whole()
        assert not leavings(cache)
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", str(cache)], check=True)


def test_a_cache_that_cannot_be_written(hub: Hub, film: Path, cache: Path) -> None:
    hub.push(NAME, film)
    cache.write_text("a file")
    with pytest.raises(CheckpointError, match=r"owner/film: the cache cannot be used .*set HF_HUB_CACHE"):
        find(NAME)


def test_a_check_fetches_no_weights(hub: Hub, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit = hub.push(NAME, film, **OTHERS)
    assert main(["check", NAME]) == 0
    output = capsys.readouterr().out
    said = dict(line.split(None, 1) for line in output.splitlines()[:-1])
    assert (said["checkpoint"], said["commit"], said["task"]) == (NAME, commit, "classification")
    assert said["weights"].endswith("MB in model.safetensors, F32")
    assert said["next"] == "python -m training export owner/film models/film"
    assert [wanted for _, path, wanted in hub.asked if path.endswith("model.safetensors")] == ["bytes=0-100000"]


def test_a_check_calls_a_repository_by_its_name(hub: Hub, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.push(NAME, film, **{"config.json": b'{"model_type": "gpt2"}', "vocab.txt": b""})
    assert main(["check", NAME, "--revision", "main"]) == 1
    said = capsys.readouterr()
    assert "error: it cannot be served as it is: model_type 'gpt2' is not one of" in said.err
    assert "snapshots" not in said.err


def test_an_export_by_name(hub: Hub, film: Path, tmp_path: Path) -> None:
    commit = hub.push(NAME, film, "v1", **OTHERS)
    bundle = tmp_path / "models" / "film"
    assert main(["export", NAME, str(bundle), "--revision", "v1", "--precision", "fp32"]) == 0
    manifest = json.loads((bundle / MANIFEST).read_text())
    assert manifest["checkpoint"] == f"{NAME}@{commit}"
    assert (manifest["base_model"], manifest["licence"]) == ("theirs/encoder", "apache-2.0")
    assert f"- exported from `{NAME}`, commit {commit}" in (bundle / "README.md").read_text()


def test_what_an_export_refuses_by_its_config_is_not_fetched(
    hub: Hub, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.push(NAME, film, **{"config.json": b'{"model_type": "gpt2"}'})
    assert main(["export", NAME, str(tmp_path / "models" / "film")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: owner/film: model_type 'gpt2' is not one of")
    assert "model.safetensors" not in hub.fetched()
    assert not (tmp_path / "models").exists()


def test_the_environment_names_the_hub(hub: Hub, film: Path, tmp_path: Path) -> None:
    """As a person has it: a program of its own."""
    hub.push(NAME, film)
    done = subprocess.run(
        [sys.executable, "-m", "training", "check", NAME], capture_output=True, text=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "next          python -m training export owner/film models/film" in done.stdout


def test_fine_tuning_by_name(hub: Hub, encoder: Path, data_dir: Path, tmp_path: Path) -> None:
    """The encoder and a teacher from the hub; what is recorded is their names."""
    commit = hub.push("owner/encoder", encoder)
    made = recipe(encoder, tmp_path / "run", str(data_dir / "sst2.tsv"), model="owner/encoder", max_steps=2)
    metrics = finetune.run(made)
    assert (metrics["recipe"]["model"], metrics["model_commit"]) == ("owner/encoder", commit)
    hub.push("owner/teacher", tmp_path / "run" / "final")
    taught = recipe(
        encoder, tmp_path / "taught", str(data_dir / "sst2.tsv"), max_steps=2, teacher=("owner/teacher",)
    )  # fmt: skip
    assert finetune.run(taught)["recipe"]["teacher"] == ("owner/teacher",)
    assert "model.safetensors" in hub.fetched()
    with pytest.raises(CheckpointError, match="owner/none is no folder here, and no repository on"):
        finetune.run(recipe(encoder, tmp_path / "none", str(data_dir / "sst2.tsv"), model="owner/none"))
