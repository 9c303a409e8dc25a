"""What may stand beside what in one mean."""

from __future__ import annotations

from lmntk.runs.setups import of_one_setup


def one(seed, setup, method="sgd ridge", task="films"):
    return {"task": task, "k": 2, "mode": "prompt", "method": method, "seed": seed, "setup": setup}


def test_of_each_group_the_last_setup_is_kept():
    found = [
        one(1, "a"),
        one(2, "b"),
        one(3, "b"),
        one(1, "a", "svc"),
        one(1, "b", task="books"),
        one(4, None),
    ]
    kept, others = of_one_setup(found, ["c", "a", "b"])
    assert kept == [found[0], found[3], found[4], found[5]] and others == [found[1], found[2]]
    kept, others = of_one_setup(found, ["b", "a"])
    assert kept == [found[1], found[2], found[3], found[4], found[5]] and others == [found[0]]


def test_setups_that_no_run_tells_of_still_make_no_mean():
    found = [one(1, "a"), one(2, "b"), one(3, "a")]
    assert of_one_setup(found, []) == ([found[0], found[2]], [found[1]])
    assert of_one_setup([], ["a"]) == ([], [])
