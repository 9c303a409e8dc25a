"""The same cuts and the same words as an earlier revision's, in ``cuts.json``, however the memory is modelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lmntk.engine.budget import Budget
from lmntk.engine.kernel_phases import KernelSizes
from lmntk.engine.phases import Trial
from lmntk.engine.schedule import Schedule, make_schedule
from lmntk.errors import UserError
from lmntk.prediction import predictor
from lmntk.prediction.directions import cut_directions
from lmntk.prediction.limits import PassLimits
from lmntk.prediction.predictor import Predictor
from lmntk.prompts.encoding import EncodedText

CUTS = json.loads(Path(__file__).with_name("cuts.json").read_text(encoding="utf8"))


def lengths(groups: list[list[list[int]]]) -> list[list[int]]:
    """Return groups of texts' lengths, which are written as (length, how many of it)."""
    return [[length for length, count in group for _ in range(count)] for group in groups]


@pytest.mark.parametrize("case", CUTS["kernels"])
def test_kernels_are_cut_as_they_were(case: dict[str, Any]) -> None:
    sizes = case["sizes"] | {side: lengths(case["sizes"][side]) for side in ("rows", "columns")}
    work, budget = KernelSizes(Trial(*case["trial"]), **sizes), Budget(*case["budget"])
    if isinstance(case["expected"], str):
        with pytest.raises(UserError) as caught:
            make_schedule(work, budget)
        assert str(caught.value) == case["expected"]
    else:
        assert make_schedule(work, budget) == Schedule(*case["expected"])


@pytest.mark.parametrize("case", CUTS["directions"])
def test_directions_are_cut_as_they_were(case: dict[str, Any]) -> None:
    dtype = getattr(torch, case["dtype"])
    trainable: Any = {
        str(index): torch.empty(shape, dtype=dtype, device="meta")
        for index, shape in enumerate(case["shapes"])
    }

    def cut() -> list[int]:
        found = cut_directions(
            Trial(*case["trial"]), trainable, case["directions"], case["batch_size"], Budget(*case["budget"]), case["signs"]
        )  # fmt: skip
        return [found.batch_size, found.at_once, found.peak, found.gpu_peak]

    if isinstance(case["expected"], str):
        with pytest.raises(UserError) as caught:
            cut()
        assert str(caught.value) == case["expected"]
    else:
        assert cut() == case["expected"]


class HeldMemory:
    """The memory of a GPU that is not there, of which so much is held."""

    def __init__(self, held: int) -> None:
        self._held = held

    def held(self) -> int:
        return self._held

    def free(self) -> int:
        return 2**60

    def peak_of(self, body: Any) -> Any:
        raise AssertionError("nothing is tried")


class NoModel(torch.nn.Module):
    """A model that is never called."""

    outputs = 1

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize("case", CUTS["predictions"])
def test_passes_are_cut_as_they_were(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[bool] = []
    monkeypatch.setattr(predictor, "resident", lambda: case["resident"])
    monkeypatch.setattr(predictor, "trim", lambda: None)
    monkeypatch.setattr(predictor, "return_freed", lambda: returned.append(True))
    model: Any = NoModel()
    gpu = HeldMemory(case["held"]) if case["on_gpu"] else None
    limits = PassLimits(case["size"], case["memory"], case["device"], gpu)
    of_text = Predictor(model, [{"weight": torch.zeros(1)}], 0, limits=limits)
    of_text.token_bytes, of_text.looked_at = case["each"], case["longest"]
    monkeypatch.setattr(of_text, "keeps_apart", lambda texts: True)
    texts = [EncodedText((1,) * case["longest"], 0, None)] * 2
    if isinstance(case["expected"], str):
        with pytest.raises(UserError) as caught:
            of_text.texts_at_once(texts)
        assert str(caught.value) == case["expected"]
    else:
        assert [of_text.texts_at_once(texts), bool(returned)] == case["expected"]
