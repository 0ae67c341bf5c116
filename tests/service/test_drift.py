"""Drift: the distance itself, what is counted, how long it is remembered, and that little is nothing."""

import math
import random
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import drift as module
from service.drift import FEATURES, LEAST, SLOT_SECONDS, SLOTS, Drift, Histogram, Profile, stability_index
from service.engine.batch import Encoded
from service.metrics import Metrics
from service.repository.manifest import parse
from service.settings import Settings
from service.tasks import Classification
from tests.bundles import make_bundle
from tests.serving import serving

UNKNOWN = 1
PROFILE = Profile(
    data=("dev.tsv",),
    inputs=1000,
    labels={"bad": 500, "good": 500},
    scores=Histogram((0.6, 0.8), (300, 300, 400)),
    tokens=Histogram((10.0, 20.0), (300, 300, 400)),
    known=20_000,
    unknown=200,
)


class Task:
    """A task that says of a prediction what it is told."""

    def observed(self, prediction: tuple[tuple[str, ...], float]) -> tuple[tuple[str, ...], float]:
        return prediction


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def drift(clock: Clock) -> Drift:
    return Drift(PROFILE, UNKNOWN, clock)


def row(tokens: int, unknown: int = 0) -> Encoded:
    ids = np.full(tokens, 7, np.int64)
    ids[:unknown] = UNKNOWN
    return Encoded(ids, np.zeros(tokens, np.int64))


def ask(drift: Drift, inputs: int, *, seed: int = 0, **changes: Any) -> None:
    """Ask inputs like the profile's, but for the changes."""
    rng = random.Random(seed)
    for _ in range(inputs):
        given = {
            "labels": (rng.choice(("bad", "good")),),
            "score": rng.choices((0.5, 0.7, 0.9), (300, 300, 400))[0],
            "tokens": rng.choices((10, 20, 30), (300, 300, 400))[0],
            "unknown": int(rng.random() < 0.2),
        } | changes
        rows = [row(given["tokens"], given["unknown"])]
        drift.observe(Task(), [rows], [(given["labels"], given["score"])])  # type: ignore[arg-type]


def distances(drift: Drift) -> dict[str, float]:
    return {feature: drift.distance(feature) for feature in FEATURES}


# ---- the distance ---------------------------------------------------------------------------------------------------


def test_the_index_is_the_sum_of_differences_times_log_ratios() -> None:
    expected = 0.3 * math.log(0.8 / 0.5) + 0.3 * math.log(0.5 / 0.2)
    assert stability_index([500_000, 500_000], [800_000, 200_000]) == pytest.approx(expected, rel=1e-4)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=12))
def test_it_is_no_less_than_0_the_same_both_ways_and_finite(bins: list[tuple[int, int]]) -> None:
    one, other = [a for a, _ in bins], [b for _, b in bins]
    index = stability_index(one, other)
    assert -1e-12 <= index < math.inf
    assert index == pytest.approx(stability_index(other, one))
    assert stability_index(one, one) == 0.0


def test_chance_alone_is_far_from_an_alarm() -> None:
    """As the docstring of `LEAST` has it: ten bins, 300 beside 300."""
    rng = np.random.default_rng(0)
    found = [
        stability_index(*(rng.multinomial(LEAST, [0.1] * 10).tolist() for _ in range(2)))  # type: ignore[arg-type]
        for _ in range(2000)
    ]
    assert np.mean(found) == pytest.approx(0.06, abs=0.005)
    assert np.quantile(found, 0.95) == pytest.approx(0.11, abs=0.01)
    assert max(found) < 0.25


# ---- what is counted ------------------------------------------------------------------------------------------------


def test_what_is_like_the_dev_set_is_near(drift: Drift) -> None:
    ask(drift, 2000)
    assert all(distance < 0.03 for distance in distances(drift).values()), distances(drift)


@pytest.mark.parametrize(
    ("feature", "change"),
    [
        ("label", {"labels": ("good",)}),
        ("label", {"labels": ()}),
        ("label", {"labels": ("what no dev answer was",)}),
        ("score", {"score": 0.55}),
        ("tokens", {"tokens": 25}),
        ("unknown", {"unknown": 8}),
    ],
)
def test_what_changes_is_what_is_far(drift: Drift, feature: str, change: dict[str, Any]) -> None:
    ask(drift, 1000, **change)
    found = distances(drift)
    assert found.pop(feature) > 0.25
    if feature != "tokens":  # where fewer tokens are the same unknown ones, their share grows
        assert all(distance < 0.05 for distance in found.values()), found


def test_inputs_whose_scores_are_no_probabilities_are_counted_all_the_same(clock: Clock) -> None:
    drift = Drift(Profile(**vars_of(PROFILE) | {"scores": Histogram((), (0,))}), UNKNOWN, clock)
    ask(drift, LEAST, score=None, tokens=25)
    assert drift.distance("tokens") > 0.25
    assert math.isnan(drift.distance("score"))


def test_a_bin_ends_with_its_edge(drift: Drift) -> None:
    """As `training.evaluate.profile` fills them."""
    for score, tokens in ((0.6, 10), (0.61, 11), (0.8, 20), (0.81, 21)):
        drift.observe(Task(), [[row(tokens)]], [(("good",), score)])  # type: ignore[arg-type]
    counts = drift._slots[0].counts
    assert counts["score"] == counts["tokens"] == [1, 2, 1]


def test_an_input_is_all_of_its_rows(drift: Drift) -> None:
    drift.observe(Task(), [[row(8, 3), row(9, 1)]], [(("good",), 0.9)])  # type: ignore[arg-type]
    counts = drift._slots[0].counts
    assert counts["tokens"] == [0, 1, 0]
    assert counts["unknown"] == [13, 4]


