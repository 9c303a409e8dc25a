"""What a plan counts is what is held: groups of parameters, batches that no two groups of texts share, tiles as they are cut."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from lmntk.engine.batches import Capturer
from lmntk.engine.budget import Budget
from lmntk.engine.jobs import jobs_of
from lmntk.engine.kernel_phases import STREAMED, KernelSizes
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.lengths import padded_tokens
from lmntk.engine.phases import DOUBLE, MARGIN, Trial
from lmntk.engine.plan import cut_work
from lmntk.engine.schedule import make_schedule
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels, whole
from lmntk.engine.transfers import Fetched, Transfers
from lmntk.errors import UserError
from lmntk.kernels.gram import Panel, gram
from lmntk.prompts.encoding import EncodedText
from lmntk.system.memory import peak_of, resident, return_freed
from lmntk.tangents.factors import DenseFactors, OuterFactors, Tangents
from lmntk.tangents.form import Factors

LINUX = pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="only Linux starts its count of memory anew"
)
MEBI = 2**20
# a mebibyte of factors a token, and nothing else, so that a peak tells the tokens
TRIAL = Trial(tokens=100, longest=100, factors=100 * MEBI, largest=100 * MEBI, working=0, resident=0)


class Deep(torch.nn.Module):
    """Many layers of few weights: with each layer's own, the kernels are what memory goes to."""

    outputs = 2

    def __init__(self, layers: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(9, 3)
        self.layer = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(layers))
        self.head = torch.nn.Linear(3, self.outputs)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = self.table(batch["input_ids"])
        for layer in self.layer:
            hidden = torch.tanh(layer(hidden))
        mask = batch["attention_mask"][:, :, None].to(hidden.dtype)
        found: torch.Tensor = self.head((hidden * mask).sum(1) / mask.sum(1))
        return found


def texts_of(lengths):
    return [
        EncodedText(tuple(1 + (i + j) % 8 for j in range(length)), 0, None)
        for i, length in enumerate(lengths)
    ]


def layer_of(name):
    return ".".join(name.split(".")[:2]) if name.startswith("layer") else name.split(".")[0]


def cut(texts, pairs, trial=TRIAL, formulas=("sgd",), **settings):
    """Returns the schedule of a plan, for a trial that is given."""
    model = Deep()
    every = [text for part in texts.values() for text in part]
    capturer = Capturer(model, dict(model.named_parameters()), 0, every, settings.get("batch_size", 32))
    work = KernelWork(model, texts, pairs, formulas, capturer.trainable, 0)
    return cut_work(work, Settings(**{"memory": 2**50} | settings), capturer, trial, True)


def tokens_held(found):
    """Returns how many tokens' factors the peak is of, where the kernels of a few texts are next to nothing."""
    return round(
        (found.peak - cut({"a": texts_of([1])}, [("a", "a")], replace(TRIAL, factors=0, largest=0)).peak)
        / MEBI
    )


@pytest.mark.parametrize("formulas", [["sgd"], ["sgd", "signgd", "asigngd"]])
def test_each_groups_kernels_are_counted(formulas):
    texts = {"a": texts_of([4] * 30), "b": texts_of([4] * 40)}
    one, many = (
        cut(texts, [("a", "b")], formulas=formulas, grouping=grouping) for grouping in (None, layer_of)
    )
    kernels = {1: 1, 3: 4}[len(formulas)]
    assert many.peak - one.peak == (14 - 1) * kernels * 2 * DOUBLE * 30 * 40  # 12 layers, table, head


def test_too_little_memory_for_each_groups_kernels_is_refused_with_the_least_that_works():
    texts, free = {"a": texts_of([4] * 300), "b": texts_of([4] * 400)}, replace(TRIAL, factors=1, largest=1)
    least_of_one = cut(texts, [("a", "b")], free).peak
    with pytest.raises(UserError, match=r"the least is (\d+)MiB$") as caught:
        cut(texts, [("a", "b")], free, grouping=layer_of, memory=least_of_one)
    least = int(str(caught.value).split()[-1].removesuffix("MiB")) * MEBI
    assert cut(texts, [("a", "b")], free, grouping=layer_of, memory=least).peak <= least


