"""A recipe is wholly checked before anything is loaded, and its errors name the key and the way out."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import training
from training.data import Table
from training.errors import RecipeError
from training.finetune import recipe
from training.finetune.recipe import Recipe
from training.pretrain.recipe import PretrainRecipe

FOLDER = Path(str(training.__file__)).parent / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.toml") if not path.stem.startswith("pretrain-"))
LEAST: dict[str, Any] = {
    "task": "classification",
    "data": "nli",
    "model": "m",
    "train": ["t.jsonl"],
    "dev": "d.jsonl",
    "output": "o",
    "labels": ["a", "b"],
}


def made(**changes: Any) -> Recipe:
    return Recipe(**LEAST | changes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(
        'task = "classification"\ndata = "nli"\nmodel = "m"\ntrain = ["t"]\ndev = "d"\noutput = "o"\n'
        'labels = ["a", "b"]\n[source_weights]\nmnli = 2\nsick = 0\n'
    )
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_our_own_recipes_parse(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "somewhere")
    monkeypatch.setenv("ENCODER", "encoder")
    loaded = recipe.load(path)
    ours = {
        "nli": "runs/nli-mean",
        "race": "runs/qa-restored",
        "sentiment-albert": "runs/pretrain-albert-distilled/final",
    }  # these go on from others
    assert loaded.model == ours.get(path.stem, "encoder")
    assert all(path.startswith(("somewhere/", "hub:")) for path in (*loaded.train, *loaded.dev))


def test_there_are_recipes_for_the_bundles() -> None:
    assert {"nli", "qa", "sentiment", "sentiment-albert"} <= {path.stem for path in RECIPES}


TABLE_14 = {
    "cola": (1e-5, 16, 0.0, 5336, 320, 512),
    "stsb": (2e-5, 16, 0.0, 3598, 214, 512),
    "sst2": (1e-5, 32, 0.0, 20935, 1256, 512),
    "mnli": (3e-5, 128, 0.0, 10000, 1000, 512),
    "qnli": (1e-5, 32, 0.0, 33112, 1986, 512),
    "qqp": (5e-5, 128, 0.1, 14000, 1000, 512),
    "rte": (3e-5, 32, 0.1, 800, 200, 512),
    "mrpc": (2e-5, 32, 0.0, 800, 200, 512),
    "wnli": (2e-5, 16, 0.1, 2000, 250, 512),
    "squad1": (5e-5, 48, 0.0, 3649, 365, 384),
    "squad2": (3e-5, 48, 0.0, 8144, 814, 512),
    "race": (2e-5, 32, 0.1, 12000, 1000, 512),
}
"""Learning rate, batch size, ALBERT's dropout, steps, warm-up steps and longest row (arXiv 1909.11942v6)."""


@pytest.mark.parametrize("task", TABLE_14)
def test_the_albert_papers_recipes(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "data")
    monkeypatch.setenv("ENCODER", "encoder")
    r = recipe.load(FOLDER / f"albert-{task}.toml")
    found = (r.learning_rate, r.batch_size, r.dropout, r.max_steps, r.warmup_steps, r.max_length)
    assert found == TABLE_14[task]
    assert (r.classifier_dropout, r.output) == (0.1, f"runs/albert-{task}")


def test_both_dev_sets_of_mnli_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCODER", "encoder")
    for family in ("albert", "bert"):
        dev = recipe.load(FOLDER / f"{family}-mnli.toml").dev
        assert [path.rpartition("_")[2] for path in dev] == ["matched", "mismatched"]


def test_every_key_is_documented() -> None:
    documented = re.findall(r"^        (\w+): ", Recipe.__doc__ or "", re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(Recipe)]


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("learing_rate", "learning_rate"), ("batchsize", "batch_size"), ("max_len", "max_length"), ("lables", "labels")],
)
def test_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(RecipeError, match=rf"unknown key '{key}'; did you mean '{nearest}'\?"):
        made(**{key: 1})


