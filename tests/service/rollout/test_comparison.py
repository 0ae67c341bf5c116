"""What is counted of two versions' answers, and what it says."""

import json

import pytest

from service.rollout.comparison import MOST_FLIPS, OTHER, Comparison, Share
from service.tasks import Difference

SAME = Difference(True, (), 0.0)
FLIP = Difference(False, (("positive", "negative"),), 0.5)


def test_nothing_yet() -> None:
    found = Comparison("m", "1", "2").snapshot()
    assert (found.compared, found.agreement.of, found.flips) == (0, 0, ())
    assert (found.agreement.low, found.agreement.high) == (0.0, 1.0)
    assert found.distance is found.exact is found.overlap is found.latency is found.feedback is found.decision is None


def test_agreement_and_flips() -> None:
    comparison = Comparison("m", "1", "2")
    comparison.add([SAME, SAME, FLIP])
    comparison.add([FLIP])
    comparison.add([Difference(False, (("negative", "positive"),), 0.2)])
    comparison.dropped, comparison.failed = 3, 1
    found = comparison.snapshot()
    assert (found.compared, found.dropped, found.failed) == (3, 3, 1)
    assert (found.agreement.count, found.agreement.of, found.agreement.value) == (2, 5, 0.4)
    assert found.agreement == Share.made(2, 5)
    assert [(flip.before, flip.after, flip.share.count, flip.share.value) for flip in found.flips] == [
        ("positive", "negative", 2, 0.4),
        ("negative", "positive", 1, 0.2),
    ]
    assert found.distance is not None
    assert found.distance.mean == pytest.approx(1.2 / 5)
    assert found.distance.max == 0.5
    assert found.distance.p50 == pytest.approx(0.2, rel=0.02)
    assert found.distance.low is not None
    assert 0 <= found.distance.low < found.distance.mean


def test_pairs_of_labels_are_bounded() -> None:
    comparison = Comparison("m", "1", "2")
    for number in range(3 * MOST_FLIPS):
        comparison.add([Difference(False, ((f"label {number}", "x"),))])
    comparison.add([Difference(False, (("label 0", "x"),))])
    assert len(comparison.flips) <= MOST_FLIPS + 1
    assert comparison.flips["label 0", "x"] == 2
    assert comparison.flips[OTHER] == 2 * MOST_FLIPS
    assert comparison.counted(("new", "x")) == OTHER
    assert comparison.snapshot().distance is None


def test_spans() -> None:
    comparison = Comparison("m", "1", "2")
    comparison.add([Difference(True, (), 0.1, 1.0, True), Difference(False, (), 0.1, 0.5, False)])
    comparison.add([Difference(False, (("answer", "no_answer"),), 0.3, 0.0, False)])
    comparison.add([Difference(True, (), 0.3, 1.0, False)])
    found = comparison.snapshot()
    assert found.exact is not None
    assert (found.exact.count, found.exact.of) == (1, 4)
    assert found.no_answer_flips is not None
    assert (found.no_answer_flips.count, found.no_answer_flips.of) == (1, 4)
    assert found.overlap is not None
    assert found.overlap.mean == pytest.approx(2.5 / 4)
    assert found.overlap.low is not None
    assert found.overlap.high == 1.0  # and not beyond


def test_sets_of_labels_overlap_and_are_no_spans() -> None:
    comparison = Comparison("m", "1", "2")
    comparison.add([Difference(False, (), 0.1, 0.5)])
    found = comparison.snapshot()
    assert found.exact is found.no_answer_flips is None
    assert found.overlap is not None
    assert (found.overlap.mean, found.overlap.low) == (0.5, None)


def test_latency_side_by_side() -> None:
    comparison = Comparison("m", "1", "2")
    assert comparison.p95_ratio is None
    for number in range(1, 201):
        comparison.time(number / 1000, number / 500)
    found = comparison.snapshot().latency
    assert found is not None
    assert found.requests == 200
    assert found.stable.p95 == pytest.approx(0.190, rel=0.02)
    assert found.shadow.p99 == pytest.approx(0.396, rel=0.02)
    assert found.p95_ratio == comparison.p95_ratio == pytest.approx(2.0, rel=0.03)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 2.0 < found.high


def test_who_was_right() -> None:
    comparison = Comparison("m", "1", "2")
    for stable, shadow, times in ((True, True, 10), (True, False, 1), (False, True, 7), (False, False, 3)):
        for _ in range(times):
            comparison.judge(stable, shadow)
    found = comparison.snapshot({"1": Share.made(11, 21)})
    assert found.feedback is not None
    assert (found.feedback.both, found.feedback.stable_only) == (10, 1)
    assert (found.feedback.shadow_only, found.feedback.neither) == (7, 3)
    assert found.feedback.p_value == pytest.approx(10 / 256)
    assert found.accuracy["1"].count == 11


def test_the_json_has_no_name_of_pythons() -> None:
    comparison = Comparison("m", "1", "2")
    comparison.add([FLIP])
    told = json.loads(comparison.snapshot().model_dump_json(by_alias=True))
    assert told["flips"][0]["from"] == "positive"
    assert told["flips"][0]["to"] == "negative"
