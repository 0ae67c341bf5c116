"""A dev set's profile: what it holds, who gets it, and that the service tells other text from it by it."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.drift import FEATURES
from service.metrics import Metrics
from service.repository import bundle as bundles
from service.settings import Settings
from tests.bundles import KIND, UNKIND, WORDS, make_bundle
from tests.serving import serving
from tests.training.samples import squad_json, squad_record, write_sst2, write_text
from training.__main__ import main
from training.errors import DataError
from training.evaluate import profile

SNOWMAN = "\N{SNOWMAN}"


def sentences(count: int, *, seed: int, kind: float = 0.5, longest: int = 12, unknown: float = 0.01) -> list[str]:
    """Sentences with a kind or an unkind word, and now and then one that the vocabulary lacks."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        words = rng.choices(WORDS.split(), k=rng.randint(longest // 3, longest))
        words[0] = rng.choice(KIND if rng.random() < kind else UNKIND)
        made.append(" ".join(SNOWMAN if rng.random() < unknown else word for word in words))
    return made


def dev_file(path: Path, texts: list[str]) -> str:
    return write_sst2(path, [(text, "1") for text in texts])


@pytest.fixture
def sentiment(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "models", "sentiment")


# ---- what it holds --------------------------------------------------------------------------------------------------


def test_it_counts_what_the_service_answers(sentiment: Path, tmp_path: Path) -> None:
    texts = ["good"] * 6 + ["bad film"] * 3 + [f"{SNOWMAN} good good film"]
    made = profile.add(sentiment, [dev_file(tmp_path / "d" / "dev.tsv", texts)])
    assert (made.data, made.inputs) == (("d/dev.tsv",), 10)
    assert made.labels == {"negative": 3, "positive": 7}
    assert made.tokens.edges == (3.5, 5.0)
    assert made.tokens.counts == (6, 3, 1)
    assert (made.known, made.unknown) == (6 * 3 + 3 * 4 + 5, 1)
    low, high = 1 / (1 + math.exp(-4.0)), 1 / (1 + math.exp(-8.0))  # one kind word, and two
    assert made.scores.edges == (pytest.approx((low + high) / 2),)
    assert made.scores.counts == (9, 1)


def test_bins_are_of_like_counts(sentiment: Path, tmp_path: Path) -> None:
    made = profile.add(sentiment, [dev_file(tmp_path / "dev.tsv", sentences(1000, seed=0, longest=60))])
    assert len(made.tokens.counts) == 10
    assert min(made.tokens.counts) > 50
    assert max(made.tokens.counts) < 150
    assert sum(made.tokens.counts) == sum(made.scores.counts) == 1000


def test_equal_values_are_in_one_bin(sentiment: Path, tmp_path: Path) -> None:
    lengths = [3] * 2 + [5] * 50 + list(range(6, 54))
    texts = [" ".join(["film"] * (length - 2)) for length in lengths]
    made = profile.add(sentiment, [dev_file(tmp_path / "dev.tsv", texts)])
    assert made.tokens.edges[:2] == (4.0, 5.5)
    assert made.tokens.counts[:2] == (2, 50)
    assert sum(made.tokens.counts) == 100
    assert (made.scores.edges, made.scores.counts) == ((), (100,))  # none is kind or unkind


def test_large_files_are_looked_at_all_over(sentiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "PROFILED", 100)
    kind = dev_file(tmp_path / "a" / "kind.tsv", ["good"] * 300)
    unkind = dev_file(tmp_path / "a" / "unkind.tsv", ["bad"] * 100)
    made = profile.add(sentiment, [kind, unkind])
    assert (made.data, made.inputs) == (("a/kind.tsv", "a/unkind.tsv"), 100)
    assert made.labels == {"negative": 25, "positive": 75}


