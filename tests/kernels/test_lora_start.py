"""LoRA's random start: its variance, one draw for each seed and name, nested ranks, and its scaling."""

from __future__ import annotations

import pytest
import torch

from lmntk.errors import UserError
from lmntk.kernels.lora import Draw, LoraStart


@pytest.mark.parametrize(
    ("init", "variance"), [("gaussian", 1 / 8), ("gaussian-peft", 1 / 64), ("kaiming", 1 / (3 * 5000))]
)
def test_its_entries_have_mean_zero_and_the_variance_of_its_init(init, variance):
    drawn = Draw(0, init).matrix("w", 8, 5000) * LoraStart(init).size(8)
    assert drawn.shape == (8, 5000)
    assert abs(float(drawn.mean())) < 4 * (variance / 40_000) ** 0.5
    assert float(drawn.var()) / variance == pytest.approx(1, abs=4 * (2 / 40_000) ** 0.5)


@pytest.mark.parametrize("init", ["gaussian", "kaiming"])
def test_it_is_the_same_for_one_seed_and_name_and_no_other_and_ranks_are_nested(init):
    first = Draw(5, init).matrix("w", 3, 7)
    torch.testing.assert_close(Draw(5, init).matrix("w", 3, 7), first, rtol=0, atol=0)
    torch.testing.assert_close(Draw(5, init).matrix("w", 64, 7)[:3], first, rtol=0, atol=0)
    for other in (Draw(6, init).matrix("w", 3, 7), Draw(5, init).matrix("v", 3, 7)):
        assert not torch.equal(other, first)


@pytest.mark.parametrize(
    ("start", "scale", "size"),
    [
        (LoraStart(), 1, 0.5),
        (LoraStart("gaussian-peft", "alpha/r", 8), 2, 0.25),
        (LoraStart("kaiming", "alpha/sqrt(r)", 8), 4, 1),
    ],
)
def test_a_kernel_has_a_factor_for_each_side_without_signs(start, scale, size):
    assert (start.scale(4), start.size(4)) == (scale, size)
    powers = {"sgd": 2, "signgd": 0, "asigngd": 1, "asigngd_flipped": 1}
    for name, power in powers.items():
        assert start.multiplier(name, 4) == pytest.approx((scale * size) ** power)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"init": "xavier"}, "no init 'xavier'; give one of gaussian, gaussian-peft, kaiming"),
        ({"scaling": "r"}, r"no scaling 'r'; give one of one, alpha/r, alpha/sqrt\(r\)"),
        ({"alpha": 0.0}, "alpha is 0.0; give a positive number"),
        ({"alpha": float("nan")}, "alpha is nan"),
    ],
)
def test_what_is_no_start(wanted, message):
    with pytest.raises(UserError, match=message):
        LoraStart(**wanted)