def test_a_gpus_kernels_of_each_group_are_counted():
    def of(kernels):
        trial, blocks = replace(TRIAL, outputs=2), kernels * 30 * 40
        sizes = KernelSizes(trial, [[4] * 30], [[4] * 40], blocks, kernels, has_scratch=True)
        return make_schedule(sizes, Budget(2**50, 2**50))

    gpu = of(14).gpu_peak - of(1).gpu_peak
    assert of(14).peak - of(1).peak == 13 * 2 * DOUBLE * 30 * 40 * 4
    assert gpu == 13 * 2 * DOUBLE * 30 * max(of(1).chunk, 30) * 4


@LINUX
def test_a_run_with_groups_holds_no_more_than_was_said():
    return_freed()
    model, texts = Deep(), {"a": texts_of([2] * 900), "b": texts_of([2] * 800)}
    trainable = dict(model.named_parameters())
    before = resident()
    grown, found = peak_of(
        lambda: stream_kernels(
            KernelWork(model, texts, [("a", "b")], ["sgd"], trainable, 0), Settings(grouping=layer_of)
        )
    )
    kernels = 14 * DOUBLE * 900 * 800 * 4
    assert kernels > MARGIN
    assert kernels < grown
    assert before + grown <= found.schedule.peak
    grown, summed = peak_of(lambda: whole(found.kernels["a", "b"]["sgd"]))
    assert grown < 2.5 * summed.nbytes  # not once more each group's


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_rows_are_counted_in_the_batches_that_they_are_held_in(batch_size):
    """Eight splits of a short and a long text each, which no batch of one group sorts apart; together they would be."""
    texts = {f"cell-{i}": texts_of([5, 50]) for i in range(8)}
    pairs = [(name, name) for name in texts]
    held = []
    capture = Capturer.of_batch
    with patch.object(
        Capturer,
        "of_batch",
        lambda self, part: held.append(len(part) * part[-1].length) or capture(self, part),
    ):
        model = Deep()
        chosen = Settings(batch_size=batch_size, memory=2**50)
        streamed = stream_kernels(
            KernelWork(model, texts, pairs, ["sgd"], dict(model.named_parameters()), 0), chosen
        )
    rows = held[1:]  # after the trial
    assert len(rows) == 16 // min(batch_size, 2)
    assert streamed.schedule.batch_size == batch_size
    assert tokens_held(cut(texts, pairs, replace(TRIAL, largest=0), batch_size=batch_size)) == sum(rows)


