"""A pre-training recipe is checked as wholly as a fine-tuning one."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from tests.training.pretrain.materials import FAMILIES, recipe
from training import recipe as recipes
from training.errors import RecipeError
from training.pretrain.recipe import PretrainRecipe

OURS = sorted((Path(recipes.__file__).parent / "recipes").glob("pretrain-*.toml"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_our_own_recipes_parse(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "somewhere")
    monkeypatch.setenv("ENCODER", "encoder")
    loaded = recipes.load_as(PretrainRecipe, path)
    assert loaded.corpus[0].startswith("somewhere/")
    assert loaded.family in path.stem
    assert loaded.output == f"runs/{path.stem}"


def test_there_is_a_recipe_for_each_family() -> None:
    wanted = {f"pretrain-{family}-{size}" for family in set(FAMILIES) - {"albert"} for size in ("tiny", "base")}
    albert = {f"pretrain-albert-{kind}" for kind in ("base", "cpu", "distilled")}
    assert {path.stem for path in OURS} == wanted | albert


def test_albert_base_is_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 4.1 and table 1 of arXiv 1909.11942."""
    monkeypatch.setenv("DATA", "d")
    loaded = recipes.load_as(PretrainRecipe, next(path for path in OURS if path.stem == "pretrain-albert-base"))
    assert (loaded.layers, loaded.hidden_size, loaded.embedding_size, loaded.heads) == (12, 768, 128, 12)
    assert (loaded.batch_size, loaded.learning_rate, loaded.steps) == (4096, 1.76e-3, 125_000)
    assert (loaded.optimizer, loaded.masking, loaded.pairs) == ("lamb", "ngram", "order")
    assert (loaded.mask_ratio, loaded.max_length, loaded.short_rows) == (0.15, 512, 0.1)


def test_every_key_is_documented() -> None:
    documented = re.findall(r"^        (\w+): ", PretrainRecipe.__doc__ or "", re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(PretrainRecipe)]


def test_keys_are_checked_as_fine_tunings_are(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('family = "albert"\nmasking = "ngram"\ncorpus = "c"\ntokenizer = "t"\noutput = "o"\nsteps = 9\n')
    loaded = recipes.load_as(PretrainRecipe, path, ["learning_rate=1e-3", "batch_size=64"])
    assert (loaded.corpus, loaded.learning_rate, loaded.batch_size) == (("c",), 1e-3, 64)
    with pytest.raises(RecipeError, match=r"r\.toml: missing: learning_rate"):
        recipes.load_as(PretrainRecipe, path)
    with pytest.raises(RecipeError, match=r"unknown key 'learing_rate'; did you mean 'learning_rate'\?"):
        recipes.load_as(PretrainRecipe, path, ["learing_rate=1"])
    with pytest.raises(RecipeError, match=r"family is one of .*, not 'alberta'; did you mean 'albert'\?"):
        recipes.load_as(PretrainRecipe, path, ["learning_rate=1.0", "family=alberta"])


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_accepted(family: str) -> None:
    assert recipe(**FAMILIES[family]).family == family


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be above 0"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0"),
        ({"warmup_steps": -1}, "warmup_steps must not be below 0"),
        ({"warmup_steps": 6}, "leaves nothing of 6 steps"),
        ({"mask_ratio": 0.6}, "mask_ratio must be above 0 and at most 0.5"),
        ({"heldout": 0.0}, "heldout must be above 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"corpus": ()}, "corpus names no file"),
        ({"batch_size": 10}, "batch_size 10 is no multiple of micro_batch_size 4"),
        ({"decay_power": 2.0}, "decay_power bends decay 'polynomial'"),
        ({"max_length": 65}, "max_length 65 is more than max_positions 64"),
        ({"max_length": 18}, "leaves less than 16 tokens"),
        ({"heads": 5}, "hidden_size 32 is no multiple of heads 5"),
        ({"family": "roberta"}, "has no second segment"),
        ({"masking": "span"}, "masking 'span' is of family 'spanbert'"),
        ({"family": "spanbert", "pairs": "none"}, "masking 'span' is of family 'spanbert'"),
        ({"family": "bert"}, "has no embedding_size of its own"),
        ({"generator_share": 1.5}, "generator_share must be at most 1"),
        (FAMILIES["electra"] | {"hidden_size": 36, "generator_share": 0.7}, "a hidden size of 25 is no multiple of"),
    ],
)
def test_bounds(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(**changes)
