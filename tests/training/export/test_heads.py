"""Heads of one label, of several that may hold together, and of thousands: from a recipe, and from a hub."""

import json
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import service
from service.repository import bundle as bundles
from service.repository.manifest import Manifest
from service.tasks import Score, ScoreTask
from tests.training.samples import ADA, PARIS, QUESTIONS, SENTENCES, load_tokenizer, recipe, save_checkpoint, write_text
from training import tasks
from training.__main__ import main
from training.data import Table
from training.errors import CheckpointError, DataError, GateError
from training.evaluate import runner as evaluate
from training.export import check, restore
from training.export import runner as export
from training.export.runner import Request
from training.finetune import runner as finetune

QUALITY = (4.0, 1.0, 5.0, 0.5, 4.5, 0.0, 3.5, 1.5)
"""Of `SENTENCES`."""
PAIRS = Table(text="query", text_pair="passage", label="relevant")


def tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return write_text(path, "".join("\t".join(map(str, row)) + "\n" for row in (header, *rows)))


def qualities(path: Path, values: Sequence[object] = QUALITY) -> str:
    return tsv(path, ("text", "label"), [(text, value) for (text, _), value in zip(SENTENCES, values, strict=True)])


def relevances(path: Path, *, upside_down: bool = False) -> str:
    rows = [
        (question, passage, int((passage == context) != upside_down))
        for _, question, context, _ in QUESTIONS
        for passage in (PARIS, ADA)
    ]
    return tsv(path, ("query", "passage", "relevant"), rows)


def one_label(folder: Path, **config: Any) -> Path:
    """A hub's checkpoint of one label, with fields of its config replaced."""
    return configured(save_checkpoint(folder, "ForSequenceClassification", num_labels=1), **config)


