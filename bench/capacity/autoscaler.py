"""Kubernetes' HorizontalPodAutoscaler, as it decides: what it is shown, and how many replicas it asks for.

Owns the rule and the chart's behaviour. Knows nothing of where the numbers come from.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

TOLERANCE = 0.1
"""Nothing is done while a metric is so near to its target; Kubernetes' default."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When to add and to remove. Defaults are those of deploy/helm/bertie/values.yaml.

    Attributes:
        wait_seconds: of what waits, the target; `utilization`: of the cores, 0 to 1, 0 for none.
        least, most: replicas.
        every: seconds between two decisions.
        up_share, up_pods, up_period: so large a share, or so many, whichever is more, may be added in so long.
        down_share, down_period: may be removed in so long.
        down_window: seconds over which the greatest number that was wanted is kept.
    """

    wait_seconds: float = 0.5
    utilization: float = 0.8
    least: int = 2
    most: int = 10
    every: float = 15.0
    up_share: float = 1.0
    up_pods: int = 4
    up_period: float = 30.0
    down_share: float = 0.2
    down_period: float = 60.0
    down_window: float = 300.0


@dataclass(slots=True)
class Autoscaler:
    """The decisions so far. Made anew for each run."""

    policy: Policy
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: deque[tuple[float, int]] = field(default_factory=deque)

    def decide(self, now: float, replicas: int, ready: int, wait: float, utilization: float) -> int:
        """Get the number of replicas to have.

        Args:
            replicas: that there are, those that start among them; `ready`: that answer, of which the metrics are.
            wait: mean seconds that what waits takes; NaN while unknown.
            utilization: mean share of the cores that is used.
        """
        policy = self.policy
        ratios = [wait / policy.wait_seconds if not math.isnan(wait) else 1.0]
        if policy.utilization:
            ratios.append(utilization / policy.utilization)
        ratio = max(ratios)
        wanted = replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * ready - 1e-9)
        if ratio > 1:  # those that start were asked for already, and are no reason to remove any
            wanted = max(wanted, replicas)
        wanted = min(max(wanted, policy.least), policy.most)
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - policy.down_window:
            self._wanted.popleft()
        if wanted > replicas:
            before = replicas - self._changed(now, policy.up_period, +1)
            wanted = min(wanted, max(math.ceil(before * (1 + policy.up_share)), before + policy.up_pods))
            wanted = max(wanted, replicas)
        else:
            wanted = min(replicas, max(number for _, number in self._wanted))
            before = replicas + self._changed(now, policy.down_period, -1)
            wanted = min(replicas, max(wanted, math.floor(before * (1 - policy.down_share) + 1e-9)))
        if wanted != replicas:
            self._changes.append((now, wanted - replicas))
        return wanted

    def _changed(self, now: float, period: float, sign: int) -> int:
        return sum(abs(by) for time, by in self._changes if time > now - period and by * sign > 0)