def test_a_parameters_factors_without_padding_are_counted():
    """Beside all factors while they are contracted, of rows and of one batch of columns; a batch of one text has no padding."""
    texts = {"a": texts_of([5, 50] * 4), "b": texts_of([5] * 40)}
    trial = replace(TRIAL, largest=TRIAL.factors // 20)
    beside = [
        cut(texts, [("a", "b")], trial, batch_size=size).peak
        - cut(texts, [("a", "b")], replace(trial, largest=0), batch_size=size).peak
        for size in (8, 1)
    ]
    assert [round(size / MEBI) for size in beside] == [
        (8 * 50 + 8 * 50) // 10,
        0,
    ]  # the largest batch is the rows'


@pytest.mark.parametrize("chunk", [2, 4, 8])
def test_tiles_are_counted_as_they_are_cut(chunk):
    """Groups of three column texts make tiles of their own: one that holds parts of two is never there."""
    texts = {"a": texts_of([1]), **{f"c{i}": texts_of([10, 20, 30 + i]) for i in range(4)}}
    pairs = [("a", name) for name in texts]
    columns = [[text.length for text in texts[name]] for name in texts if name != "a"]
    jobs = jobs_of(KernelWork(Deep(), texts, pairs, ["sgd"], {}, 0), chunk)
    most = max(
        sum(text.length for text in texts[job.column][job.start : job.stop])
        for job in jobs
        if job.column != "a"
    )

    def of_tile(columns):
        with patch.multiple("lmntk.engine.kernel_phases", MOST_COLUMNS=chunk, COLUMNS_PER_ROW=1):
            sizes = KernelSizes(TRIAL, [[1]], columns, 1, batch_size=1, has_scratch=True)
            return make_schedule(sizes, Budget(2**50))

    assert of_tile(columns).chunk == min(chunk, 3)
    assert (of_tile(columns).peak - of_tile([]).peak) == most * MEBI


class Elsewhere(Mapping[str, Factors]):
    """Factors that are made when they are asked for, as those on disk are; says of how many parameters some are alive."""

    def __init__(self, count: int, alive: list[tuple[str, weakref.ref[torch.Tensor]]]) -> None:
        self.names, self.alive, self.most = [f"p{i}" for i in range(count)], alive, 0

    def __getitem__(self, name: str) -> Factors:
        made = (
            DenseFactors(torch.ones(1, 2, 3))
            if name in ("p0", "p3")
            else OuterFactors(torch.ones(2, 4, 3), torch.ones(1, 2, 4, 3))
        )
        self.alive += [(name, weakref.ref(tensor)) for tensor in made.tensors()]
        self.most = max(self.most, len({name for name, tensor in self.alive if tensor() is not None}))
        return made

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@pytest.mark.parametrize("formulas", [["sgd"], ["sgd", "asigngd"]])
@pytest.mark.parametrize(("fetched", "most"), [(False, 1), (True, STREAMED)])
def test_of_factors_that_live_elsewhere_as_many_parameters_are_held_as_a_plan_counts(formulas, fetched, most):
    """One that is read from disk; on a GPU the one at hand and the next."""
    alive: list[tuple[str, weakref.ref[torch.Tensor]]] = []
    batches = [Elsewhere(6, alive) for _ in range(3)]
    transfers = Transfers(torch.device("cpu"))
    rows = Panel(
        [Tangents(torch.zeros(2, 1), Fetched(batch, transfers) if fetched else batch) for batch in batches]
    )
    columns = Panel([Tangents(torch.zeros(2, 1), dict(Elsewhere(6, [])))])
    for other in (rows, columns):
        gram(rows, other, formulas)
        gc.collect()
    assert max(batch.most for batch in batches) == most


def test_the_check_of_the_captured_gradients_is_counted():
    """It is over before a plan is made, so that all a plan can do is to refuse a bound that it did not keep to."""
    texts, pairs = {"a": texts_of([3, 4])}, [("a", "a")]
    checked = replace(TRIAL, factors=0, checked=900 * MEBI, gpu_checked=3000 * MEBI)
    assert cut(texts, pairs, checked).peak == 900 * MEBI
    with pytest.raises(UserError, match="the least is 900MiB"):
        cut(texts, pairs, checked, memory=899 * MEBI)
    sizes = KernelSizes(checked, [[3, 4]], [], 4)
    assert make_schedule(sizes, Budget(2**40, 2**40)).gpu_peak == 3000 * MEBI
    with pytest.raises(UserError, match=r"device-memory: .* the least is 3000MiB"):
        make_schedule(sizes, Budget(2**40, 2999 * MEBI))


@LINUX
def test_what_the_check_holds_is_measured():
    class Wide(torch.nn.Module):
        outputs = 1

        def __init__(self):
            super().__init__()
            self.table, self.head = torch.nn.Embedding(9, 3000), torch.nn.Linear(3000, 3000)

        def forward(self, batch):
            return self.head(self.table(batch["input_ids"])).mean((1, 2))[:, None]

    model = Wide()
    gc.collect()
    return_freed()
    before = resident()
    capturer = Capturer(model, dict(model.named_parameters()), 0, texts_of([3, 4]), 2)
    one = model.head.weight.nbytes  # a gradient by autograd, and one from the factors, are held at once
    assert before < capturer.checked < before + 10 * one
    assert capturer.try_out().checked == capturer.checked
    assert (
        Capturer(model, dict(model.named_parameters()), 0, texts_of([3]), 2, capturer.coverage)
        .try_out()
        .checked
        == 0
    )


def test_kept_columns_are_counted_in_the_tiles_that_they_are_batched_in():
    lengths = (
        [8] * 15 + [512]
    ) * 5  # one long text makes a whole batch of its tile long; all five together are in one batch
    trial = replace(TRIAL, working=100 * MEBI)
    sizes = KernelSizes(trial, [[100] * 4], [lengths], 4, batch_size=8, has_scratch=True, keep_factors=True)
    found = make_schedule(sizes, Budget(8500 * MEBI))
    assert found.batch_size == 8 and found.chunk < 80
    written = sum(
        padded_tokens(lengths[start : start + found.chunk], found.batch_size)
        for start in range(0, 80, found.chunk)
    )
    assert found.disk == MEBI * (400 + written) and written > 1.5 * padded_tokens(lengths, found.batch_size)
