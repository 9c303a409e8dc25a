"""Spectrum, alignment, groups and chi, against what they are by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_table import TABLE
from toys import Mlp

from lmntk.diagnosis.spectrum import group_shares, readable_groups, spectrum
from lmntk.errors import UserError


@pytest.mark.parametrize("c", [1, 3])
def test_the_kernel_of_the_labels_is_aligned_with_them(c):
    labels = [i % max(c, 2) for i in range(12)]
    targets = np.eye(3)[labels] if c == 3 else np.where(np.array(labels) == 1, 1.0, -1.0)[:, None]
    y = (targets - targets.mean(0)).ravel()
    found = spectrum(5 * np.outer(y, y).reshape(12, c, 12, c), labels)
    assert found.eigenvalues[0] == pytest.approx(5 * y @ y) and found.alignment[0] == pytest.approx(1)
    assert found.target_alignment == pytest.approx(1) and found.effective_rank == pytest.approx(1)


def test_shares_sum_to_one_and_eigenvalues_descend():
    generator = np.random.default_rng(0)
    gradients = generator.normal(size=(8, 2, 40))
    kernel = np.einsum("ncp,mdp->ncmd", gradients, gradients)
    labels = [0, 1, 1, 0, 1, 0, 0, 1]
    found = spectrum(kernel, labels)
    assert found.alignment.sum() == pytest.approx(1) and (np.diff(found.eigenvalues) <= 0).all()
    matrix, y = kernel.reshape(16, 16), (np.eye(2)[labels] - 0.5).ravel()
    assert found.target_alignment == pytest.approx(y @ matrix @ y / (y @ y * np.linalg.norm(matrix)))
    equal = spectrum(np.eye(16).reshape(8, 2, 8, 2), labels)
    assert equal.effective_rank == pytest.approx(16)
    with pytest.raises(UserError, match="same class"):
        spectrum(kernel, [1] * 8)
    with pytest.raises(UserError, match="not symmetric"):
        spectrum(generator.normal(size=kernel.shape), labels)


def test_shares_of_the_trace():
    eye = np.eye(4).reshape(2, 2, 2, 2)
    assert group_shares({"a": eye, "b": 3 * eye}) == {"a": 0.25, "b": 0.75}
    with pytest.raises(UserError, match="no parameter groups"):
        group_shares({})


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "distilbert", "bert-head-mode", "llama"])
def test_every_parameter_has_a_readable_group(name):
    model = TABLE[name].model(2)
    group = readable_groups(model)
    found = {group(parameter) for parameter, _ in model.named_parameters()}
    assert {"embeddings", "layer 0", "layer 1"} <= found <= {"embeddings", "layer 0", "layer 1", "head"}
    tables = {p for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    for parameter, value in model.named_parameters():
        if value in tables and "layer" not in group(parameter):
            assert group(parameter) == "embeddings"
    assert readable_groups(Mlp(4, 1))("layers.1.weight") == "layer 1"
