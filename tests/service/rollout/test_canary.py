"""Which requests a canary answers."""

import pytest

from service.repository.plan import Canary
from service.rollout.canary import takes
from service.serving import Sender


@pytest.mark.parametrize(("draw", "taken"), [(0.0, True), (0.0499, True), (0.05, False), (0.99, False)])
def test_by_chance(draw: float, taken: bool) -> None:
    assert takes(Canary("2", 5.0), Sender({"x-user": "ada"}, draw)) is taken


def test_none_and_all() -> None:
    assert not takes(Canary("2", 0.0), Sender({}, 0.0))
    assert takes(Canary("2", 100.0), Sender({}, 0.999999))


@pytest.mark.parametrize(("value", "taken"), [("true", True), ("2", True), ("false", False), ("3", None), ("", None)])
def test_a_header_asks_for_it(value: str, taken: bool | None) -> None:
    canary = Canary("2", 50.0, header="X-Canary")
    for draw in (0.1, 0.9):
        assert takes(canary, Sender({"x-canary": value}, draw)) is ((draw < 0.5) if taken is None else taken)


def test_one_key_gets_one_version_and_keys_are_spread() -> None:
    canary = Canary("2", 20.0, sticky="X-User")
    takers = [key for key in range(2000) if takes(canary, Sender({"x-user": f"user {key}"}, 0.99))]
    assert 320 < len(takers) < 480  # 400, give or take four standard deviations
    assert all(takes(canary, Sender({"x-user": f"user {key}"}, 0.5)) for key in takers)
    wider = Canary("2", 40.0, sticky="X-User")
    assert all(takes(wider, Sender({"x-user": f"user {key}"}, 0.5)) for key in takers)  # nobody goes back


def test_another_version_is_tried_on_others() -> None:
    def takers(version: str) -> set[int]:
        canary = Canary(version, 10.0, sticky="X-User")
        return {key for key in range(1000) if takes(canary, Sender({"x-user": str(key)}, 0.0))}

    assert len(takers("2") & takers("3")) < 30  # of 100 each


def test_who_sends_no_key_is_taken_by_chance() -> None:
    canary = Canary("2", 20.0, sticky="X-User")
    assert takes(canary, Sender({}, 0.1))
    assert not takes(canary, Sender({}, 0.3))