def test_nothing_else_of_a_bundle_changes(sentiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((sentiment / "manifest.json").read_text())
    left = sorted(path.name for path in sentiment.iterdir())
    status = main(["profile", str(sentiment), dev_file(tmp_path / "dev.tsv", ["good", "bad"])])
    assert status == 0
    after = json.loads((sentiment / "manifest.json").read_text())
    assert after.pop("profile") == json.loads(capsys.readouterr().out)
    assert before.pop("profile") is None
    assert list(after.items()) == list(before.items())
    assert sorted(path.name for path in sentiment.iterdir()) == left
    loaded = bundles.load(sentiment).manifest.profile
    assert loaded is not None
    assert loaded.labels == {"negative": 1, "positive": 1}


def test_a_file_that_cannot_be_read_changes_nothing(sentiment: Path, tmp_path: Path) -> None:
    before = (sentiment / "manifest.json").read_bytes()
    with pytest.raises(DataError):
        profile.add(sentiment, [write_text(tmp_path / "dev.tsv", "sentence\tlabel\ngood\t7\n")])
    assert (sentiment / "manifest.json").read_bytes() == before


# ---- what the service tells by it -----------------------------------------------------------------------------------


async def drift(settings: Settings, path: str, name: str, inputs: list[dict[str, Any]]) -> dict[str, float]:
    """What the gauges of a model show after these inputs, over HTTP."""
    metrics = Metrics()
    async with serving(settings, metrics=metrics) as client:
        for begin in range(0, len(inputs), 100):
            answer = await client.post(path, json={"model": name, "inputs": inputs[begin : begin + 100]})
            assert answer.status_code == 200, answer.text
        value = metrics.registry.get_sample_value
        found = {f: value("bertie_drift_psi", {"model": name, "feature": f}) for f in FEATURES}
    return {feature: math.nan if psi is None else psi for feature, psi in found.items()}


async def test_other_text_is_far_and_dev_text_is_near(sentiment: Path, tmp_path: Path, settings: Settings) -> None:
    dev = sentences(1000, seed=0)
    profile.add(sentiment, [dev_file(tmp_path / "dev.tsv", dev)])
    served = settings.model_copy(update={"models_dir": sentiment.parent})

    async def told(texts: list[str]) -> dict[str, float]:
        return await drift(served, "/classify", "sentiment", [{"text": text} for text in texts])

    itself = await told(dev)
    assert all(abs(psi) < 1e-3 for psi in itself.values()), itself
    alike = await told(sentences(600, seed=1))
    assert all(psi < 0.1 for psi in alike.values()), alike
    longer = await told(sentences(600, seed=2, longest=40))
    assert longer["tokens"] > 0.25
    assert longer["label"] < 0.1
    kinder = await told(sentences(600, seed=3, kind=0.97))
    assert kinder["label"] > 0.25
    assert kinder["tokens"] < 0.1
    foreign = await told(sentences(600, seed=4, unknown=0.5))
    assert foreign["unknown"] > 0.25
    assert foreign["score"] > 0.25  # fewer kind and unkind words


async def test_questions_without_answers_are_far(tmp_path: Path, settings: Settings) -> None:
    folder = make_bundle(tmp_path / "models", "qa", no_answer=True)
    question, there, nowhere = "What is the capital of France?", "The capital of France is Paris.", "A dog is a dog is."
    answered = [squad_record(f"a{i}", question, there, "Paris") for i in range(300)]
    unanswered = [squad_record(f"u{i}", question, nowhere) for i in range(100)]
    dev = squad_json((there, answered), (nowhere, unanswered))
    made = profile.add(folder, [write_text(tmp_path / "dev.json", dev)])
    assert made.labels == {"answer": 300, "no_answer": 100}
    served = settings.model_copy(update={"models_dir": folder.parent})
    usual = [{"question": question, "context": there if i % 4 else nowhere} for i in range(400)]
    assert (await drift(served, "/qa", "qa", usual))["label"] < 0.01
    assert (await drift(served, "/qa", "qa", [{"question": question, "context": nowhere}] * 400))["label"] > 0.25


def test_too_few_are_told_of(sentiment: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = shutil.copytree(sentiment, tmp_path / "copy")
    profile.add(copy, [dev_file(tmp_path / "dev.tsv", ["good"] * 299)])
    assert "a profile of 299 inputs" in caplog.text
    caplog.clear()
    profile.add(copy, [dev_file(tmp_path / "dev.tsv", ["good"] * 300)])
    assert not caplog.text
