"""What the tests of GPUs share: a piece of work on a tiny model, a GPU that is only pretended, and one that is there."""

from __future__ import annotations

import pytest
import torch
from model_oracle import pad_id, random_texts
from model_table import TABLE

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.progress import Listener
from lmntk.engine.settings import Settings
from lmntk.engine.stream import Streamed, stream_kernels

FORMULAS = ["sgd", "signgd", "asigngd"]
PAIRS = [("a", "a"), ("b", "a"), ("a", "c"), ("b", "c")]
LENGTHS = {"a": [5, 4, 6, 5, 3, 4, 6, 5], "b": [4, 4, 7], "c": [3, 7, 5, 6, 4, 5, 5, 8, 4, 4]}
KEY = "k" * 32
MEBI = 2**20

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA GPUs here")


class PretendedGpu:
    """The memory of a GPU that is not there: so much in all, so much held, and so much grown by a trial."""

    def __init__(self, total: int, held: int, grown: int) -> None:
        self.total, self._held, self.grown = total, held, grown

    def free(self):
        return self.total - self._held

    def held(self):
        return self._held

    def peak_of(self, body):
        return self.grown, body()


def work(
    name: str = "bert",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    formulas=FORMULAS,
    key: str = KEY,
    announce=None,
    note=lambda line: None,
    report=lambda captured, contracted: None,
    **chosen,
) -> Streamed:
    """Returns kernels of a model of the table; ``chosen`` are settings."""
    row = TABLE[name]
    model = row.model(2).to(device=device, dtype=dtype)
    texts = {group: random_texts(row, part, place) for place, (group, part) in enumerate(LENGTHS.items())}
    settings = Settings(**({"batch_size": 4} | chosen))
    trainable = row.parameters.select(model)
    return stream_kernels(
        KernelWork(model, texts, PAIRS, formulas, trainable, pad_id(model)),
        settings,
        Listener(report=report, announce=announce, note=note),
        key=key,
    )


def blocks(found: Streamed):
    return {
        (pair, name): groups["all"]
        for pair, kernels in found.kernels.items()
        for name, groups in kernels.items()
    }


def assert_same_bits(one: Streamed, other: Streamed) -> None:
    expected, found = blocks(one), blocks(other)
    assert set(found) == set(expected)
    for label, values in expected.items():
        assert torch.equal(found[label], values), label
    assert one.noise == other.noise
    for group, logits in one.logits.items():
        assert torch.equal(other.logits[group], logits)


def largest_error(found: Streamed, expected: Streamed, kernel: str) -> float:
    """Returns the largest relative Frobenius error of a kernel's blocks."""
    one, other = blocks(found), blocks(expected)
    labels = [label for label in other if label[1] == kernel]
    return max(float((one[label] - other[label]).norm() / other[label].norm()) for label in labels)
