"""What is kept is found again by its key and by nothing else; splits share the kernels of test texts that are the same texts alone."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from lmntk.experiment.steps.kernels import groups_and_pairs
from lmntk.kernels.kernel import Kernel
from lmntk.prompts.encoding import EncodedText
from lmntk.runs.keys import SplitKeys
from lmntk.runs.split import SIDES, Split
from lmntk.runs.store import LOGITS, Store
from lmntk.system.hashing import Key

SPLIT = Split("films", 4, 13, "prompt", (0, 1), (2, 3), (0, 1, 2))
KEY, OTHER = Key(weights="a"), Key(weights="b")


@pytest.fixture
def store(tmp_path):
    """Kernels and logits under a key."""
    store, found = Store(tmp_path), {}
    for number, (side, formula) in enumerate((s, f) for s in ("dev", "test") for f in ("sgd", "asigngd")):
        values = np.full((2, 1, 3, 1), float(number))
        flipped = values + 10 if formula == "asigngd" else None
        found[side, formula] = Kernel(formula, values, flipped, {}, {"key": KEY.digest})
    logits = {side: np.full((3, 1), float(number)) for number, side in enumerate(("dev", "test"))}
    store.keep_kernels(SPLIT, KEY, found, logits)
    return store


def test_with_its_key(store):
    values = {
        pair: store.kernel(SPLIT, *pair, KEY).values[0, 0, 0, 0]
        for pair in (("dev", "sgd"), ("test", "asigngd"))
    }
    assert values == {("dev", "sgd"): 0.0, ("test", "asigngd"): 3.0}
    assert {side: part[0, 0] for side, part in store.logits(SPLIT, KEY).items()} == {"dev": 0.0, "test": 1.0}
    assert store.has_kernel(SPLIT, "test", "sgd", KEY) and not store.has_kernel(SPLIT, "train", "sgd", KEY)


def test_under_another_key_nothing_is_found(store):
    """Neither in its own folder, nor in the other's: eight letters of two digests may be the same."""
    for moved in (False, True):
        if moved:
            store.kernel_folder(SPLIT.name, KEY.digest).rename(store.kernel_folder(SPLIT.name, OTHER.digest))
            assert (store.kernel_folder(SPLIT.name, OTHER.digest) / LOGITS).is_file()
        assert store.logits(SPLIT, OTHER) is None
        assert store.kernel(SPLIT, "test", "sgd", OTHER) is None
        assert not store.has_kernel(SPLIT, "test", "sgd", OTHER)


def text(word):
    return EncodedText((1, word, 2), 1, None)


@pytest.mark.parametrize(
    ("rows", "words", "shared"),
    [
        ((0, 1, 2), (5, 6, 7), True),
        ((0, 1, 2), (5, 6, 8), False),  # as many rows of another file
        ((0, 1, 3), (5, 6, 7), False),  # other rows that read the same
        ((0, 1), (5, 6), False),
    ],
)
def test_splits_share_test_texts_that_are_the_same(rows, words, shared):
    splits = [SPLIT, dataclasses.replace(SPLIT, seed=21, test=rows)]
    texts = {
        split.name: {"train": [text(10 + i)], "dev": [text(20 + i)], "test": [text(word) for word in part]}
        for i, (split, part) in enumerate(zip(splits, ((5, 6, 7), words), strict=True))
    }
    model = SimpleNamespace(texts=lambda split: texts[split.name])
    groups, pairs, group_of = groups_and_pairs(model, splits, SIDES)
    for split in splits:
        for side in SIDES:
            assert groups[group_of[split.name, side]] == texts[split.name][side]
            assert (f"{split.name}/train", group_of[split.name, side]) in pairs
    assert (group_of[splits[0].name, "test"] == group_of[splits[1].name, "test"]) == shared
    assert len(groups) == (5 if shared else 6)


KEYS = SplitKeys(
    Key(weights="a", examples="b"), Key(groups=True, keep_noise=False, precision="float32"), "f1", 9
)
CHANGES = {
    "texts": ({"content": KEYS.content.also(examples="c")}, ()),
    "weights": ({"content": KEYS.content.also(weights="b")}, ("kernel", "baseline", "training")),
    "metric": ({"metric": "accuracy"}, ("kernel", "baseline", "training")),
    "test_limit": ({"test_limit": 8}, ("kernel", "baseline", "training")),
    "keep_noise": ({"settings": KEYS.settings.also(keep_noise=True)}, ("kernel",)),
    "precision": ({"settings": KEYS.settings.also(precision="float64")}, ("kernel",)),
    "groups": ({"settings": KEYS.settings.also(groups=False)}, ()),
}


@pytest.mark.parametrize(("change", "told_apart"), CHANGES.values(), ids=CHANGES)
def test_what_must_be_the_same_to_make_one_mean(change, told_apart):
    other = dataclasses.replace(KEYS, **change)
    kinds = ("kernel", "baseline", "training")
    assert tuple(of for of in kinds if other.setup(of) != KEYS.setup(of)) == told_apart
    assert len({KEYS.setup(of) for of in kinds} | {KEYS.setup("training", steps=2)}) == 4
