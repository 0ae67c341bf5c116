"""`python -m service score`: files in, files out, each row once, whatever happens."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service import scoring
from service.commands import score
from service.errors import BertieError, InferenceError
from service.inprocess import load
from service.scoring import readers, run, writers
from service.scoring.errors import ScoringError
from service.scoring.part import Scorer, ahead
from service.scoring.plan import Plan, Settings, make
from service.scoring.storage import Folder, find
from tests.engines import FakeEngine

ROOT = Path(__file__).parents[3]
TEXTS = ("a good film", "an awful film", "the dogs are happy and the game is great", "boring", "i love it")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """60 rows of CSV."""
    path = tmp_path / "rows.csv"
    path.write_text("id,text\n" + "".join(f"{i},{TEXTS[i % 5]} {'so ' * (i % 7)}\n" for i in range(60)))
    return path


@pytest.fixture
def sentiment(models_dir: Path) -> str:
    return str(models_dir / "sentiment")


def output(folder: Path) -> list[dict[str, Any]]:
    """The rows of an output folder, in the order of its files."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("part-*")):
        if path.suffix == ".parquet":
            rows += pq.read_table(path).to_pylist()
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                rows += csv.DictReader(file)
        else:
            rows += map(json.loads, path.read_text().splitlines())
    return rows


def rejected(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("_rej*")) for line in path.read_text().splitlines()]


def run_score(*arguments: object) -> int:
    return score.main([*map(str, arguments), "--threads", "1"])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_row_is_answered_as_in_a_process(kind: str, source: Path, sentiment: str, tmp_path: Path) -> None:
    assert run_score(sentiment, source, tmp_path / "out", "--format", kind, "--part-rows", 25) == 0
    rows = output(tmp_path / "out")
    assert [int(row["id"]) for row in rows] == list(range(60))
    expected = load(sentiment, threads=1)([row["text"] for row in rows])
    assert [row["label"] for row in rows] == [each["label"] for each in expected]
    assert [float(row["score"]) for row in rows] == pytest.approx([each["score"] for each in expected])
    scores = [row["scores"] if kind == "jsonl" else json.loads(row["scores"]) for row in rows]
    assert all(math.isclose(sum(each.values()), 1) for each in scores)
    assert {str(row["truncated"]).lower() for row in rows} == {"false"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*(f"part-0000{i}.{kind}" for i in range(3)), "_score.json", "_done", "_SUCCESS"}
    assert json.loads((tmp_path / "out/_SUCCESS").read_text()) == {"rows": 60, "rejected": 0, "parts": 3}


def test_parquet_keeps_its_types_and_a_folder_is_read_in_order(sentiment: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    schema = pa.schema(
        [("n", pa.int16()), ("text", pa.dictionary(pa.int32(), pa.string())), ("when", pa.timestamp("ns"))]
    )
    for name, first in (("a", 0), ("b", 10)):
        rows = [{"n": i, "text": TEXTS[i % 5], "when": i} for i in range(first, first + 10)]
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / f"in/{name}.parquet")
    assert run_score(sentiment, tmp_path / "in", tmp_path / "out", "--keep", "n,when", "--prefix", "p_") == 0
    table = pq.read_table(tmp_path / "out")
    assert table.column("n").to_pylist() == list(range(20))
    assert table.schema.names == ["n", "when", "p_label", "p_score", "p_scores", "p_truncated"]
    assert table.schema.types[:2] == [pa.int16(), pa.timestamp("ns")]


