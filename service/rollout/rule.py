"""The plan's rule: when a shadow is promoted, or ended, by itself. Knows nothing of how a step is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from service.errors import RolloutError
from service.repository import plan
from service.repository.plan import Plan, Rule
from service.rollout.comparison import Comparison


class Verdict(NamedTuple):
    """What the rule says, and why in one line."""

    action: Literal["promote", "end"]
    why: str


def decide(rule: Rule, comparison: Comparison) -> Verdict | None:
    """Decide by what was compared; None while that is too little.

    A request that the shadow failed on counts as compared, and as an answer that is not the same: what mostly fails is
    not to be promoted for the rest.
    """
    asked = comparison.compared + comparison.failed
    if asked < rule.compared:
        return None
    agreeing, answers = comparison.agreement.count, comparison.agreement.of + comparison.failed
    agreement, ratio = agreeing / answers, comparison.p95_ratio
    slow = ratio is None or ratio > rule.p95_ratio
    why = (
        f"{asked} requests compared (the rule wants {rule.compared}), {comparison.failed} of them failed: "
        f"{agreement:.2%} of the answers the same (at least {rule.agreement:.2%}), "
        f"p95 {'unknown' if ratio is None else f'{ratio:.2f} times stable'} (at most {rule.p95_ratio:.2f})"
    )
    return Verdict("end" if agreement < rule.agreement or slow else "promote", why)


def step(verdict: Verdict, comparison: Comparison) -> Callable[[Plan], Plan]:
    """Get the step that a verdict is. It raises RolloutError where another pair is compared by now."""

    def take(now: Plan) -> Plan:
        if now.stable != comparison.stable or now.shadow is None or now.shadow.version != comparison.shadow:
            raise RolloutError(f"version {comparison.shadow!r} is no longer the shadow of {comparison.stable!r}")
        return plan.promote(now, comparison.shadow) if verdict.action == "promote" else plan.end(now)

    return take
