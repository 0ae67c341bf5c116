from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bench.capacity.autoscaler import Autoscaler, Policy
from bench.capacity.fleet import Scenario, simulate
from bench.capacity.traffic import Mix
from tests.bench.capacity.samples import COSTS

MIX = Mix.of("m:100")
PEAK = 2 * 0.8 / 11e-3  # of a replica, rows a second
CHART = Path(__file__).parents[3] / "deploy/helm/bertie/values.yaml"


def test_requests_are_neither_lost_nor_counted_twice() -> None:
    found = simulate(COSTS, Scenario(MIX, 50.0, 60.0, 2))
    assert found.statuses.keys() == {200}
    assert found.statuses[200] == len(found.seconds) == pytest.approx(3000, rel=0.1)
    assert found.replica_seconds == pytest.approx(120)
    # A request alone runs on both cores for 6 ms, at 0.8 of their speed.
    assert 50 * 60 * 11e-3 < found.busy_seconds < 50 * 60 * 14e-3


def test_chance_is_its_seeds() -> None:
    scenario = Scenario(MIX, 50.0, 10.0, 2)
    assert simulate(COSTS, scenario).seconds == simulate(COSTS, scenario).seconds


def test_a_lost_node_loses_what_it_has_until_it_is_noticed() -> None:
    scenario = Scenario(MIX, 100.0, 60.0, 2, loss_at=20.0, loss_replicas=1, notice_seconds=4.0, start_seconds=10.0)
    found = simulate(COSTS, scenario)
    assert found.statuses[0] == pytest.approx(100 / 2 * 4, rel=0.2)
    assert found.latency(95, 40, 60) < 0.1  # its successor has come
    assert [number for _, number in found.replicas][-1] == 2


def test_the_nearer_of_two_has_a_shorter_tail() -> None:
    rate = 3 * 0.7 * PEAK
    by_chance, nearest = (simulate(COSTS, Scenario(MIX, rate, 30.0, 3, nearest=each)) for each in (False, True))
    assert nearest.latency(99) < by_chance.latency(99)


def test_a_crowd_is_refused_until_replicas_come() -> None:
    crowd = {"times": 4.0, "crowd_at": 20.0, "crowd_seconds": 60.0, "start_seconds": 10.0}
    fixed = simulate(COSTS, Scenario(MIX, PEAK / 2, 80.0, 1, **crowd))
    scaled = simulate(COSTS, Scenario(MIX, PEAK / 2, 80.0, 1, Policy(least=1, most=20), **crowd))
    assert fixed.share(429) > 0.2
    assert scaled.share(429) < fixed.share(429) / 2
    assert max(number for _, number in scaled.replicas) > 2
    assert scaled.latency(95, 65, 80) < 0.3 < fixed.latency(95, 65, 80)
    assert scaled.replica_seconds > fixed.replica_seconds


def test_by_the_wait_alone_busy_replicas_are_let_go() -> None:
    scenario = Scenario(MIX, 3 * 0.6 * PEAK, 100.0, 3, start_seconds=10.0)
    policy = Policy(least=1, up_pods=0, down_window=20.0)
    by_wait, by_both = (
        simulate(COSTS, replace(scenario, policy=replace(policy, utilization=use))) for use in (0.0, 0.8)
    )
    assert min(number for _, number in by_both.replicas) == 3
    assert min(number for _, number in by_wait.replicas) < 3
    assert by_wait.latency(99) > 2 * by_both.latency(99)


# ---- the autoscaler ------------------------------------------------------------------------------------------------


def test_its_defaults_are_the_charts() -> None:
    chart = yaml.safe_load(CHART.read_text())["autoscaling"]
    up, down = chart["behavior"]["scaleUp"], chart["behavior"]["scaleDown"]
    share, pods = up["policies"]
    (less,) = down["policies"]
    assert Policy() == Policy(
        wait_seconds=chart["waitSeconds"],
        utilization=chart["cpuPercent"] / 100,
        least=chart["minReplicas"],
        most=chart["maxReplicas"],
        up_share=share["value"] / 100,
        up_pods=pods["value"],
        up_period=share["periodSeconds"],
        down_share=less["value"] / 100,
        down_period=less["periodSeconds"],
        down_window=down["stabilizationWindowSeconds"],
    )
    assert (up["stabilizationWindowSeconds"], up["selectPolicy"], pods["periodSeconds"]) == (0, "Max", 30)


def test_it_adds_by_the_greater_ratio_and_not_too_fast() -> None:
    scaler = Autoscaler(Policy(most=100))
    assert scaler.decide(0, 4, 4, wait=0.0, utilization=0.82) == 4  # within the tolerance
    assert scaler.decide(15, 4, 4, wait=0.6, utilization=0.1) == 5
    assert scaler.decide(60, 5, 5, wait=50.0, utilization=1.0) == 10  # twice as many in 30 s
    assert scaler.decide(75, 10, 5, wait=50.0, utilization=1.0) == 10
    assert scaler.decide(91, 10, 10, wait=50.0, utilization=1.0) == 20


def test_few_may_grow_by_four() -> None:
    assert Autoscaler(Policy(most=100)).decide(0, 2, 2, wait=50.0, utilization=1.0) == 6


def test_it_removes_slowly_and_only_what_was_not_wanted_for_a_while() -> None:
    scaler = Autoscaler(Policy(most=100))
    assert scaler.decide(0, 50, 50, wait=0.5, utilization=0.8) == 50
    assert scaler.decide(100, 50, 50, wait=0.0, utilization=0.1) == 50
    assert scaler.decide(301, 50, 50, wait=0.0, utilization=0.1) == 40
    assert scaler.decide(316, 40, 40, wait=0.0, utilization=0.1) == 40
    assert scaler.decide(362, 40, 40, wait=0.0, utilization=0.1) == 32


def test_what_is_unknown_changes_nothing() -> None:
    assert Autoscaler(Policy()).decide(0, 4, 4, wait=float("nan"), utilization=0.8) == 4


def test_bounds_hold() -> None:
    scaler = Autoscaler(Policy(least=3, most=5))
    assert scaler.decide(0, 3, 3, wait=100.0, utilization=1.0) == 5
    assert Autoscaler(Policy(least=3, most=5)).decide(0, 3, 3, wait=0.0, utilization=0.0) == 3
