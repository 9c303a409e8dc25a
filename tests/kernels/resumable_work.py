"""Work on kernels of a tiny model, cut as a test asks, that may be cut short."""

from __future__ import annotations

from unittest.mock import patch

import torch
from model_oracle import pad_id, random_texts
from model_table import TABLE

from lmntk.engine import plan as planning
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.progress import Listener
from lmntk.engine.schedule import Schedule
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.system.executors.local import Local

FORMULAS = ["sgd", "signgd", "asigngd"]


PAIRS = [("a", "a"), ("a", "c"), ("b", "c"), ("b", "b")]


LENGTHS = {"a": [5, 4, 6], "b": [4, 4], "c": [3, 7, 5, 6, 4]}


KEY = "0123456789abcdef0123456789abcdef"


def work(
    scratch,
    formulas=FORMULAS,
    on_disk=True,
    chunk=2,
    key=KEY,
    keep=False,
    report=lambda captured, contracted: None,
    pairs=PAIRS,
    executor=None,
):
    row = TABLE["bert"]
    model = row.model(2).float()
    texts = {
        group: random_texts(row, lengths, i)
        for i, (group, lengths) in enumerate({"a": [5, 4, 6], "b": [4, 4], "c": [3, 7, 5, 6, 4]}.items())
    }
    with patch.object(planning, "make_schedule", lambda *a, **k: Schedule(2, on_disk, chunk, 0, 0)):
        settings = Settings(scratch=scratch, keep_factors=keep, executor=executor or Local())
        return stream_kernels(
            KernelWork(model, texts, pairs, formulas, row.parameters.select(model), pad_id(model)),
            settings,
            Listener(report=report),
            key=key,
        )


def values_of(streamed):
    tensors = [streamed.logits[group] for group in sorted(streamed.logits)]
    return tensors + [
        streamed.kernels[pair][name]["all"] for pair in PAIRS for name in sorted(streamed.kernels[pair])
    ]


def same_bits(one, other):
    return one.noise == other.noise and all(
        torch.equal(a, b) for a, b in zip(values_of(one), values_of(other), strict=True)
    )
