"""On a real GPU, where there is one: the processor's kernels, the policies, two GPUs, memory within the budget. Else skipped."""

from __future__ import annotations

import pytest
import torch
from gpu_work import (
    FORMULAS,
    MEBI,
    assert_same_bits,
    blocks,
    largest_error,
    needs_gpu,
    needs_two_gpus,
    work,
)
from model_oracle import pad_id, random_texts
from model_table import TABLE

from lmntk.engine import plan as planning
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.schedule import Schedule
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.errors import UserError
from lmntk.system.device_memory import CudaMemory
from lmntk.system.devices import chosen_devices
from lmntk.system.executors.threads import Devices
from lmntk.system.precision import AMPERE, check_precision

pytestmark = needs_gpu
FAMILIES = [
    "bert",
    "roberta",
    "gpt2",
    "t5",
    "llama",
    "mixtral",
    "deberta-shared-keys",
    "bert-lora-at-start",
    "albert",
]


def is_recent():
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= AMPERE


needs_ampere = pytest.mark.skipif(not is_recent(), reason="no GPU of Ampere's generation or later here")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_same_kernels_as_the_processors(name, dtype, tolerance):
    here, there = work(name, dtype), work(name, dtype, "cuda:0")
    assert there.schedule.gpu_peak > 0
    assert largest_error(there, here, "sgd") < tolerance
    for formula in ("signgd", "asigngd"):  # a sign may turn where a gradient is next to nothing
        assert largest_error(there, here, formula) < 100 * tolerance
    for group, logits in here.logits.items():
        torch.testing.assert_close(there.logits[group], logits, rtol=tolerance * 10, atol=tolerance * 10)


@needs_ampere
@pytest.mark.parametrize(("precision", "least", "most"), [("tf32", 1e-6, 2e-2), ("bfloat16", 1e-4, 1e-1)])
def test_policies_and_what_they_say(precision, least, most):
    exact, lower = work(device="cuda:0"), work(device="cuda:0", precision=precision)
    assert least < largest_error(lower, exact, "sgd") < most
    assert lower.precision_loss.precision == precision
    assert set(lower.precision_loss.kernels) == set(FORMULAS)
    assert lower.noise == exact.noise


def test_a_global_setting_changes_no_kernel():
    exact = work(device="cuda:0")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = work(device="cuda:0")
    finally:
        torch.set_float32_matmul_precision(before)
    assert largest_error(found, exact, "sgd") < 1e-6


@pytest.mark.parametrize("where", ["rows_on_host", "rows_on_disk"])
def test_row_factors_that_live_elsewhere(tmp_path, monkeypatch, where):
    here = work("bert", torch.float64, "cuda:0")
    away = Schedule(3, where == "rows_on_disk", 4, 0, 0, rows_on_host=where == "rows_on_host", gpu_peak=1)
    monkeypatch.setattr(planning, "make_schedule", lambda *a, **k: away)
    for attempt in range(5):  # copies beside arithmetic: a race need not show the first time
        there = work("bert", torch.float64, "cuda:0", scratch=tmp_path / str(attempt))
        for label, values in blocks(here).items():
            torch.testing.assert_close(
                blocks(there)[label], values, rtol=1e-9, atol=1e-9 * float(values.abs().max())
            )


@needs_two_gpus
@pytest.mark.parametrize("name", ["bert", "t5", "mixtral"])
def test_two_gpus_agree_with_one(name):
    both = Devices(chosen_devices("cuda:0,cuda:1"))
    assert len(chosen_devices("cuda")) == torch.cuda.device_count()
    one, two = (
        work(name, torch.float64, "cuda:0"),
        work(name, torch.float64, "cuda:0", executor=both, batch_size=2),
    )
    for label, values in blocks(one).items():
        torch.testing.assert_close(
            blocks(two)[label], values, rtol=1e-9, atol=1e-9 * float(values.abs().max())
        )


def test_memory_stays_within_the_budget():
    """A wider model, so that there is something to hold: three budgets, each kept to, and the kernels the same."""
    row = TABLE["bert"]
    config = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
    from dataclasses import replace

    wide = replace(row, settings={**row.settings, **config})
    model = wide.model(2).float().cuda()
    texts = {"a": random_texts(wide, [20] * 64, 0), "c": random_texts(wide, [20] * 256, 1)}
    found = []
    for budget in (4000, 600, 300):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        settings = Settings(device_memory=budget * MEBI)
        found.append(
            stream_kernels(
                KernelWork(model, texts, [("a", "c")], ["sgd"], wide.parameters.select(model), pad_id(model)),
                settings,
            )
        )
        assert torch.cuda.max_memory_allocated() <= budget * MEBI
        assert found[-1].schedule.gpu_peak <= budget * MEBI
    values = [one.kernels["a", "c"]["sgd"]["all"] for one in found]
    for each in values[1:]:
        torch.testing.assert_close(each, values[0], rtol=1e-4, atol=1e-4 * float(values[0].abs().max()))
    with pytest.raises(UserError, match=r"device-memory: .* and the GPU has"):
        work(device="cuda:0", device_memory=2**50)


def test_the_gpu_is_asked():
    gpu = CudaMemory(torch.device("cuda:0"))
    grown, kept = gpu.peak_of(lambda: torch.ones(2**20, device="cuda:0"))
    assert 4 * MEBI <= grown < 8 * MEBI
    assert gpu.held() >= 4 * MEBI
    assert gpu.free() > 0
    del kept
    assert check_precision("float32", "float64", [torch.device("cuda:0")]) == "float32"
    assert_same_bits(work(device="cuda:0"), work(device="cuda:0"))