def test_a_parquet_file_is_written_as_its_rows_come(
    source: Path, sentiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "ROWS", 8)
    monkeypatch.setattr(writers, "GROUP_ROWS", 20)
    assert run_score(sentiment, source, tmp_path / "out", "--format", "parquet", "--keep", "id") == 0
    file = pq.ParquetFile(tmp_path / "out/part-00000.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [24, 24, 12]
    assert [int(row["id"]) for row in output(tmp_path / "out")] == list(range(60))


@pytest.mark.parametrize("to", ["csv", "jsonl"])
def test_parquet_becomes_text(to: str, sentiment: str, tmp_path: Path) -> None:
    table = pa.table(
        {"text": ["good", "bad"], "n": [1.5, math.nan], "raw": [b"\xff", b"a"], "list": [[1.0, math.nan], None]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert run_score(sentiment, tmp_path / "a.parquet", tmp_path / "out", "--format", to) == 0
    first, second = output(tmp_path / "out")
    if to == "csv":
        assert (first["n"], first["raw"], first["list"], second["list"]) == ("1.5", "\ufffd", "[1.0, null]", "")
    else:
        assert (first["n"], second["n"], first["raw"], first["list"], second["list"]) == (
            1.5,
            None,
            "\ufffd",
            [1.0, None],
            None,
        )


def test_json_lines_become_parquet(sentiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LOOKED_AT", 2)
    rows = [{"text": "good", "n": 1}, {"text": "bad"}, {"text": "good", "n": "x"}, {"text": "good", "new": 1}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    assert run_score(sentiment, tmp_path / "a.jsonl", out, "--format", "parquet", "--max-rejected", 0.5) == 0
    assert [(row["text"], row["n"]) for row in output(out)] == [("good", 1), ("bad", None)]
    reasons = [row["reason"] for row in rejected(out)]
    assert reasons[0] == "column 'n' is not of type int64, as in the first rows"
    assert reasons[1].startswith("it has 'new', which no row at the beginning has")
    assert run_score(sentiment, tmp_path / "a.jsonl", out, "--format", "csv", "--keep", "text", "--overwrite") == 0
    assert [row["text"] for row in output(out)] == ["good", "bad", "good", "good"]


def test_a_json_line_is_not_written_over_by_its_answer(
    sentiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "LOOKED_AT", 1)
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": "good", "label": "mine"}\n')
    assert run_score(sentiment, tmp_path / "a.jsonl", tmp_path / "out", "--max-rejected", 1) == 0
    assert [row["reason"] for row in rejected(tmp_path / "out")] == ["it has 'label', which is a column of the answer"]


# ---- other tasks ----------------------------------------------------------------------------------------------------


def scored(bundle: Path, rows: list[dict[str, Any]], tmp_path: Path, *arguments: object) -> list[dict[str, Any]]:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run_score(bundle, tmp_path / "rows.jsonl", tmp_path / "out", *arguments) == 0
    return output(tmp_path / "out")


def test_questions_have_answers_and_places(models_dir: Path, tmp_path: Path) -> None:
    context = "The capital of France is Paris, not Berlin."
    rows = [{"q": "What is the capital of France?", "c": context}, {"q": "What is the capital?", "c": "nothing here"}]
    names = ("--column", "question=q", "--column", "context=c", "--option", "no_answer=true", "--option", "top_k=2")
    found, nothing = scored(models_dir / "qa", rows, tmp_path, *names)
    assert found["answer"] == "Paris" == context[found["start"] : found["end"]]
    assert (found["document"], found["no_answer"]) == (0, False)
    assert found["answers"][0]["answer"] == "Paris"
    assert 0 <= found["no_answer_score"] < found["score"] <= 1
    assert (nothing["answer"], nothing["score"], nothing["start"], nothing["no_answer"]) == (None, None, None, True)


def test_zero_shot_labels_are_an_option(models_dir: Path, tmp_path: Path) -> None:
    labels = ("--option", 'candidate_labels=["sports", "politics"]', "--option", "hypothesis_template=about {}")
    rows = [{"text": "the sports game"}, {"text": "politics and an election"}]
    found = scored(models_dir / "nli", rows, tmp_path, *labels, "--delimiter", ";")
    assert [row["label"] for row in found] == ["sports", "politics"]


def test_scores_rankings_and_options_are_columns(bundle_factory: Callable[..., Path], tmp_path: Path) -> None:
    rerank, choice = bundle_factory("rerank"), bundle_factory("choice")
    row: dict[str, Any] = {"query": "the capital of france", "texts": ["a dog", "the capital of france is paris"]}
    (found,) = scored(rerank, [row], tmp_path)
    assert [each["index"] for each in found["ranking"]] == [1, 0]
    (found,) = scored(rerank, [{"text": "dog", "text_pair": "a dog"}], tmp_path, "--overwrite")
    assert found["score"] > 0.5
    row = {"question": "who?", "context": "ada wrote code", "options": ["ruth", "ada"]}
    (found,) = scored(choice, [row], tmp_path, "--overwrite")
    assert (found["option"], found["answer"]) == (1, "ada")
    assert found["scores"][1] == found["score"] > found["scores"][0]


def test_labels_that_do_not_exclude_one_another_are_listed(bundle_factory: Callable[..., Path], tmp_path: Path) -> None:
    (found,) = scored(bundle_factory("sentiment", multi_label=True), [{"text": "good"}], tmp_path)
    assert found["labels"] == ["positive"]


# ---- bad rows -------------------------------------------------------------------------------------------------------


def test_bad_rows_are_kept_aside_and_stop_nothing(sentiment: str, tmp_path: Path) -> None:
    lines = ["good", "", "null", "5", "x" * 1_000_000, "\ud800", "bad"]
    rows = [
        json.dumps({"id": i, "text": None if line == "null" else 5 if line == "5" else line})
        for i, line in enumerate(lines)
    ]
    content = (
        "\n".join([*rows, '{"id": 7}', "no json"]).encode()
        + b'\n{"id": 9, "text": "\xff"}\n{"id": 10, "text": "fun"}\n'
    )
    (tmp_path / "a.jsonl").write_bytes(content)
    assert run_score(sentiment, tmp_path / "a.jsonl", tmp_path / "out", "--max-rejected", 1, "--part-rows", 4) == 0
    assert [row["id"] for row in output(tmp_path / "out")] == [0, 6, 10]
    reasons = {row["row"]: row["reason"] for row in rejected(tmp_path / "out")}
    assert list(reasons) == [1, 2, 3, 4, 5, 7, 8, 9]
    assert "blank" in reasons[1]
    assert reasons[2] == "it is null"
    assert "valid string" in reasons[3]
    assert reasons[4] == "it has 1000000 characters; 200000 are possible"
    assert reasons[9] == "it is not UTF-8"
    assert json.loads((tmp_path / "out/_SUCCESS").read_text()) == {"rows": 3, "rejected": 8, "parts": 3}
    assert all(len(json.dumps(row)) < 1000 for row in rejected(tmp_path / "out"))


def test_too_many_bad_rows_stop_the_run(
    sentiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("id,text\n" + "1,good\n" * 30 + "2,\n" * 10)
    arguments = (sentiment, tmp_path / "a.csv", tmp_path / "out", "--part-rows", 10)
    assert run_score(*arguments) == 1
    assert "10 of 40 rows are rejected, more than --max-rejected 0.1" in capsys.readouterr().err
    assert not (tmp_path / "out/_SUCCESS").exists()
    monkeypatch.setattr(run, "FEWEST", 10)  # long before the end
    assert run_score(*arguments, "--max-rejected", 0.2, "--overwrite") == 1
    assert not (tmp_path / "out/part-00003.csv").exists()
    assert run_score(*arguments, "--max-rejected", 0.25) == 0
    assert len(output(tmp_path / "out")) == 30


def test_a_question_that_leaves_no_room_costs_no_other(models_dir: Path, tmp_path: Path) -> None:
    rows = [{"question": "who " * n, "context": "Ada wrote code."} for n in (1, 100, 2)]
    found = scored(models_dir / "qa", rows, tmp_path, "--max-rejected", 1)
    assert len(found) == 2
    (bad,) = rejected(tmp_path / "out")
    assert (bad["row"], bad["field"]) == (1, "question")


def test_an_answer_that_is_no_number_costs_its_row(sentiment: str, source: Path, tmp_path: Path) -> None:
    model = load(sentiment, threads=1).model
    files = find(str(source))
    plan = make(Settings(input="", model="", model_digest="", columns={}, options={}), files, model)
    engine = FakeEngine((math.nan, 1.0))
    object.__setattr__(model, "engine", engine)
    (done,) = Scorer(plan, model, Folder(str(tmp_path / "out"))).score(plan.parts)
    assert (done.rows, done.rejected) == (0, 60)
    assert {row["reason"] for row in rejected(tmp_path / "out")} == {
        "the model's output for this input is not a finite number"
    }
    with pytest.raises(InferenceError):
        model.predict(model.tasks[0], [plan.fields(model).example({"text": "x"}, most_characters=9)])
    engine.error = RuntimeError("the engine is gone")
    with pytest.raises(RuntimeError, match="the engine is gone"):
        list(Scorer(plan, model, Folder(str(tmp_path / "out2"))).score(plan.parts))
    assert not list((tmp_path / "out2").glob("*"))


# ---- killed, and gone on --------------------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "service", "score", *map(str, arguments), "--threads", "1"]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.csv"
    path.write_text("id,text\n" + "".join(f"{i},{TEXTS[i % 5]}\n" if i % 100 else f"{i},\n" for i in range(60_000)))
    return path


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_goes_on(sig: int, many: Path, sentiment: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = command(sentiment, many, out, "--part-rows", 2000)
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("_done/*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(sig)
    assert process.stderr is not None
    told = process.stderr.read()
    assert process.wait(timeout=30) == (1 if sig == signal.SIGTERM else -9)
    assert ("stopped; the same command goes on from here" in told) == (sig == signal.SIGTERM)
    before = {path: path.stat().st_mtime_ns for path in out.glob("_done/*.json")}
    assert 3 <= len(before) < 30
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"in 30 parts, {len(before)} of them done" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [int(row["id"]) for row in output(out)] == [i for i in range(60_000) if i % 100]
    assert [row["row"] for row in rejected(out)] == list(range(0, 60_000, 100))
    assert not list(out.glob(".tmp-*"))


def test_a_part_that_was_not_done_is_scored_again(source: Path, sentiment: str, tmp_path: Path) -> None:
    arguments = (sentiment, source, tmp_path / "out", "--part-rows", 25)
    assert run_score(*arguments) == 0
    whole = output(tmp_path / "out")
    (tmp_path / "out/_SUCCESS").unlink()
    (tmp_path / "out/_done/00001.json").unlink()
    (tmp_path / "out/.tmp-left").write_text("by a run that was killed")
    (tmp_path / "out/_done/.tmp-left").write_text("by a run that was killed")
    (tmp_path / "out/part-00001.csv").write_text("half")
    assert run_score(*arguments) == 0
    assert output(tmp_path / "out") == whole
    assert not (tmp_path / "out/.tmp-left").exists()


def test_a_finished_run_does_nothing(
    source: Path, sentiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_score(sentiment, source, tmp_path / "out") == 0
    before = (tmp_path / "out/part-00000.csv").stat()
    assert run_score(sentiment, source, tmp_path / "out") == 0
    assert (tmp_path / "out/part-00000.csv").stat() == before
    assert "is finished, of 60 rows: there is nothing to do" in capsys.readouterr().err


def test_a_folder_without_rows_is_scored_at_once(sentiment: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n")
    assert run_score(sentiment, tmp_path / "a.csv", tmp_path / "out") == 0
    assert (tmp_path / "out/_SUCCESS").exists()


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a run that is refused says: one line, and exit status 1."""
    assert run_score(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bertie score: ")
    return line


def test_another_run_than_the_one_in_the_folder_is_refused(
    source: Path, sentiment: str, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_score(sentiment, source, out) == 0
    capsys.readouterr()
    assert "has part_rows 20000, and this one 5" in refusal(capsys, sentiment, source, out, "--part-rows", 5)
    (tmp_path / "b.csv").write_text("id,text\n1,good\n")
    assert "b.csv is new or has changed" in refusal(capsys, sentiment, f"{tmp_path}/*.csv", out)
    os.utime(source, (1, 1))
    assert "rows.csv is new or has changed" in refusal(capsys, sentiment, source, out)
    assert run_score(sentiment, f"{tmp_path}/*.csv", out, "--overwrite") == 0
    assert len(output(out)) == 61
    capsys.readouterr()
    assert "rows.csv is gone since the run began" in refusal(capsys, sentiment, tmp_path / "b.csv", out)
    (out / "_score.json").write_text('{"version": 2}')
    assert "cannot be used (of version 2)" in refusal(capsys, sentiment, source, out)
    (out / "_score.json").write_text("{}")
    assert "cannot be used (no plan: KeyError('version'))" in refusal(capsys, sentiment, source, out)


def test_a_folder_of_something_else_is_left_alone(
    source: Path, sentiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.doc").write_text("x")
    for extra in ((), ("--overwrite",)):
        assert "holds 'thesis.doc' and is no output" in refusal(capsys, sentiment, source, out, *extra)
    assert (out / "thesis.doc").read_text() == "x"


def test_input_that_changes_during_the_run_is_told(source: Path, sentiment: str, tmp_path: Path) -> None:
    model = load(sentiment, threads=1).model
    settings = Settings(input="", model="", model_digest="", columns={}, options={}, part_rows=20)
    plan = make(settings, find(str(source)), model)
    parts = Scorer(plan, model, Folder(str(tmp_path / "out"))).score(plan.parts)
    next(parts)
    os.utime(source, (1, 1))
    with pytest.raises(ScoringError, match="has changed since the run began"):
        list(parts)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_done", "part-00000.csv"]


def test_rows_that_went_missing_are_no_success(source: Path, sentiment: str, tmp_path: Path) -> None:
    model = load(sentiment, threads=1).model
    settings = Settings(input=str(source), model="", model_digest="", columns={}, options={})
    begun = run.begin(settings, model, Folder(str(tmp_path / "out")), overwrite=False)
    with pytest.raises(ScoringError, match="0 rows were seen, not 60"):
        begun.score(lambda parts, on_block: iter(()), 0.1, sys.stderr)


# ---- what is wrong is told in one line ------------------------------------------------------------------------------


def test_wrong_input_is_told_in_one_line(
    source: Path,
    sentiment: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    assert "there is no file" in refusal(capsys, sentiment, tmp_path / "no.csv", out)
    monkeypatch.setenv("BERTIE_MODELS_DIR", str(Path(sentiment).parent))
    assert "there is no bundle 'x' in" in (line := refusal(capsys, "x", source, out))
    assert line.endswith("it holds nli, qa, sentiment")
    assert "lacks" in refusal(capsys, sentiment, source, out, "--column", "premise=id")
    assert "there is no column 'review'" in refusal(capsys, sentiment, source, out, "--column", "text=review")
    assert "--keep x: there is no such column" in refusal(capsys, sentiment, source, out, "--keep", "x")
    (tmp_path / "more.csv").write_text("id,review\n1,good\n")
    assert "more.csv has no column 'text'" in refusal(capsys, sentiment, f"{tmp_path}/*.csv", out)
    (tmp_path / "more.csv").write_text("label,text\n1,good\n")
    assert "the input has a column 'label', and so has the answer" in refusal(
        capsys, sentiment, tmp_path / "more.csv", out
    )
    (tmp_path / "half.parquet").write_bytes(b"PAR1half")
    assert "is no whole Parquet file" in refusal(capsys, sentiment, tmp_path / "half.parquet", out)
    assert "holds files of csv and parquet" in refusal(capsys, sentiment, f"{tmp_path}/*[vt]", out)
    for name, kind in (("a", pa.int32()), ("b", pa.int64())):
        table = pa.table({"text": ["good"], "n": pa.array([1], kind)})
        (tmp_path / "types").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / f"types/{name}.parquet")
    assert "column 'n' is of type int64, and of type int32" in refusal(capsys, sentiment, tmp_path / "types", out)
    assert not out.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--column", "text"],
        ["--option", "=3"],
        ["--delimiter", "ab"],
        ["--part-rows", "0"],
        ["--max-rejected", "2"],
        ["--format", "xml"],
    ],
)
def test_wrong_usage_is_told(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        score.main(["model", "in", "out", *wrong])
    assert raised.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_a_version_is_found_by_its_name(
    source: Path, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(models_dir / "sentiment", tmp_path / "models/sentiment/2")
    monkeypatch.setenv("BERTIE_MODELS_DIR", str(tmp_path / "models"))
    assert run_score("sentiment/2", source, tmp_path / "out") == 0


def test_a_model_is_found_by_its_name(
    source: Path, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTIE_MODELS_DIR", str(models_dir))
    assert run_score("sentiment", source, tmp_path / "out", "--option", "top_k=1") == 0
    assert {row["scores"].count(":") for row in output(tmp_path / "out")} == {1}


@pytest.mark.parametrize(("missing", "extra"), [("fsspec", "score"), ("ray", "ray")])
def test_a_missing_extra_is_named(
    missing: str,
    extra: str,
    source: Path,
    sentiment: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for name in [name for name in sys.modules if name.startswith("service.scoring.")]:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(scoring, name.rpartition(".")[2], raising=False)
    line = refusal(capsys, sentiment, source, tmp_path / "out", "--ray", "127.0.0.1:1")
    assert f"pip install 'bertie[{extra}]'" in line


def test_a_plan_comes_back_from_its_json(source: Path, sentiment: str) -> None:
    model = load(sentiment, threads=1).model
    settings = Settings(input="x", model="m", model_digest="v", columns={}, options={}, format="parquet", part_rows=7)
    plan = make(settings, find(str(source)), model)
    assert Plan.from_json(plan.to_json()) == plan


def test_blocks_run_ahead_but_not_far_and_stay_in_order() -> None:
    read: list[int] = []

    def items() -> Any:
        for i in range(20):
            read.append(i)
            yield i

    results = ahead(lambda i: i * i, items(), 2)
    assert next(results) == 0
    assert len(read) == 3
    assert list(results) == [i * i for i in range(1, 20)]

    def fail(i: int) -> int:
        raise BertieError("no")

    with pytest.raises(BertieError):
        list(ahead(fail, items(), 2))