def configured(folder: Path, **fields: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def exported(checkpoint: Path, **changes: Any) -> Manifest:
    asked = {"without_dev": "dev" not in changes, "precisions": ("fp32",)} | changes
    return export.run(Request(checkpoint, checkpoint.parent / "models" / "m", **asked))


@pytest.fixture(scope="module")
def regression(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run that fits the numbers of the sentences; beside it `d/quality.tsv`."""
    folder = tmp_path_factory.mktemp("regression")
    path = qualities(folder / "d" / "quality.tsv")
    finetune.run(recipe(encoder, folder / "run", path, task="score", labels=(), epochs=100.0))
    return folder / "run"


@pytest.fixture(scope="module")
def reranker(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run that fits relevance; beside it `d/relevant.tsv`."""
    folder = tmp_path_factory.mktemp("reranker")
    path = relevances(folder / "d" / "relevant.tsv")
    made = recipe(encoder, folder / "run", path, task="score", labels=(), epochs=40.0)
    finetune.run(finetune.dataclasses.replace(made, activation="sigmoid", table=PAIRS))
    return folder / "run"


# ---- one label ------------------------------------------------------------------------------------------------------


def test_a_regression_learns_numbers_and_serves_them(regression: Path, tmp_path: Path) -> None:
    metrics = json.loads((regression / "metrics.json").read_text())
    assert metrics["dev"]["pearson"] > 98
    output = tmp_path / "models" / "quality"
    manifest = export.run(Request(regression / "final", output))
    assert (manifest.task, manifest.activation, manifest.labels) == ("score", "identity", ("LABEL_0",))
    assert (manifest.temperature, manifest.calibration) == (1.0, None)
    for graph in manifest.graphs:
        assert graph.scores["d/quality.tsv"]["spearman"] > 95
    scores = service.load(output, threads=1)([text for text, _ in SENTENCES])
    assert [each["score"] for each in scores] == pytest.approx(list(QUALITY), abs=0.5)
    card = (output / "README.md").read_text()
    assert "for a score of a text or a pair of texts" in card
    assert '{"text": "a gorgeous, witty, seductive movie", "model": "quality"}' in card
    assert "no temperature is fitted" in card
    reached, predicted = evaluate.bundle(bundles.load(output), str(regression.parent / "d" / "quality.tsv"))
    assert reached["spearman"] > 95
    assert predicted == pytest.approx([each["score"] for each in scores])


def test_a_regressions_checkpoint_is_read_by_others_as_it_is_served(regression: Path) -> None:
    config = json.loads((regression / "final" / "config.json").read_text())
    assert config["problem_type"] == "regression"
    assert config["sentence_transformers"] == {"activation_fn": "torch.nn.modules.linear.Identity"}


def test_a_reranker_puts_passages_in_order(reranker: Path, tmp_path: Path) -> None:
    output = tmp_path / "models" / "reranker"
    manifest = export.run(Request(reranker / "final", output))
    assert (manifest.task, manifest.activation) == ("score", "sigmoid")
    for graph in manifest.graphs:
        found = graph.scores["d/relevant.tsv"]
        assert (found["average_precision"], found["mrr"], found["rows"]) == (100.0, 100.0, 8)
    pipeline: Any = service.load(output, threads=1)
    for _, question, context, _ in QUESTIONS:
        best, worst = pipeline.rank(question, [PARIS, ADA], return_documents=True)
        assert best["text"] == context
        assert 0 < worst["score"] < 0.5 < best["score"] < 1
    assert '"query": "Where is the Eiffel Tower?"' in (output / "README.md").read_text()


def test_scores_are_torchs_through_a_sigmoid(reranker: Path, tmp_path: Path) -> None:
    """As transformers' pipeline and a cross-encoder give them."""
    output = tmp_path / "models" / "reranker"
    export.run(Request(reranker / "final", output, ("fp32",)))
    pairs = [(question, passage) for _, question, _, _ in QUESTIONS for passage in (PARIS, ADA)]
    model = AutoModelForSequenceClassification.from_pretrained(reranker / "final").eval()
    encoded = AutoTokenizer.from_pretrained(reranker / "final")(
        [query for query, _ in pairs],
        [text for _, text in pairs],
        padding=True,
        truncation=True,
        max_length=48,
        return_token_type_ids=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = model(**encoded).logits[:, 0]
    pipeline: Any = service.load(output, threads=1)
    assert pipeline.predict(pairs) == pytest.approx(torch.sigmoid(logits).tolist(), abs=1e-4)
    raw = pipeline([{"text": a, "text_pair": b} for a, b in pairs], function_to_apply="none")
    assert [each["score"] for each in raw] == pytest.approx(logits.tolist(), abs=1e-3)


def test_a_restored_reranker_is_one_again(reranker: Path, encoder: Path, tmp_path: Path) -> None:
    export.run(Request(reranker / "final", tmp_path / "models" / "a", ("fp32",)))
    restore.run(tmp_path / "models" / "a", encoder, tmp_path / "c")
    manifest = exported(tmp_path / "c")
    assert (manifest.task, manifest.activation) == ("score", "sigmoid")


def test_a_student_learns_a_teachers_score(encoder: Path, regression: Path, tmp_path: Path) -> None:
    """The data's numbers are all the same: what the student knows it has from the teacher."""
    path = qualities(tmp_path / "flat.tsv", [2.0] * 8)
    dev = str(regression.parent / "d" / "quality.tsv")
    made = recipe(
        encoder, tmp_path / "run", path, dev, task="score", labels=(), epochs=40.0,
        teacher=(str(regression / "final"),), teacher_weight=1.0,
    )  # fmt: skip
    assert finetune.run(made)["dev"]["pearson"] > 90


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({"problem_type": "regression"}, "identity"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "identity"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "identity"),
        (
            {
                "problem_type": "regression",
                "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
            },
            "sigmoid",
        ),
        ({"sentence_transformers": {"version": "4.0.1"}}, "sigmoid"),
        ({}, "sigmoid"),
    ],
)
def test_a_checkpoint_says_what_its_score_goes_through(
    tmp_path: Path, config: dict[str, Any], activation: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = one_label(tmp_path / "c", **config)
    manifest = exported(folder)
    assert (manifest.task, manifest.activation) == ("score", activation)
    silent = config in ({}, {"sentence_transformers": {"version": "4.0.1"}})
    assert ("--activation identity serves the number as it comes" in caplog.text) == silent
    report = check.run(folder)
    assert (report.facts["task"], report.facts["activation"], report.facts["served"][:3]) == (
        "score",
        activation,
        "yes",
    )
    assert any("--activation" in note for note in report.notes) == silent


def test_sentence_transformers_own_file_says_it_too(tmp_path: Path) -> None:
    folder = one_label(tmp_path / "c")
    other = folder / "config_sentence_transformers.json"
    other.write_text(json.dumps({"activation_fn": "torch.nn.modules.linear.Identity"}))
    assert exported(folder).activation == "identity"
    other.write_text("{")
    with pytest.raises(CheckpointError, match="config_sentence_transformers"):
        exported(folder)


def test_the_activation_is_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = one_label(tmp_path / "c", id2label={"0": "toxicity"}, label2id={"toxicity": 0})
    manifest = exported(folder, activation="identity")
    assert (manifest.activation, manifest.labels) == ("identity", ("toxicity",))
    assert "--activation" not in caplog.text
    other = one_label(tmp_path / "d", sentence_transformers={"activation_fn": "torch.nn.modules.activation.Tanh"})
    with pytest.raises(CheckpointError, match=r"go through torch.nn.modules.activation.Tanh, .* --activation identity"):
        exported(other)
    assert "Tanh" in check.run(other).problems[0]
    assert exported(other, activation="sigmoid").activation == "sigmoid"
    with pytest.raises(CheckpointError, match="--labels names 2 labels, the model has 1"):
        exported(folder, labels=("a", "b"))


def test_a_command_chooses_the_activation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = one_label(tmp_path / "c")
    (tmp_path / "models").mkdir()
    command = ["export", str(folder), str(tmp_path / "models" / "m"), "--without-dev", "--precision", "fp32"]
    assert main([*command, "--activation", "identity"]) == 0
    assert bundles.load(tmp_path / "models" / "m").manifest.activation == "identity"
    capsys.readouterr()


def test_an_activation_is_of_one_label(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "c", "ForQuestionAnswering")
    with pytest.raises(CheckpointError, match="--activation is of a model with one label, and its task is span"):
        exported(folder, activation="sigmoid")


def test_numbers_the_other_way_up_are_refused(reranker: Path, tmp_path: Path) -> None:
    dev = (relevances(tmp_path / "upside.tsv", upside_down=True),)
    with pytest.raises(GateError, match=r"rank correlation is -\d+.\d+, below the 0 of guesses"):
        export.run(Request(reranker / "final", tmp_path / "m", ("fp32",), dev=dev))


def test_a_sigmoid_does_not_learn_numbers_beyond_it(encoder: Path, tmp_path: Path) -> None:
    path = qualities(tmp_path / "q.tsv")
    made = recipe(encoder, tmp_path / "run", path, task="score", labels=(), activation="sigmoid")
    with pytest.raises(DataError, match=r"q.tsv:2: a number that no sigmoid gives \(4 is not in 0 to 1\)"):
        finetune.run(made)


@pytest.mark.parametrize("run", ["regression", "reranker"])
def test_scores_without_a_dev_file_are_held_to_fp32s(
    run: str, regression: Path, reranker: Path, tmp_path: Path
) -> None:
    checkpoint = {"regression": regression, "reranker": reranker}[run] / "final"
    export.run(Request(checkpoint, tmp_path / "m", without_dev=True))
    card = (tmp_path / "m" / "README.md").read_text()
    found = re.search(r"- int8: (\d+\.\d) % is the correlation with fp32, their scores (\d\.\d+) apart", card)
    assert found, card
    assert float(found[1]) > 95
    assert float(found[2]) < 0.02


@pytest.mark.parametrize(
    ("activation", "found", "alike", "differences"),
    [
        ("identity", (0.0, 5.0, 10.0), 100.0, [0.0, 0.0, 0.0]),
        ("identity", (0.0, 6.0, 10.0), 99.34, [0.0, 0.1, 0.0]),
        ("identity", (10.0, 5.0, 0.0), -100.0, [1.0, 0.0, 1.0]),
        ("sigmoid", (0.0, 5.0, 10.5), 100.0, [0.0, 0.0, 0.5]),
    ],
)
def test_how_far_scores_agree(
    activation: Any, found: Sequence[float], alike: float, differences: Sequence[float]
) -> None:
    served = ScoreTask(load_tokenizer(), 16, activation=activation)
    ours, theirs = ([Score(score, truncated=False) for score in some] for some in (found, (0.0, 5.0, 10.0)))
    assert tasks.of(served).agreement(served, [], theirs, ours) == (
        pytest.approx(alike, abs=0.05), pytest.approx(differences),
    )  # fmt: skip


# ---- several labels, and thousands ----------------------------------------------------------------------------------


def test_a_checkpoint_is_said_to_have_several_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"id2label": {0: "toxic", 1: "threat"}, "label2id": {"toxic": 0, "threat": 1}}
    folder = save_checkpoint(tmp_path / "c", "ForSequenceClassification", **labels)
    assert not exported(folder).multi_label
    manifest = exported(folder, multi_label=True)
    assert (manifest.multi_label, manifest.label_threshold) == (True, 0.5)
    card = (tmp_path / "models" / "m" / "README.md").read_text()
    assert "those scored over 0.5\n" in card
    assert main(["check", str(folder), "--multi-label"]) == 0
    output = capsys.readouterr().out
    assert "several labels a text" in output
    assert f"export {folder} models/c --multi-label" in output
    configured(folder, problem_type="single_label_classification")
    with pytest.raises(CheckpointError, match="problem_type 'single_label_classification' cannot be served"):
        exported(folder, multi_label=True)
    with pytest.raises(CheckpointError, match="--multi-label is for several labels, and its task is score"):
        exported(one_label(tmp_path / "one"), multi_label=True)


def test_thousands_of_labels(tmp_path: Path) -> None:
    names = [f"subject {i}" for i in range(2000)]
    path = tmp_path / "names.txt"
    path.write_text("\n".join(names))
    folder = save_checkpoint(tmp_path / "c", "ForSequenceClassification", num_labels=2000)
    with pytest.raises(CheckpointError, match=r"LABEL_19 and 1980 more: which is which") as refused:
        exported(folder)
    assert len(str(refused.value)) < 1000
    with pytest.raises(CheckpointError, match=r"two labels have the same name: a$"):
        exported(folder, labels=("a", "a", *names[2:]))
    configured(folder, problem_type="multi_label_classification")
    rows = [(text, f"subject {i},subject {i + 7}") for i, (text, _) in enumerate(SENTENCES)]
    dev = tsv(tmp_path / "d" / "subjects.tsv", ("text", "label"), rows)
    (tmp_path / "models").mkdir()
    output = tmp_path / "models" / "subjects"
    asked = ["--labels", str(path), "--precision", "fp32", "--precision", "int8", "--dev", dev]
    assert main(["export", str(folder), str(output), *asked]) == 0
    manifest = bundles.load(output).manifest
    assert manifest.labels == tuple(names)
    assert len(manifest.graphs[0].scores["d/subjects.tsv"]) < 10
    assert "subject 19 and 1980 more" in (output / "README.md").read_text()
    assert len((output / "README.md").read_text()) < 5000
    pipeline = service.load(output, threads=1)
    assert len(pipeline("a good film", top_k=None)) == 2000
    assert pipeline("a good film", top_k=2) == pipeline("a good film", top_k=None)[:2]


def test_thousands_of_labels_that_exclude_one_another(tmp_path: Path) -> None:
    names = tuple(f"subject {i}" for i in range(2000))
    folder = save_checkpoint(tmp_path / "c", "ForSequenceClassification", num_labels=2000)
    rows = [(text, f"subject {i}") for i, (text, _) in enumerate(SENTENCES * 4)]
    dev = tsv(tmp_path / "d" / "subjects.tsv", ("text", "label"), rows)
    manifest = exported(folder, labels=names, dev=(dev,))
    assert manifest.graphs[0].scores["d/subjects.tsv"].keys() == {"accuracy", "rows", "recall"}


# ---- other heads of a hub -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "task"), [("ForMultipleChoice", "multiple_choice"), ("ForQuestionAnswering", "span")])
def test_other_heads_need_no_recipe(tmp_path: Path, head: str, task: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    folder = save_checkpoint(tmp_path / "c", head)
    manifest = exported(folder, precisions=("fp32", "int8"))
    assert manifest.task == task
    assert [record.message for record in caplog.records] == []
    pipeline = service.load(tmp_path / "models" / "m", threads=1)
    asked: dict[str, Any] = {"question": "who wrote the code ?", "context": ADA}
    if task == "multiple_choice":
        asked["options"] = ["ada", "ruth"]
    assert 0 < pipeline(**asked)["score"] <= 1
    assert math.isfinite(pipeline(**asked)["score"])
