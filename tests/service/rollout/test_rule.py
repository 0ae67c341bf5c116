"""The rule: what it decides by the numbers, and the step that it takes."""

import pytest

from service.errors import RolloutError
from service.repository.plan import Canary, Plan, Rule, Shadow
from service.rollout import rule
from service.rollout.comparison import Comparison
from service.tasks import Difference

RULE = Rule(compared=100, agreement=0.98, p95_ratio=1.2)
PLAN = Plan("1", ("0",), canary=Canary("2", 5.0), shadow=Shadow("2", 10.0))


def compared(agreeing: int, of: int, ratio: float | None = 1.0, failed: int = 0) -> Comparison:
    comparison = Comparison("m", "1", "2")
    for number in range(of):
        comparison.add([Difference(number < agreeing)])
        if ratio is not None:
            comparison.time(0.01, 0.01 * ratio)
    comparison.failed = failed
    return comparison


@pytest.mark.parametrize(
    ("comparison", "action"),
    [
        (compared(99, 99), None),
        (compared(100, 100), "promote"),
        (compared(98, 100), "promote"),
        (compared(97, 100), "end"),
        (compared(100, 100, ratio=1.15), "promote"),
        (compared(100, 100, ratio=1.3), "end"),
        (compared(100, 100, ratio=None), "end"),
        (compared(99, 99, failed=1), "promote"),
        (compared(95, 95, failed=5), "end"),  # each failure is an answer that is not the same
        (compared(0, 0, ratio=None, failed=100), "end"),
    ],
)
def test_what_it_decides(comparison: Comparison, action: str | None) -> None:
    verdict = rule.decide(RULE, comparison)
    assert (verdict and verdict.action) == action


def test_it_says_why() -> None:
    verdict = rule.decide(RULE, compared(97, 100, failed=2))
    assert verdict is not None
    assert verdict.why == (
        "102 requests compared (the rule wants 100), 2 of them failed: 95.10% of the answers the same "
        "(at least 98.00%), p95 1.00 times stable (at most 1.20)"
    )


def test_the_steps() -> None:
    comparison = compared(1, 1)
    assert rule.step(rule.Verdict("promote", ""), comparison)(PLAN) == Plan("2", ("1", "0"))
    assert rule.step(rule.Verdict("end", ""), comparison)(PLAN) == Plan("1", ("0",))


@pytest.mark.parametrize("now", [Plan("3", shadow=Shadow("2", 1.0)), Plan("1"), Plan("1", shadow=Shadow("4", 1.0))])
def test_another_pair_is_none_of_its_business(now: Plan) -> None:
    with pytest.raises(RolloutError, match="no longer the shadow"):
        rule.step(rule.Verdict("promote", ""), compared(1, 1))(now)
