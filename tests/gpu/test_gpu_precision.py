"""Low precision: never silent, its loss measured; and float32 that is float32 whatever a global setting says."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch
from gpu_work import FORMULAS, MEBI, assert_same_bits, blocks, largest_error, work
from model_oracle import pad_id, random_texts
from model_table import TABLE

from lmntk.engine import plan as planning
from lmntk.engine import rates as calibration
from lmntk.engine.batches import Capturer
from lmntk.engine.budget import Budget
from lmntk.engine.kernel_phases import KernelSizes
from lmntk.engine.lengths import evenly
from lmntk.engine.phases import GPU_MARGIN, MARGIN, Trial, measuring_bytes
from lmntk.engine.precision_loss import measure_precision_loss
from lmntk.engine.schedule import LOSS_TEXTS, Schedule, make_schedule
from lmntk.engine.stored_factors import StoredFactors
from lmntk.errors import UserError
from lmntk.kernels.gram import TILE_BYTES
from lmntk.prompts.batching import collate
from lmntk.prompts.encoding import EncodedText
from lmntk.system.memory import peak_of, return_freed
from lmntk.system.precision import _places, check_precision, products
from lmntk.tangents.capture import capture
from lmntk.tangents.comparison import autograd_gradients
from lmntk.tangents.coverage import check_coverage

LINUX = pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="only Linux starts its count of memory anew"
)
CPU = [torch.device("cpu")]
FAMILIES = ["bert", "roberta", "gpt2", "t5", "llama", "mixtral", "deberta-shared-keys", "bert-lora-at-start"]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", list(TABLE))
def test_bfloat16_passes_are_those_of_plain_autograd_in_bfloat16(name):
    """The twin: the same network under autocast, one text, plain autograd on every parameter."""
    row = TABLE[name]
    model = row.model(2).float()
    trainable = row.parameters.select(model)
    batch = collate(random_texts(row, [6], 3), pad_id(model))
    exact = autograd_gradients(model, batch, trainable)
    with torch.autocast("cpu", torch.bfloat16):
        expected = autograd_gradients(model, batch, trainable)
    fallback = check_coverage(model, batch, trainable).fallback
    found = capture(model, batch, trainable, fallback, lower=torch.bfloat16)
    assert found.logits.dtype == torch.float32

    def flat(gradients):
        there = [n for n in trainable if exact[n] is not None and n in found.factors]
        return torch.cat([gradients[n].flatten().double() for n in there])

    ours = flat({n: factors.gradients(trainable[n].shape)[:, 0] for n, factors in found.factors.items()})
    twin, reference = flat(expected), flat(exact)
    assert ours.dtype == torch.float64
    for factors in found.factors.values():
        assert all(
            tensor.dtype == torch.float32 for tensor in factors.tensors() if tensor.is_floating_point()
        )
    of_twin = float((twin - reference).norm() / reference.norm())
    of_ours = float((ours - reference).norm() / reference.norm())
    assert (
        1e-4 < of_ours < 1.5 * of_twin + 1e-4
    )  # sums over uses are not rounded, so ours is the better if anything
    assert float((ours - twin).norm() / reference.norm()) < 1.5 * of_twin


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_that_is_said_is_the_loss_there_is(name):
    exact, lower = work(name), work(name, precision="bfloat16")
    assert exact.precision_loss is None
    said = lower.precision_loss
    assert said.precision == "bfloat16"
    assert said.texts == min(LOSS_TEXTS, 11)
    assert lower.noise == exact.noise  # found in full precision: in bfloat16 everything looks like noise
    for formula in FORMULAS:
        real = largest_error(lower, exact, formula)
        assert 1e-4 < real < 0.2
        assert real / 5 < said.kernels[formula] < 5 * real
    assert set(said.coefficients) == {"sgd", "signgd"}
    assert all(1e-4 < error < 1 for error in said.coefficients.values())
    assert 1e-5 < said.logits < 0.1
    assert "bfloat16 beside float32 on 11 texts: kernels are off by sgd" in said.describe()
    assert said.as_dict()["kernels"]["sgd"] == float(f"{said.kernels['sgd']:.1e}")


def test_the_loss_is_that_of_the_block_in_both_precisions():
    """The twin: whole kernels of the same texts in both, and numpy's solve."""
    row = TABLE["bert"]
    model = row.model(2).float()
    texts = random_texts(row, [4, 5, 6, 7, 8, 3], 0)
    capturer = Capturer(model, row.parameters.select(model), pad_id(model), texts, 4, precision="bfloat16")
    said = measure_precision_loss(capturer, texts, ["sgd"], True)

    def kernel(lower):
        gradients = []
        for text in sorted(texts, key=lambda text: text.length):
            found = capture(model, collate([text], pad_id(model)), capturer.trainable, lower=lower)
            parts = [
                f.gradients(capturer.trainable[n].shape)[:, 0].flatten(1).double()
                for n, f in found.factors.items()
            ]
            gradients.append(torch.cat(parts, 1))
        together = torch.cat(gradients)
        return together @ together.T

    exact, lower = kernel(None), kernel(torch.bfloat16)
    labels = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(6)

    def solved(k):
        return torch.linalg.inv(k + 0.01 * torch.linalg.eigvalsh(k).max() * torch.eye(12)) @ labels

    assert said.kernels["sgd"] == pytest.approx(
        float((lower - exact).norm() / exact.norm()), rel=0.3
    )  # batches round otherwise
    assert said.coefficients["sgd"] == pytest.approx(
        float((solved(lower) - solved(exact)).norm() / solved(exact).norm()), rel=0.5
    )


