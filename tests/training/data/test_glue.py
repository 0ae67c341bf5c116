"""SST-2 and NLI in each of their layouts, and each kind of bad record."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from service.tasks import ClassificationExample
from tests.training.samples import write_nli, write_text
from training.data import LabelledText, Report, read_nli, read_sst2

SENTIMENT = ("negative", "positive")
NLI = ("entailment", "neutral", "contradiction")


def pair(premise: str, hypothesis: str, label: str, source: str = "") -> LabelledText:
    return LabelledText(ClassificationExample(premise, hypothesis), label, source)


def test_sst2_of_glue(tmp_path: Path) -> None:
    report = Report()
    path = write_text(tmp_path / "sst2.tsv.xz", 'sentence\tlabel\na "lone quote \t1\nbad\t0\n')
    assert list(read_sst2(path, SENTIMENT, report)) == [
        LabelledText(ClassificationExample('a "lone quote'), "positive"),
        LabelledText(ClassificationExample("bad"), "negative"),
    ]
    assert not report.bad


def test_sst2_with_named_labels_in_jsonl(tmp_path: Path) -> None:
    path = write_text(tmp_path / "own.jsonl", '{"text": "fine", "label": "positive"}\n{"text": "x", "label": 0}\n')
    assert [e.label for e in read_sst2(path, SENTIMENT, Report())] == ["positive", "negative"]


def test_numbers_as_pandas_writes_them(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", "sentence,label\nfine,1.0\nbad,0.0\n")
    assert [e.label for e in read_sst2(path, SENTIMENT, Report())] == ["positive", "negative"]
    report = Report()
    path = write_text(tmp_path / "b.csv", "premise,hypothesis,label\np,h,2.0\np,g,-1.0\n")
    assert [e.label for e in read_nli(path, NLI, report)] == ["contradiction"]
    assert report.set_aside.total() == 1


def test_nli_in_our_layout_keeps_the_source(tmp_path: Path) -> None:
    path = write_nli(tmp_path / "a.jsonl.gz", [{"premise": "p", "hypothesis": "h", "label": "neutral", "source": "x"}])
    assert list(read_nli(path, NLI, Report())) == [pair("p", "h", "neutral", "x")]


def test_mnli_in_the_layout_of_glue(tmp_path: Path) -> None:
    names = "index promptID pairID genre s1_binary s2_binary s1_parse s2_parse sentence1 sentence2 label1 gold_label"
    path = write_text(
        tmp_path / "dev_matched.tsv",
        "\t".join(names.split())
        + '\n0\t1\t1n\tfiction\t( a )\t( b )\t(X)\t(Y)\tHe said "hi\tHe spoke\tneutral\tentailment\n',
    )
    assert list(read_nli(path, NLI, Report())) == [pair('He said "hi', "He spoke", "entailment")]


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_mnli_and_snli_as_published(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"gold_label": "contradiction", "sentence1": "p", "sentence2": "h", "pairID": "1", "label1": "neutral"},
        {"gold_label": "-", "sentence1": "p", "sentence2": "h", "pairID": "2", "label1": "neutral"},
    ]
    if suffix == "jsonl":
        text = "".join(json.dumps({**row, "annotator_labels": [row.pop("label1")]}) + "\n" for row in rows)
    else:
        text = "\n".join("\t".join(row) for row in [rows[0].keys(), *(row.values() for row in rows)]) + "\n"
    report = Report()
    assert list(read_nli(write_text(tmp_path / f"snli_dev.{suffix}", text), NLI, report)) == [
        pair("p", "h", "contradiction")
    ]
    assert report.set_aside == {"pairs without a consensus label": 1}
    assert not report.bad


def test_nli_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"premise": "p", "hypothesis": "h", "label": label, "idx": i} for i, label in enumerate((0, 1, 2, -1))]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    report = Report()
    assert [e.label for e in read_nli("hub:nyu-mll/glue:mnli#train", NLI, report)] == list(NLI)
    assert report.set_aside.total() == 1


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"hypothesis": "h", "label": "neutral"}, "no 'premise'"),
        ({"premise": "p", "label": "neutral"}, "no 'hypothesis'"),
        ({"premise": "p", "hypothesis": "h"}, "no 'label'"),
        (
            {"premise": "p", "hypothesis": "h", "label": "neutrall"},
            "unknown label ('neutrall'; did you mean 'neutral'?)",
        ),
        (
            {"premise": "p", "hypothesis": "h", "label": None},
            "unknown label (None; there are entailment, neutral, contradiction)",
        ),
        (
            {"premise": "p", "hypothesis": "h", "label": 3},
            "unknown label (3; there are entailment, neutral, contradiction)",
        ),
        ({"sentence1": " ", "sentence2": "h", "gold_label": "neutral"}, "'sentence1' is empty or not a text"),
        ({"premise": "", "hypothesis": "", "label": "no"}, "'premise' is empty or not a text"),
        ({"premise": "", "hypothesis": "h", "label": "neutral"}, "'premise' is empty or not a text"),
        ({"premise": "p", "hypothesis": " \t", "label": "neutral"}, "'hypothesis' is empty or not a text"),
        ({"premise": ["p"], "hypothesis": "h", "label": "neutral"}, "'premise' is empty or not a text"),
        ({"premise": "p", "hypothesis": None, "label": "neutral"}, "'hypothesis' is empty or not a text"),
    ],
)
def test_bad_nli_records(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    report = Report()
    good = {"premise": "p", "hypothesis": "h", "label": "neutral"}
    path = write_nli(tmp_path / "a.jsonl", [good, record, good])
    assert list(read_nli(path, NLI, report)) == [pair("p", "h", "neutral")] * 2
    assert f"a.jsonl:2: {reason}" in report.summary()
    assert report.bad.total() == 1


@pytest.mark.parametrize("name", ["pairID", "id", "index", "idx"])
def test_an_id_of_two_records(tmp_path: Path, name: str) -> None:
    """The same record may stand twice, and a prompt has several pairs."""
    report = Report()
    first = {"premise": "p", "hypothesis": "h", "label": "neutral", "promptID": "1", name: "7"}
    other = first | {"hypothesis": "another"}
    rows = [first, first | {name: "8"}, other, first, other | {name: "9"}, first | {"label": "entailment"}]
    path = write_nli(tmp_path / "a.jsonl", rows)
    assert [e.example.text_pair for e in read_nli(path, NLI, report)] == ["h", "h", "h", "another"]
    assert report.bad == {"the id stands twice": 2}
    assert "a.jsonl:3: the id stands twice ('7', first at a.jsonl:1)" in report.summary()
    assert "a.jsonl:6: the id stands twice ('7', first at a.jsonl:1)" in report.summary()


def test_records_without_an_id_are_all_taken(tmp_path: Path) -> None:
    report = Report()
    path = write_text(tmp_path / "a.tsv", "index\tsentence\tlabel\n\ta\t1\n\tb\t0\n0\tc\t0\n0\td\t0\n")
    assert [e.example.text for e in read_sst2(path, SENTIMENT, report)] == ["a", "b", "c"]
    assert "a.tsv:5: the id stands twice ('0', first at a.tsv:4)" in report.summary()


def test_half_a_character_is_a_bad_record(tmp_path: Path) -> None:
    report = Report()
    path = write_text(tmp_path / "a.jsonl", '{"premise": "a \\ud83d", "hypothesis": "h", "label": "neutral"}\n')
    assert not list(read_nli(path, NLI, report))
    assert "a.jsonl:1: 'premise' is empty or not a text" in report.summary()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("\t1", "'sentence' is empty"),
        ("fine\t2", "unknown label ('2'; there are"),
        ("fine", "too few columns (1 of 2)"),
    ],
)
def test_bad_sst2_records(tmp_path: Path, line: str, reason: str) -> None:
    report = Report()
    path = write_text(tmp_path / "a.tsv", f"sentence\tlabel\n{line}\ngood\t1\n")
    assert [e.example.text for e in read_sst2(path, SENTIMENT, report)] == ["good"]
    assert f"a.tsv:2: {reason}" in report.summary()


def test_a_wrong_header_is_counted_for_each_record_and_told_once(tmp_path: Path) -> None:
    report = Report()
    assert not list(read_sst2(write_text(tmp_path / "a.tsv", "review\tstars\na\t1\nb\t0\n"), SENTIMENT, report))
    assert report.bad == {"no 'sentence'": 2}
    assert report.summary().count("a.tsv:") == 1
