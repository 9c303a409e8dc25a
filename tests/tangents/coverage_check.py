"""The check that coverage is right: what is captured against the Jacobian of each text."""

from __future__ import annotations

import torch
from coverage_models import BATCH

from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import check_coverage


def jacobian(model, batch):
    """Returns {name: (c, n, *shape)} by plain autograd, each example alone."""
    found = {name: [] for name, _ in model.named_parameters()}
    for i in range(len(batch["input_ids"])):
        logits = model({"input_ids": batch["input_ids"][i : i + 1]})[0]
        for name, parameter in model.named_parameters():
            rows = [
                torch.autograd.grad(f, parameter, retain_graph=True, allow_unused=True)[0] for f in logits
            ]
            found[name].append(
                torch.stack([torch.zeros_like(parameter) if row is None else row for row in rows])
            )
    return {name: torch.stack(rows, 1) for name, rows in found.items()}


def assert_right(model, batched, fallback=(), unused=()):
    """The coverage is as expected, and what is captured that way equals plain autograd."""
    trainable = dict(model.named_parameters())
    coverage = check_coverage(model, BATCH, trainable)
    assert (coverage.batched, coverage.fallback, coverage.unused) == (batched, tuple(fallback), tuple(unused))
    assert all(name in coverage.describe() for name in fallback)
    assert coverage.worst < 1e-12
    expected = jacobian(model, BATCH)
    parts = [BATCH] if batched else [{"input_ids": BATCH["input_ids"][i : i + 1]} for i in range(3)]
    tangents = [capture(model, part, trainable, coverage.fallback) for part in parts]
    for name, parameter in trainable.items():
        if name in tangents[0].factors:
            found = torch.cat([each.factors[name].gradients(parameter.shape) for each in tangents], 1)
            torch.testing.assert_close(found, expected[name], rtol=1e-12, atol=1e-14)
        else:
            assert not expected[name].any()
    return coverage