def test_a_vocabulary_that_lacks_nothing(clock: Clock) -> None:
    drift = Drift(PROFILE, None, clock)
    drift.observe(Task(), [[row(8, 3)]], [(("good",), 0.9)])  # type: ignore[arg-type]
    assert drift._slots[0].counts["unknown"] == [8, 0]


def test_of_several_labels_each_counts_and_none_is_one_too(clock: Clock) -> None:
    drift = Drift(module.Profile(**vars_of(PROFILE) | {"labels": {"": 5, "a": 10, "b": 10}}), None, clock)
    for labels in (("a", "b"), ("a",), ()):
        drift.observe(Task(), [[row(8)]], [(labels, 0.9)])  # type: ignore[arg-type]
    assert drift._slots[0].counts["label"] == [1, 2, 1, 0]


def vars_of(profile: Profile) -> dict[str, Any]:
    return {name: getattr(profile, name) for name in profile.__dataclass_fields__}


# ---- how long, and how little ---------------------------------------------------------------------------------------


def test_too_little_is_nothing(drift: Drift, clock: Clock) -> None:
    assert all(map(math.isnan, distances(drift).values()))
    ask(drift, LEAST - 1)
    assert all(map(math.isnan, distances(drift).values()))
    ask(drift, 1)
    assert not any(map(math.isnan, distances(drift).values()))
    few = Drift(Profile(**vars_of(PROFILE) | {"inputs": LEAST - 1}), UNKNOWN, clock)
    ask(few, 2000)
    assert all(map(math.isnan, distances(few).values()))


def test_the_last_hours_are_remembered_and_no_more(drift: Drift, clock: Clock) -> None:
    ask(drift, 1000, labels=("good",))
    assert drift.distance("label") > 0.25
    clock.now = (SLOTS - 1) * SLOT_SECONDS
    ask(drift, 1000, labels=("bad",))  # beside which the others still count
    assert drift.distance("label") < 0.05
    clock.now += SLOT_SECONDS
    assert drift.distance("label") > 0.25
    clock.now += SLOTS * SLOT_SECONDS
    assert math.isnan(drift.distance("label"))
    ask(drift, 1000)
    assert drift.distance("label") < 0.05
    assert len(drift._slots) == SLOTS


# ---- in the service -------------------------------------------------------------------------------------------------


@pytest.fixture
def profiled(tmp_path: Path, settings: Settings) -> Settings:
    """The bundles, of which `nli` and `sentiment` have a profile."""
    nli = Profile(**vars_of(PROFILE) | {"labels": {"entailment": 400, "neutral": 300, "contradiction": 300}})
    sentiment = Profile(**vars_of(PROFILE) | {"labels": {"negative": 500, "positive": 500}})
    make_bundle(tmp_path, "qa")
    make_bundle(tmp_path, "nli", profile=nli)
    make_bundle(tmp_path, "sentiment", profile=sentiment)
    return settings.model_copy(update={"models_dir": tmp_path})


async def classify(client: httpx.AsyncClient, inputs: list[dict[str, Any]]) -> None:
    for begin in range(0, len(inputs), 100):
        answer = await client.post("/classify", json={"inputs": inputs[begin : begin + 100]})
        assert answer.status_code == 200, answer.text


async def test_the_gauges_tell_of_models_whose_dev_set_is_known(profiled: Settings, metrics: Metrics) -> None:
    def told(model: str, feature: str) -> float | None:
        return metrics.registry.get_sample_value("bertie_drift_psi", {"model": model, "feature": feature})

    async with serving(profiled, metrics=metrics) as client:
        await classify(client, [{"text": "a good film"}] * (LEAST - 1))
        assert all(math.isnan(told("sentiment", feature) or 0.0) for feature in FEATURES)
        await classify(client, [{"text": "a good film \u2603 \u2603 \u2603"}] * LEAST)
        assert min(told("sentiment", feature) or 0.0 for feature in FEATURES) > 0.25
        assert told("qa", "label") is None
        labels = {"candidate_labels": ["sports", "politics"]}  # which no dev set has
        await classify(client, [{"text": "the team won", **labels}] * LEAST)
        assert math.isnan(told("nli", "label") or 0.0)
        await classify(client, [{"premise": "the team won", "hypothesis": "the team won"}] * LEAST)
        assert (told("nli", "label") or 0.0) > 0.25
        assert "bertie_drift_psi{" in (await client.get("/metrics")).text


def test_a_profile_survives_its_manifest(profiled: Settings) -> None:
    manifest = parse((profiled.models_dir / "sentiment" / "manifest.json").read_bytes())
    assert manifest.profile == Profile(**vars_of(PROFILE) | {"labels": {"negative": 500, "positive": 500}})
    assert parse((profiled.models_dir / "qa" / "manifest.json").read_bytes()).profile is None


@pytest.mark.parametrize("edges", ["[0.8, 0.6]", "[0.6]"])
def test_a_histogram_that_is_none_is_told_with_the_manifest(profiled: Settings, edges: str) -> None:
    path = profiled.models_dir / "sentiment" / "manifest.json"
    text = path.read_text().replace("[\n        0.6,\n        0.8\n      ]", edges)
    with pytest.raises(ValueError, match=r"profile\.scores: .*ascending edges"):
        parse(text.encode())


def test_a_prediction_is_described_by_its_task(profiled: Settings) -> None:
    """What the classes of the service say of their predictions is what is counted."""
    from service.repository import bundle, loading

    _, task = loading.open_task(bundle.load(profiled.models_dir / "sentiment"))
    prediction = Classification("positive", 0.9, {"negative": 0.1, "positive": 0.9}, truncated=False)
    assert module.describe(task, [row(5), row(6)], prediction) == (("positive",), 0.9, 11)
