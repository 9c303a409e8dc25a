"""Few-shot splits against a literal use of numpy's global generator, as the reference code has it."""

import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmntk.errors import UserError
from lmntk.tasks import SEEDS, TASKS, k_shot_split, read_folder
from lmntk.tasks.splits import cut_test

SHARED = Path(__file__).resolve().parents[3] / "shared"


def literal_split(labels, k, seed):
    """Return the row numbers that the reference's handling of a list of rows carries along."""
    rows = [(f"text {i}", label, i) for i, label in enumerate(labels)]
    np.random.seed(seed)
    np.random.shuffle(rows)
    groups = {}
    for row in rows:
        groups.setdefault(row[1], []).append(row)
    train, dev = [], []
    for group in groups.values():
        train += [row[2] for row in group[:k]]
        dev += [row[2] for row in group[k : 2 * k]]
    return tuple(train), tuple(dev)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 16, 64])
def test_rows_equal_the_literal_global_generator(seed, k):
    labels = random.Random(3).choices([0, 1, 1, 2], k=1500)
    split = k_shot_split(labels, 10, k, seed)
    assert (split.train, split.dev) == literal_split(labels, k, seed)
    assert split.test == tuple(range(10))


def test_global_generator_is_left_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    k_shot_split([0, 1] * 50, 2000, 4, 13)
    assert np.random.get_state()[1].tolist() == before


def test_long_test_set_is_cut_by_shuffle_or_drawn():
    rows = [[f"{i}", i] for i in range(2345)]
    np.random.seed(42)
    np.random.shuffle(rows)
    assert cut_test(2345, 1000) == tuple(row[1] for row in rows[:1000])
    drawn = cut_test(2345, 1000, csv_style=True)
    assert drawn[:5] == (1391, 668, 1996, 808, 1897) and len(set(drawn)) == 1000
    assert cut_test(1000, 1000) == tuple(range(1000))
    assert cut_test(2345, None) == tuple(range(2345))


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        (2345, 1000),
        (872, 1000),
        (1000, 1000),
        (1001, 1000),
        (1821, 1000),
        (9815, 1000),
        (40430, 1000),
        (277_000, 1000),
        (500, 1),
        (1821, 1820),
    ],
)
def test_csv_test_set_has_the_rows_that_pandas_samples(size, limit):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"text": [f"{i}" for i in range(size)], "row": range(size)})
    expected = frame if size <= limit else frame.sample(n=limit, random_state=42)
    assert cut_test(size, limit, csv_style=True) == tuple(expected["row"])


def test_too_few_rows_name_the_label_and_the_largest_k():
    with pytest.raises(
        UserError, match=r"label 1 \(bad\) has 3 train rows, fewer than k = 4: the largest k possible is 3"
    ):
        k_shot_split([0] * 9 + [1] * 3, 1, 4, 13, names=("good", "bad"))
    with pytest.raises(UserError, match=r"label 2 \(none\) has 0 train rows"):
        k_shot_split([0, 1] * 9, 1, 4, 13, names=("good", "bad", "none"))
    with pytest.raises(UserError, match="no train texts"):
        k_shot_split([], 1, 4, 13)
    with pytest.raises(UserError, match="k must be at least 1"):
        k_shot_split([0, 1], 1, 0, 13)
    with pytest.raises(UserError, match="row 2 of the train texts has no label"):
        k_shot_split([0, None], 1, 1, 13)


def test_short_dev_block_warns_once_for_all_labels():
    with pytest.warns(UserWarning, match=r"label 1: 2, 2: 0") as caught:
        split = k_shot_split([0] * 20 + [1] * 7 + [2] * 5, 1, 5, 13)
    assert len(caught) == 1
    assert (len(split.train), len(split.dev)) == (15, 7)


def test_trec_expression_is_short_at_k_64():
    if not (SHARED / "data" / "trec").is_dir():
        pytest.skip("the benchmark data of shared/data are not here")
    data = read_folder(SHARED / "data", "trec")
    with pytest.warns(UserWarning, match=r"2 \(Expression\): 20"):
        split = k_shot_split(
            [e.label for e in data.train], len(data.test), 64, 13, csv_style=True, names=data.labels
        )
    assert (len(split.train), len(split.dev), len(split.test)) == (6 * 64, 5 * 64 + 20, 500)
    with pytest.raises(
        UserError, match=r"label 2 \(Expression\) has 84 train rows.*largest k possible is 84"
    ):
        k_shot_split([e.label for e in data.train], len(data.test), 512, 13, names=data.labels)


@pytest.mark.parametrize("name", TASKS)
def test_every_benchmark_task_reads_and_splits(name):
    if not (SHARED / "data" / name).is_dir():
        pytest.skip("the benchmark data of shared/data are not here")
    data = read_folder(SHARED / "data", name)
    task = TASKS[name]
    assert {e.label for e in data.train} == {e.label for e in data.test} == set(range(len(task.labels)))
    assert all((e.text_b is not None) == task.pair for e in (*data.train, *data.test))
    split = k_shot_split(
        [e.label for e in data.train], len(data.test), 16, 42, csv_style=task.csv_style, names=task.labels
    )
    assert len(split.train) == len(split.dev) == 16 * len(task.labels)
    assert split.test == tuple(range(len(data.test)))


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 3), min_size=4, max_size=120),
    k=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_train_and_dev_are_disjoint_and_balanced(labels, k, seed):
    counts = {label: labels.count(label) for label in labels}
    if min(counts.values()) < k:
        with pytest.raises(UserError, match=f"the largest k possible is {min(counts.values())}"):
            k_shot_split(labels, 0, k, seed)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = k_shot_split(labels, 0, k, seed)
    assert not set(split.train) & set(split.dev)
    assert len(set(split.train)) == len(split.train)
    for label, count in counts.items():
        assert sum(labels[row] == label for row in split.train) == k
        assert sum(labels[row] == label for row in split.dev) == min(k, count - k)
    blocks = [labels[row] for row in split.train]
    assert all(len(set(blocks[i : i + k])) == 1 for i in range(0, len(blocks), k))