def test_unknown_key_without_a_near_one_lists_all() -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'zzzz'; there are task, data, .*, seed"):
        made(zzzz=1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", "three", "epochs is a float, not the str 'three'"),
        ("batch_size", 1.5, "batch_size is a int, not the float 1.5"),
        ("batch_size", True, "batch_size is a int, not the bool True"),
        ("learning_rate", True, "learning_rate is a float, not the bool True"),
        ("freeze_word_embeddings", 1, "freeze_word_embeddings is a bool, not the int 1"),
        ("model", 3, "model is a str, not the int 3"),
        ("train", 3, "train is a list of strings, not the int 3"),
        ("train", ["a", 3], r"train\[1\] is a str, not the int 3"),
        ("dropout", "none", "dropout is a float, not the str 'none'"),
        ("source_weights", 2, "source_weights is a table, not the int 2"),
        ("source_weights", {"mnli": "2"}, "source_weights.mnli is a int, not the str '2'"),
        ("table", "text", "table is a table, not the str 'text'"),
        ("table", {"text": 1}, "table.text is a str, not the int 1"),
        ("table", {"txt": "a"}, r"unknown key 'table.txt'; did you mean 'text'\?"),
        ("table", {"numbers": "idx"}, r"table.numbers is one of 'value', 'index', not 'idx'; did you mean 'index'\?"),
        ("table", {"dialect": "cvs"}, r"table.dialect is one of '', 'csv', .*; did you mean 'csv'\?"),
        ("precision", "fp23", r"precision is one of 'fp32', 'bf16', not 'fp23'; did you mean 'fp32'\?"),
        ("scheduler", ["linear"], "scheduler is one of 'linear', 'cosine', 'constant_with_warmup', not"),
    ],
)
def test_wrong_types_are_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        made(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classifier_dropout", 1.0), ("max_steps", -1), ("warmup_steps", -1), ("teacher_weight", 1.1),
        ("epochs", 0), ("epochs", float("nan")), ("epochs", float("inf")), ("batch_size", -1), ("learning_rate", 0.0),
        ("learning_rate", float("nan")), ("max_length", 0), ("save_steps", 0), ("warmup_ratio", 1.0), ("dropout", -0.1),
        ("dropout", float("nan")), ("label_smoothing", 1.5), ("empty_windows", 1.1), ("empty_windows", float("nan")),
        ("train_limit", -1), ("dev_limit", -1), ("doc_stride", -8), ("serve_doc_stride", -1), ("seed", -1),
        ("weight_decay", float("nan")), ("max_grad_norm", -1.0), ("gradient_accumulation_steps", 0),
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(key: str, value: float) -> None:
    with pytest.raises(RecipeError, match=key):
        made(**{key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["a"]}, "needs labels"),
        ({"labels": ["a", "b", "a"]}, "needs labels"),
        ({"labels": []}, "needs labels"),
        ({"train": []}, "train names no file"),
        ({"task": "span"}, "'span' reads data 'squad'"),
        ({"data": "squad"}, "'classification' reads data 'sst2' or 'nli' or 'table', not 'squad'"),
        ({"task": "multiple_choice"}, "'multiple_choice' reads data 'race', not 'nli'"),
        ({"dev": []}, "dev names no file"),
        ({"data": "table", "labels": ["a"]}, "needs labels"),
        ({"multi_label": True}, "multi_label and table tell of data 'table', not of 'nli'"),
        ({"table": {"text": "x"}}, "multi_label and table tell of data 'table', not of 'nli'"),
        ({"data": "table", "multi_label": True, "label_smoothing": 0.1}, "label_smoothing"),
        ({"data": "table", "labels": ["1", "1.0"]}, "needs labels"),
        ({"task": "score"}, "task 'score' reads data 'table', not 'nli'"),
        ({"activation": "sigmoid"}, "activation is of task 'score', not of 'classification'"),
        ({"task": "score", "data": "table", "label_smoothing": 0.1}, "label_smoothing is for labels that exclude"),
        ({"task": "score", "data": "table", "activation": "tanh"}, "activation is one of 'identity', 'sigmoid', not"),
        ({"data": "table", "labels": [], "table": {"numbers": "index"}}, 'table.numbers "index" wants labels'),
        ({"data": "table", "table": {"separator": ""}}, "table.separator is empty"),
        ({"max_steps": 10, "warmup_steps": 10}, "warmup_steps 10 leave none of max_steps 10"),
        ({"data": "sst2", "source_weights": {"mnli": 2}}, "source_weights"),
        ({"source_weights": {"mnli": -1}}, r"source_weights\.mnli"),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        made(**changes)


def test_missing_keys_are_named() -> None:
    with pytest.raises(RecipeError, match="missing: model, output"):
        Recipe(**{k: v for k, v in LEAST.items() if k not in ("model", "output")})


def test_values_and_defaults(file: Path) -> None:
    loaded = recipe.load(file)
    assert (loaded.train, loaded.dev) == (("t",), ("d",))
    assert loaded.labels == ("a", "b")
    assert loaded.source_weights == {"mnli": 2, "sick": 0}
    assert (loaded.epochs, loaded.batch_size, loaded.dropout) == (3.0, 32, None)
    assert made(epochs=2).epochs == 2.0
    assert isinstance(made(epochs=2).epochs, float)
    assert made(train="one").train == ("one",)
    assert made(dropout=0).dropout == 0.0


def test_dev_may_be_several_files() -> None:
    assert made(dev=["matched.jsonl", "mismatched.jsonl"]).dev == ("matched.jsonl", "mismatched.jsonl")


def test_a_table_of_ones_own(file: Path) -> None:
    values = {"data": "table", "labels": []}
    assert made(**values).table == Table("text", "", "label", "id", ",")
    assert made(**values, table={"text": "review"}).table == Table(text="review")
    overrides = ["data=table", "table.text=review", "table.separator=|", "source_weights={}"]
    assert recipe.load(file, overrides).table == Table(text="review", separator="|")


def test_one_key_of_a_table_leaves_the_others(file: Path) -> None:
    assert recipe.load(file, ["source_weights.sick=5"]).source_weights == {"mnli": 2, "sick": 5}


def test_layout() -> None:
    assert recipe.layout([]) == {}
    assert recipe.layout(["data=table", "table.text=review"]) == {"data": "table", "text": "review"}
    assert recipe.layout(["table.text=review"]) == {"data": "table", "text": "review"}
    assert recipe.layout(["data=nli"]) == {"data": "nli"}
    with pytest.raises(RecipeError, match="table tells of data 'table', not of 'nli'"):
        recipe.layout(["data=nli", "table.text=review"])
    for setting, message in (
        ("text=review", r"unknown key 'text'; did you mean 'table.text'\?"),
        ("data=sst", r"data is one of .*; did you mean 'sst2'\?"),
        ("table.dialect=cvs", r"table\.dialect: .*'csv'"),
        ("data", "key=value"),
    ):
        with pytest.raises(RecipeError, match=message):
            recipe.layout([setting])


def test_overrides(file: Path) -> None:
    loaded = recipe.load(
        file,
        [
            "learning_rate=1e-4", "epochs = 2", "output=runs/x y=z", 'labels=["x", "y"]', "train=one.tsv",
            "freeze_word_embeddings=true", "precision=bf16", "source_weights={mnli = 3}", 'model="quoted"',
        ],
    )  # fmt: skip
    assert loaded.learning_rate == 1e-4
    assert loaded.epochs == 2.0
    assert loaded.output == "runs/x y=z"
    assert loaded.labels == ("x", "y")
    assert loaded.train == ("one.tsv",)
    assert loaded.freeze_word_embeddings is True
    assert loaded.precision == "bf16"
    assert loaded.source_weights == {"mnli": 3}
    assert loaded.model == "quoted"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "--set takes key=value, not 'epochs'"),
        ("epoch=2", "did you mean 'epochs'"),
        ("epochs=many", "epochs is a float"),
    ],
)
def test_bad_overrides(file: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.load(file, [override])


def test_errors_name_the_file(file: Path) -> None:
    with pytest.raises(RecipeError, match=r"r\.toml: unknown key 'nope'"):
        recipe.load(file, ["nope=1"])


def test_environment_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "here")
    loaded = made(model="$PLACE/m", train=["${PLACE}/t", "plain"])
    assert loaded.model == "here/m"
    assert loaded.train == ("here/t", "plain")


