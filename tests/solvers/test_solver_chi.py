"""The output derivative of each loss, and its mean size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from lmntk.solvers.chi import mean_chi, output_derivative


def test_chi():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(9, 3)), [i % 3 for i in range(9)]
    expected = softmax(logits, axis=1) - np.eye(3)[labels]
    np.testing.assert_allclose(output_derivative(logits, labels), expected)
    assert mean_chi(logits, labels) == pytest.approx(np.abs(expected).mean())
    assert mean_chi(np.zeros((9, 3)), labels) == pytest.approx(2 * 2 / 9)
    two, classes = logits[:, :2], [i % 2 for i in range(9)]
    folded = two[:, 1:] - two[:, :1]
    np.testing.assert_allclose(output_derivative(folded, classes), output_derivative(two, classes)[:, 1:])
    assert mean_chi(folded, classes) == pytest.approx(mean_chi(two, classes))
    assert mean_chi(np.array([[50.0], [-50.0]]), [1, 0]) < 1e-20 and mean_chi(
        np.array([[50.0], [-50.0]]), [0, 1]
    ) == pytest.approx(1)