def test_the_comparison_with_autograd_is_in_full_precision():
    assert work(precision="bfloat16").coverage == work().coverage


def test_the_start_up_check_and_the_key_know_no_low_precision(tmp_path):
    """Tiles of one precision are never those of another: the key of the work has it, and the row factors say so."""
    work(precision="bfloat16", scratch=tmp_path, keep_factors=True)
    kept = StoredFactors(tmp_path)
    assert kept.precision == "bfloat16"
    assert set(kept.kernels(("a", "c"), ["sgd"])[0]) == {"sgd"}
    assert "signgd" in kept.kernels(("a", "c"), ["signgd"], drop_noise=False)[0]
    with pytest.raises(UserError, match="taken in bfloat16, which hides noise"):
        kept.kernels(("a", "c"), ["signgd"])


class Wide(torch.nn.Module):
    """Few layers, wide: factors are what memory goes to."""

    outputs = 1

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.middle, self.last = (
            torch.nn.Embedding(9, width),
            torch.nn.Linear(width, width),
            torch.nn.Linear(width, width),
        )
        self.head = torch.nn.Linear(width, 1)

    def forward(self, batch):
        hidden = self.table(batch["input_ids"]) * batch["attention_mask"][..., None]
        return self.head(torch.tanh(self.last(torch.tanh(self.middle(hidden)))).mean(1))


def switches():
    return [getattr(module, name) for module, name, _ in _places()]


