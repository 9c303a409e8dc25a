"""LoRA's random start: of variance 1 / r, one draw for each seed and name."""

from __future__ import annotations

import pytest
import torch

from lmntk.kernels.lora import LowRank


@pytest.mark.parametrize("rank", [2, 8])
def test_its_entries_have_mean_zero_and_variance_one_over_r(rank):
    drawn = LowRank(rank).matrix("w", 40_000 // rank, torch.zeros(1, dtype=torch.float64))
    assert drawn.shape == (rank, 40_000 // rank)
    assert abs(float(drawn.mean())) < 4 / (40_000 * rank) ** 0.5
    assert float(drawn.var()) * rank == pytest.approx(1, abs=4 * (2 / 40_000) ** 0.5)


def test_it_is_the_same_for_one_seed_and_name_and_no_other():
    like = torch.zeros(1)
    first = LowRank(3, seed=5).matrix("w", 7, like)
    torch.testing.assert_close(LowRank(3, seed=5).matrix("w", 7, like), first, rtol=0, atol=0)
    assert first.dtype == torch.float32
    for other in (LowRank(3, seed=6).matrix("w", 7, like), LowRank(3, seed=5).matrix("v", 7, like)):
        assert not torch.equal(other, first)