def test_a_dollar_in_a_label_is_a_dollar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "here")
    assert made(labels=["$100", "$PLACE"]).labels == ("$100", "$PLACE")
    own = made(data="table", table={"text": "${PLACE}", "separator": "$"})
    assert (own.table.text, own.table.separator) == ("${PLACE}", "$")
    values = {"family": "albert", "masking": "ngram", "corpus": "$PLACE/c", "tokenizer": "$PLACE/t", "output": "o"}
    pretrain = PretrainRecipe(**values | {"steps": 1, "learning_rate": 1.0, "init": "$PLACE/i"})
    assert (pretrain.corpus, pretrain.tokenizer, pretrain.init) == (("here/c",), "here/t", "here/i")


@pytest.mark.parametrize("text", ["$NOT_SET_ANYWHERE/m", "${NOT_SET_ANYWHERE}/m"])
def test_unset_variables_are_named(text: str) -> None:
    with pytest.raises(RecipeError, match="model: the environment has no NOT_SET_ANYWHERE"):
        made(model=text)
    with pytest.raises(RecipeError, match=r"train\[0\]: the environment has no NOT_SET_ANYWHERE"):
        made(train=[text])


@pytest.mark.parametrize("content", [b"task = ", b"\xff\xfe"])
def test_unreadable_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"broken\.toml"):
        recipe.load(path)
    with pytest.raises(RecipeError, match=r"absent\.toml"):
        recipe.load(tmp_path / "absent.toml")


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().epochs = 1.0  # type: ignore[misc]