@pytest.fixture
def lowered():
    """A user's global setting, and the default again."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def test_a_global_setting_changes_no_kernel(lowered):
    found = work()
    assert torch.get_float32_matmul_precision() == "medium"
    torch.set_float32_matmul_precision("highest")
    assert_same_bits(found, work())


def test_switches_are_as_they_were(lowered):
    before = switches()
    with products("float32"):
        assert all(value in ("ieee", False) or value == (False, True) for value in switches())
        with products("float32"):
            pass
        assert switches() != before
    assert switches() == before
    with products("tf32"):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    with pytest.raises(ZeroDivisionError), products("tf32"):
        _ = 1 / 0
    assert switches() == before
    assert torch.backends.cuda.matmul.allow_tf32  # the older interface still answers


def test_threads_wait_for_another_precision_and_share_one():
    seen, started = [], threading.Event()

    def other():
        started.set()
        with products("tf32"):
            seen.append(torch.backends.cuda.matmul.fp32_precision)

    def alike():
        with products("float32"):
            seen.append(torch.backends.cuda.matmul.fp32_precision)

    threads = [threading.Thread(target=body) for body in (other, alike)]
    with products("float32"):
        threads[0].start()
        started.wait()
        threads[1].start()
        threads[1].join()
        time.sleep(0.05)
        assert seen == ["ieee"]
        with pytest.raises(RuntimeError, match="within those of another"), products("tf32"):
            pass
    threads[0].join()
    assert seen == ["ieee", "tf32"]


@pytest.mark.parametrize(
    ("precision", "dtype", "message"),
    [
        ("tf32", "float32", "tf32 needs a GPU, and this is cpu; use float32, or bfloat16"),
        ("bfloat16", "float64", "bfloat16 would spoil --dtype float64"),
        ("half", "float32", "'half' is not one of float32, tf32, bfloat16"),
    ],
)
def test_mistakes(precision, dtype, message):
    with pytest.raises(UserError, match=message):
        check_precision(precision, dtype, CPU)
    assert check_precision("bfloat16", "float32", CPU) == "bfloat16"
    assert check_precision("float32", "float64", CPU) == "float32"


def test_several_workers_in_bfloat16_give_the_same_bits():
    from lmntk.system.executors.threads import Devices

    executor = Devices((torch.device("cpu"),) * 2)
    one, two = work(precision="bfloat16"), work(precision="bfloat16", executor=executor)
    assert_same_bits(one, two)
    assert len(blocks(one)) == 16


def test_few_texts_stand_for_all_lengths_and_one_for_the_longest():
    assert (
        evenly([3, 5, 9, 60], 1) == [60]
        and evenly([3, 5, 9, 60], 2) == [3, 60]
        and evenly([3, 5, 9, 60], 4) == [3, 5, 9, 60]
    )


def test_the_trial_and_the_measured_loss_hold_what_the_cut_says(monkeypatch):
    """Passes in full precision follow those in bfloat16, and take more; neither is in larger batches than the cut has."""
    sizes, tried = [], []
    in_full, of_batch = Capturer.of_batch_in_full, Capturer._of_batch
    monkeypatch.setattr(
        Capturer, "of_batch_in_full", lambda self, texts: tried.append(len(texts)) or in_full(self, texts)
    )
    monkeypatch.setattr(
        Capturer,
        "_of_batch",
        lambda self, texts, precision: sizes.append(len(texts)) or of_batch(self, texts, precision),
    )
    monkeypatch.setattr(planning, "make_schedule", lambda *a, **k: Schedule(2, False, 2, 0, 0))
    work(precision="bfloat16", formulas=["sgd"])
    assert tried[0] == sizes[0] == 4  # the trial
    assert max(sizes[2:]) == 2


@pytest.mark.parametrize("gpu", [False, True])
def test_the_measured_loss_is_in_the_cut(gpu):
    """On fewer texts where memory is small: their factors in both precisions are held at once."""
    trial = Trial(400, 100, 400 * MEBI, 20 * MEBI, 800 * MEBI, 500 * MEBI, held=400 * MEBI)

    def cut(memory, lower=True):
        sizes = KernelSizes(trial, [[100] * 32], [[100] * 1000], 32_000, has_scratch=True, lower=lower)
        return make_schedule(sizes, Budget(2**40, memory) if gpu else Budget(memory))

    def peak(found):
        return found.gpu_peak if gpu else found.peak

    assert (cut(2**40).loss_texts, cut(2**40, lower=False).loss_texts) == (LOSS_TEXTS, 0)
    seen = []
    for gigabytes in (8, 5, 4, 3, 2, 1.5):
        found, memory = cut(int(gigabytes * 2**30)), int(gigabytes * 2**30)
        seen.append(found.loss_texts)
        assert peak(found) <= memory
        held = 500 * MEBI + MARGIN if not gpu else 400 * MEBI + GPU_MARGIN
        assert (
            peak(found)
            >= held + (2 * found.loss_texts + 2 * min(found.batch_size, found.loss_texts)) * 100 * MEBI
        )
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == LOSS_TEXTS
    assert seen[-1] < 4
    with pytest.raises(UserError, match=r"the least is (\d+)MiB$") as caught:
        cut(600 * MEBI)
    least = int(str(caught.value).split()[-1].removesuffix("MiB"))
    assert cut(least * MEBI).loss_texts == 1
    with pytest.raises(UserError):
        cut((least - 2) * MEBI)


def test_a_begun_cut_is_measured_on_as_many_texts(tmp_path, monkeypatch):
    """Its numbers are in the kernels' metadata, which are to be those of a run that was not cut short."""
    found = Schedule(2, False, 2, 0, 0, loss_texts=4)
    monkeypatch.setattr(planning, "make_schedule", lambda *a, **k: found)
    whole = work(precision="bfloat16", scratch=tmp_path)
    assert whole.precision_loss.texts == 4
    monkeypatch.setattr(planning, "make_schedule", lambda *a, **k: pytest.fail("cut anew"))
    assert work(precision="bfloat16", scratch=tmp_path).precision_loss == whole.precision_loss


@LINUX
def test_what_the_measuring_takes_is_what_is_said():
    return_freed()  # what other tests asked for
    model = Wide(1024)
    texts = [EncodedText(tuple(1 + (i + j) % 8 for j in range(200)), 0, None) for i in range(16)]
    capturer = Capturer(model, dict(model.named_parameters()), 0, texts, 4, precision="bfloat16")
    trial = capturer.try_out()
    said = measuring_bytes(trial, [200] * 16, LOSS_TEXTS, 4)
    grown, _ = peak_of(lambda: measure_precision_loss(capturer, texts, ["sgd"], True))
    assert 0.5 * said <= grown <= said + 2 * TILE_BYTES + MARGIN


@pytest.mark.parametrize("formulas", [["sgd"], FORMULAS])
def test_a_plan_counts_what_a_low_precision_takes(tmp_path, monkeypatch, formulas):
    """A second a text and pass, in either precision: what is measured first, and signs' passes in full, are in the plan."""
    clock, said = [0.0], []
    of_batch = Capturer._of_batch

    def ticking(self, texts, precision):
        clock[0] += len(texts)
        return of_batch(self, texts, precision)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Capturer, "_of_batch", ticking)
    free = calibration.Rates(*[1e30] * 5, "some machine")
    monkeypatch.setattr(calibration, "measure_rates", lambda device: free)
    monkeypatch.setattr(
        planning.WorkFolder, "write_down", lambda self, owner, **parts: clock.__setitem__(0, 0.0)
    )  # after the trial
    work(precision="bfloat16", formulas=formulas, announce=said.append, scratch=tmp_path)
    assert said[0].seconds == pytest.approx(clock[0], rel=0.25)  # padding is counted by tokens
    assert clock[0] == 2 * 11 + 21 + (11 if formulas != ["sgd"] else 0)
