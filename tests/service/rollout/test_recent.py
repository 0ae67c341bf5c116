"""What was answered of late: kept without a text, and not for ever."""

import pickle

from service.rollout.recent import Recent, Said


def test_what_is_kept_holds_no_text() -> None:
    recent = Recent()
    said = Said("m", 0, {"1": recent.hide("the secret answer")})
    recent.add("request", 0, said)
    assert b"secret" not in pickle.dumps(recent._said)
    assert recent.get("request", 0) is said
    assert recent.get("request", 1) is recent.get("other", 0) is None


def test_right_and_wrong() -> None:
    recent = Recent()
    said = Said("m", 0, {"1": recent.hide("ada"), "2": recent.hide("ruth")}, truth=recent.hide("ada"))
    assert (said.right("1"), said.right("2")) == (True, False)
    number = Said("m", 0, {"1": recent.hide(2.5), "2": recent.hide(4.0)}, truth=2.55)
    assert (number.right("1"), number.right("2")) == (True, False)


def test_a_hash_is_of_this_process_alone() -> None:
    assert Recent().hide("ada") != Recent().hide("ada")
    assert Recent().hide("\ud800")  # half a surrogate pair, as JSON may hold


def test_the_oldest_go_first_and_an_id_that_comes_again_is_the_latest() -> None:
    recent, saids = Recent(most=3), [Said("m", number) for number in range(5)]
    for number, said in enumerate(saids):
        recent.add(str(number), 0, said)
    assert [recent.get(str(number), 0) for number in range(5)] == [None, None, *saids[2:]]
    again = Said("m", 9)
    recent.add("2", 0, again)
    recent.add("5", 0, Said("m", 5))
    assert recent.get("2", 0) is again
    assert recent.get("3", 0) is None
