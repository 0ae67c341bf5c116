"""Golden rows as they are written: by an export, and into a bundle that is there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.engine.processor import products_overflow
from service.engine.session import SEVEN_BIT, OrtEngine
from service.errors import BundleError
from service.repository import bundle as bundles
from service.repository import golden as rows
from service.repository.golden import GOLDEN
from service.repository.loading import open_task
from service.repository.manifest import MANIFEST
from tests.bundles import KIND, UNKIND, make_bundle
from tests.training.samples import squad_json, squad_record, write_sst2, write_text
from training import files
from training.__main__ import main
from training.errors import DataError, TrainingError
from training.export import golden
from training.export import runner as export
from training.export.runner import Request


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / GOLDEN).read_text())
    return found


def held(folder: Path, precision: str = "fp32", *, seven_bits: bool | None = None) -> int:
    bundle = bundles.load(folder)
    tokenizer, task = open_task(bundle)
    engine = OrtEngine(
        folder / f"model.{precision}.onnx",
        provider="cpu",
        precision=precision,
        workers=1,
        intra_op_threads=1,
        seven_bits=seven_bits,
    )
    return rows.check(bundle, tokenizer, task, engine)


# ---- by an export ---------------------------------------------------------------------------------------------------


def test_an_export_writes_those_of_each_graph(sentiment_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "sentiment"
    manifest = export.run(Request(sentiment_run / "final", output, ("int8", "fp16")))
    assert GOLDEN in manifest.files
    assert "| golden.json |" in (output / "README.md").read_text()
    made = read(output)
    bits = (SEVEN_BIT,) if products_overflow() else ("int8", SEVEN_BIT)
    assert made["expected"].keys() == {*bits, "fp16"}  # not fp32, which is not kept
    count = len(made["inputs"])
    assert count == golden.INPUTS
    assert held(output, "int8") == held(output, "int8", seven_bits=True) == held(output, "fp16") == count
    texts = [each["text"] for each in made["inputs"]]
    assert "a terrible sad film" in texts  # of the dev file
    assert any(text != text.lower() for text in texts)  # and Bertie's own
    assert {each["answer"]["label"] for each in made["expected"][SEVEN_BIT]} == {"negative", "positive"}


def test_an_export_without_a_dev_file_writes_its_own(qa_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "qa"
    export.run(Request(qa_run / "final", output, ("fp32",), without_dev=True))
    assert held(output) == golden.INPUTS
    assert max(len(each["logits"]) for each in read(output)["expected"]["fp32"]) > 1  # windows
    assert (output / GOLDEN).stat().st_size < 100_000


# ---- into a bundle --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sentiment", "nli", "qa", "choice", "rerank"])
def test_a_bundle_of_each_task_gets_its_own(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(tmp_path, kind)
    before = json.loads((folder / MANIFEST).read_text())
    left = {path.name for path in folder.iterdir()}
    assert main(["golden", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: {golden.INPUTS} inputs, expected in fp32\n"
    assert held(folder) == golden.INPUTS
    after = json.loads((folder / MANIFEST).read_text())
    assert after["files"].pop(GOLDEN)
    assert list(after.items()) == list(before.items())
    assert {path.name for path in folder.iterdir()} == left | {GOLDEN}


def test_inputs_of_a_dev_file_differ_in_label_and_length(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "models", "sentiment")
    texts = [f"{word} {'film ' * length}".strip() for word in (KIND[0], UNKIND[0]) for length in range(60)]
    dev = write_sst2(tmp_path / "dev.tsv", [(text, "1") for text in [*texts, "\u00ad"]])  # the last no client may post
    golden.add(folder, [dev])
    made = read(folder)
    labels = [each["answer"]["label"] for each in made["expected"]["fp32"]]
    asked = [each["text"] for each in made["inputs"]][: golden.INPUTS - golden.OWN]
    assert set(asked) < set(texts)
    assert sorted(labels[: len(asked)]) == ["negative"] * 4 + ["positive"] * 4
    lengths = sorted(len(text.split()) for text in asked)
    assert lengths[:2] == [1, 1]
    assert lengths[-2:] == [60, 60]
    assert any(20 < length < 40 for length in lengths)


def test_questions_of_a_dev_file_have_answers_and_none(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "models", "qa", no_answer=True)
    question, there, nowhere = "What is the capital of France?", "The capital of France is Paris.", "A dog is a dog is."
    long = "The film is about a dog. " * 30 + there
    records = [
        (there, [squad_record("a", question, there, "Paris")]),
        (long, [squad_record("b", question, long, "Paris")]),
        (nowhere, [squad_record("c", question, nowhere)]),
    ]
    golden.add(folder, [write_text(tmp_path / "dev.json", squad_json(*records))])
    expected = read(folder)["expected"]["fp32"]
    answers = [each["answer"]["answer"] for each in expected[:3]]
    assert sorted(answer["text"] if answer else "" for answer in answers) == ["", "Paris", "Paris"]
    assert max(each["answer"]["windows"] for each in expected[:3]) > 2


def test_new_ones_take_the_place_of_old_ones(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "models", "sentiment")
    golden.add(folder)
    golden.add(folder, [write_sst2(tmp_path / "dev.tsv", [("good", "1")])])
    assert read(folder)["inputs"][0] == {"text": "good"}
    assert held(folder) == 1 + golden.OWN


def test_what_is_interrupted_leaves_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bundle(tmp_path / "models", "sentiment")
    golden.add(folder)
    aside = files.written_aside

    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        with aside(path) as given:
            yield given
        if path.name == GOLDEN:
            raise OSError("No space left on device")

    monkeypatch.setattr(files, "written_aside", full)
    with pytest.raises(OSError, match="No space"):
        golden.add(folder, [write_sst2(tmp_path / "dev.tsv", [("good", "1")])])
    assert held(folder) == 0  # it is a bundle, and has none


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "models", "sentiment")
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(DataError):
        golden.add(folder, [write_text(tmp_path / "dev.tsv", "sentence\tlabel\ngood\t7\n")])
    assert (folder / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("kind", ["sentiment", "qa"])
def test_inputs_keep_within_their_room(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bundle(tmp_path, kind)
    monkeypatch.setattr(golden, "NUMBERS", 100)
    golden.add(folder)
    expected = read(folder)["expected"]["fp32"]
    assert 1 < sum(len(output) for each in expected for row in each["logits"] for output in row) <= 100


def test_a_bundle_with_too_many_labels_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bundle(tmp_path, "sentiment")
    monkeypatch.setattr(golden, "NUMBERS", 3)
    with pytest.raises(TrainingError, match="or it has too many labels"):
        golden.add(folder)
    assert held(folder) == 0


def test_a_graph_that_no_cpu_runs_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BundleError("NOT_IMPLEMENTED")

    folder = make_bundle(tmp_path, "sentiment")
    monkeypatch.setattr(golden, "OrtEngine", refuse)
    with pytest.raises(TrainingError, match="no graph of it runs on this machine's CPU"):
        golden.add(folder)
    assert "no golden rows of the fp32 graph: NOT_IMPLEMENTED" in caplog.text
