"""A fitted threshold for many choices of texts at once, against one at a time."""

import numpy as np
import pytest

from lmntk.solvers.baselines import fitted_offsets
from lmntk.solvers.threshold import FittedThreshold, offsets_of_many


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_offsets_are_those_of_each_choice_alone(outputs: int, scale: float) -> None:
    random = np.random.default_rng(outputs)
    labels = np.arange(30) % max(outputs, 2)
    logits = scale * (random.normal(size=(30, outputs)) + 2.0 * random.normal(size=outputs))
    weights = np.ones((4, 30))
    for row in weights[1:]:
        row[random.choice(30, 7, replace=False)] = 0
    found = offsets_of_many(logits, labels, weights)
    for row, offsets in zip(weights, found, strict=True):
        taken = row > 0
        alone = fitted_offsets(logits[taken], labels[taken])
        np.testing.assert_allclose(offsets, alone, atol=1e-4 * scale)


def test_no_text_takes_part_in_its_own_threshold() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(12, 1)), np.arange(12) % 2
    groups = np.asarray([[0, 1], [2, 3]])
    before = FittedThreshold(logits, labels).leave_out(groups)
    turned = labels.copy()
    turned[0] = 1
    after = FittedThreshold(logits, turned).leave_out(groups)
    np.testing.assert_allclose(before[0], after[0])
    assert (after[1] - before[1] > 0.1).all()  # of whose other texts one more is of the second class
