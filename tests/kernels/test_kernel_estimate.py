"""What a plan says: operations counted from shapes are those that are done, rates are kept, words are right."""

from __future__ import annotations

from collections import Counter
from itertools import product
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_oracle import pad_id, random_texts
from model_table import TABLE

from lmntk.engine import estimate as estimate_module
from lmntk.engine import rates as calibration
from lmntk.engine.cost import Operations, Shape, shapes_of
from lmntk.engine.cost import contraction as operations_of
from lmntk.engine.estimate import Estimate, shown_count, shown_time
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.phases import Trial
from lmntk.engine.plan import plan_kernels
from lmntk.engine.rates import Rates, measure_rates, rates_of
from lmntk.engine.schedule import Schedule
from lmntk.engine.settings import Settings
from lmntk.errors import UserError
from lmntk.kernels import contraction, materialised
from lmntk.kernels import inner as inner_module
from lmntk.kernels.formulas import SIGNS, kernel_names
from lmntk.kernels.gram import Panel, gram
from lmntk.prompts.encoding import EncodedText
from lmntk.system.kept import read_record, write_record
from lmntk.tangents.factors import DenseFactors, OuterFactors, Tangents


def panel(batches, tokens, i, o, c):
    found = []
    for count, terms in zip(batches, tokens, strict=True):
        factors = {
            "w": OuterFactors(torch.randn(count, terms, i), torch.randn(c, count, terms, o)),
            "b": DenseFactors(torch.randn(c, count, o)),
        }
        found.append(Tangents(torch.zeros(count, c), factors))
    return Panel(found)


def counted(rows, columns, formulas, c):
    """Returns the operations that are done: every product is counted as it is done, beside what the shapes say."""
    done: Counter[str] = Counter()

    def making(factors, block, out):
        t = factors.inputs.shape[1] if isinstance(factors, OuterFactors) else 0
        done["making"] += 2 * t * out.numel()
        return materialise[type(factors)](factors, block, out)

    def products(rows, columns, names):
        for name in names:
            kind = "sign_products" if SIGNS[name] == (True, True) else "products"
            done[kind] += 2 * len(rows) * len(columns) * rows.values.shape[1]
        return tile_products(rows, columns, names)

    def inner(rows, columns, names, shared):
        (r, i), (s, _) = rows.inputs.shape, columns.inputs.shape
        done["inner"] += (
            len(names)
            * 2
            * r
            * s
            * (i + c * c * (rows.output_gradients.shape[-1] + contraction.MEMORY_BOUND_FACTOR))
        )
        return by_inner(rows, columns, names, shared)

    materialise = {kind: kind.materialise for kind in (OuterFactors, DenseFactors)}
    tile_products, by_inner = materialised.tile_products, inner_module.inner
    with (
        patch.object(OuterFactors, "materialise", making),
        patch.object(DenseFactors, "materialise", making),
        patch.object(materialised, "tile_products", products),
        patch.object(inner_module, "inner", inner),
    ):
        gram(rows, columns, formulas)
    return done


@pytest.mark.parametrize("formulas", [["sgd"], ["signgd"], ["sgd", "signgd", "asigngd"]])
@pytest.mark.parametrize("tokens", [1, 2, 30])
@pytest.mark.parametrize("c", [1, 3])
def test_operations_are_those_that_are_done(formulas, tokens, c):
    rows, columns = panel([4, 3], [tokens] * 2, 12, 8, c), panel([5, 5, 1], [tokens] * 3, 12, 8, c)
    done = counted(rows, columns, formulas, c)
    shapes = shapes_of(rows.batches[0], tokens)
    assert shapes == [Shape(tokens, 12, 8, tokens), Shape(0, 8, 1, tokens)]
    expected = operations_of(
        shapes,
        [(4, tokens), (3, tokens)],
        [(5, tokens), (5, tokens), (1, tokens)],
        c,
        kernel_names(formulas),
        1,
    )
    assert expected.products == done["products"]
    assert expected.sign_products == done["sign_products"]
    assert expected.inner == pytest.approx(done["inner"])
    assert expected.making == pytest.approx(
        done["making"], rel=0.15
    )  # a bias has nothing to make; the last chunk may be its own


@pytest.mark.parametrize("c", [1, 3])
def test_short_texts_go_one_way_and_long_ones_the_other(c):
    """By the inner contraction and materialised, of one weight; and both are counted."""
    sizes = [(5, 2), (4, 3), (5, 40), (1, 60)]
    rows, columns = panel([4, 3], [10, 10], 48, 40, c), panel(*zip(*sizes, strict=True), 48, 40, c)
    done = counted(rows, columns, ["sgd"], c)
    expected = operations_of(shapes_of(rows.batches[0], 10), [(4, 10), (3, 10)], sizes, c, ["sgd"], 1)
    assert (
        done["inner"] == pytest.approx(expected.inner)
        and done["products"] == expected.products
        and expected.making > 0
    )
    assert expected.inner == 2 * 70 * (5 * 2 + 4 * 3) * (48 + c * c * (40 + contraction.MEMORY_BOUND_FACTOR))
    assert expected.products == 2 * c * c * 7 * (
        6 * 48 * 40 + 15 * 40
    )  # the bias's, which has no terms, is made of all


@given(
    rows=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=3),
    columns=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=6),
    sizes=st.tuples(st.sampled_from([8, 64, 768]), st.sampled_from([8, 64, 3072]), st.integers(1, 3)),
)
def test_no_other_choice_of_columns_is_cheaper(rows, columns, sizes):
    i, o, c = sizes

    def cost(chosen):
        gradient, terms = 2 * c * i * o / contraction.TILE_RATE, sum(count * uses for count, uses in rows)
        found = 0.0 if all(chosen) else gradient * terms
        for inner, (count, uses) in zip(chosen, columns, strict=True):
            contracted = 2 * terms * count * uses * (i + c * c * o + contraction.MEMORY_BOUND_FACTOR * c * c)
            found += contracted if inner else gradient * count * (uses + c * sum(texts for texts, _ in rows))
        return found

    best = min(cost(chosen) for chosen in product([True, False], repeat=len(columns)))
    assert cost(contraction.inner_columns(rows, columns, i, o, c)) == pytest.approx(best)


def test_rates_are_measured_once_a_machine(tmp_path):
    kept, device = tmp_path / "machine.json", torch.device("cpu")
    found = rates_of(device, kept)
    assert min(found.making, found.products, found.sign_products, found.inner, found.signed) > 1e6
    with patch.object(calibration, "measure_rates", lambda device: pytest.fail("measured again")):
        assert rates_of(device, kept) == found
    for other in ({}, {**read_record(kept), "machine": "another"}, {**read_record(kept), "inner": -1.0}):
        write_record(kept, other)
        with patch.object(calibration, "measure_rates", lambda device: Rates(1, 1, 1, 1, 1, "new")):
            assert rates_of(device, kept) == Rates(1, 1, 1, 1, 1, found.machine)
    assert measure_rates(device).machine == found.machine


@pytest.mark.parametrize(
    ("precision", "products"), [("float32", ""), ("tf32", ", tf32"), ("bfloat16", ", tf32")]
)
def test_rates_of_a_gpu_are_those_of_its_matrix_products(monkeypatch, precision, products):
    """In bfloat16 the texts are captured; what is measured here, the Gram matrices, is tf32's."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    name = calibration.machine_name(torch.device("cuda"), precision)
    assert name == f"a card, torch {torch.__version__}{products}"


def test_times_add_up():
    rates = Rates(making=10, products=5, sign_products=2, inner=1, signed=4, machine="")
    assert rates.seconds(Operations(10, 10, 10, 10, 10)) == pytest.approx(1 + 2 + 5 + 10 + 2.5)


@pytest.mark.parametrize(
    "name", ["bert", "llama", "t5", "mixtral", "bert-lora-at-start", "deberta-shared-keys"]
)
def test_a_plan_of_every_kind(tmp_path, name):
    row = TABLE[name]
    model = row.model(2).float()
    texts = {"train": random_texts(row, [5, 4, 6], 0), "eval": random_texts(row, [5, 4, 6, 3], 1)}
    work = KernelWork(
        model,
        texts,
        [("train", "eval"), ("train", "train")],
        ["sgd", "asigngd"],
        row.parameters.select(model),
        pad_id(model),
    )
    found = plan_kernels(work, Settings(rates=tmp_path / "machine.json"))
    assert (found.texts, found.pairs, found.disk) == (7, 21, 0)
    assert 0 < found.seconds < 60
    assert found.capture_operations > 0
    assert found.contraction_operations > 0
    assert "7 texts, 21 pairs" in found.describe()
    both = found + found
    assert (both.texts, both.peak) == (14, found.peak)
    with pytest.raises(UserError, match="the least is"):
        plan_kernels(work, Settings(memory=2**20))
    assert [path.name for path in tmp_path.iterdir()] == ["machine.json"]


def test_figures_as_people_read_them():
    assert [shown_time(s) for s in (0.2, 40, 120, 7000, 400_000)] == [
        "1 s",
        "40 s",
        "2 min",
        "1.9 h",
        "5 days",
    ]
    assert [shown_count(n) for n in (5e5, 3e9, 2.5e12, 1e15, 1e19)] == [
        "0.5 M",
        "3.0 G",
        "2.5 T",
        "1.0 P",
        "10.0 E",
    ]


def test_estimates_add_up():
    """Work that comes one after the other: bytes are held at a time, all else is summed."""
    first, second = (
        Estimate(1, 2, 3.0, 4.0, 5.0, 6, 70, 8.0, 10, 11),
        Estimate(10, 20, 30, 40, 50, 60, 7, 80, 1, 1),
    )
    assert first + second == Estimate(11, 22, 33, 44, 55, 60, 70, 88, 10, 11)
    assert second + first == first + second


ROWS, COLUMNS = (
    [(2, 4), (1, 4)],
    [(2, 5), (2, 5), (1, 5)],
)  # batches of 3 texts of 4 tokens, and of 5 texts of 5


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_an_estimate_by_hand(monkeypatch, copies, precision):
    """A batch of two texts of 5 tokens takes 2 s; all else is counted at an operation a second."""
    texts = {"a": [EncodedText((1,) * 4, 0, None)] * 3, "b": [EncodedText((1,) * 5, 0, None)] * 5}
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 6))
    work = KernelWork(model, texts, [("a", "b")], ["signgd"], dict(model.named_parameters()), 0)
    batch = panel([2], [5], 4, 6, 2).batches
    capturer = SimpleNamespace(
        batches=lambda part: [list(range(k, min(k + 2, len(part)))) for k in range(0, len(part), 2)],
        coverage=SimpleNamespace(batched=True), of_batch=lambda few: batch, device=torch.device("cpu"), precision=precision, model=model,
    )  # fmt: skip
    trial = Trial(tokens=10, longest=5, factors=1000, largest=0, working=0, resident=0, outputs=2)
    schedule = Schedule(2, True, 2, peak=77, disk=5 * 10**8, gpu_peak=78, loss_texts=2)
    ticks = iter([10.0, 12.0])
    monkeypatch.setattr(estimate_module.time, "perf_counter", lambda: next(ticks))
    settings = SimpleNamespace(copies=copies, drop_noise=True)
    found = estimate_module.estimate(work, settings, capturer, trial, schedule, Rates(1, 1, 1, 1, 1, ""))
    shapes, names = [Shape(5, 4, 6, 5), Shape(0, 6, 1, 5)], ["signgd"]
    contracted = operations_of(shapes, ROWS, COLUMNS, 2, names, 3)  # five columns in chunks of two
    few = operations_of(shapes, [(2, 4)], [(2, 4)], 2, names, 1, own=True)
    few = few + few if precision == "tf32" else Operations()
    again = (
        2 * 8 + 12 if precision == "tf32" else 0
    )  # two texts in both precisions, and all rows once more in full
    assert (found.texts, found.pairs, found.copies) == (8, 15, copies)
    assert (found.peak, found.disk, found.gpu_peak) == (77, 5 * 10**8, 78)
    assert found.factor_bytes == 100 * (12 + 25)
    assert found.capture_operations == 2 * 3 * 24 * (12 + 25 + again)
    assert found.contraction_operations == contracted.total + few.total
    seconds = 2 * (12 + 25 / copies + again) / 10 + 3 * 0.5  # 500 MB are read for each tile, a GB a second
    arithmetic = sum(contracted.as_tuple()) / copies + sum(few.as_tuple())
    assert found.seconds == pytest.approx(seconds + arithmetic, rel=1e-13)


@pytest.mark.parametrize(
    ("counted", "backward"),
    [
        ("0.weight", 12 + 24 + 6 + 8),
        ("1.weight", 12 + 24 + 6 + 8),
        ("2.weight", 24 + 6 + 8),
        ("2.bias", 6 + 8),
        ("4.bias", 8),
    ],
)
def test_a_backward_pass_is_counted_down_to_the_lowest_parameter_that_counts(counted, backward):
    layers = [torch.nn.Linear(3, 4), torch.nn.Linear(4, 6), torch.nn.Linear(6, 1), torch.nn.Linear(1, 8)]
    model = torch.nn.Sequential(torch.nn.Embedding(9, 3), *layers)
    parameters = dict(model.named_parameters())
    chosen = {name: parameters[name] for name in (counted, "4.weight")}
    found = estimate_module.pass_operations(model, chosen, 3)
    assert found == 2 * (12 + 24 + 6 + 8 + 3 * backward)


def test_rates_are_operations_over_seconds():
    """Half a second each; blocks of 128 x 128 coordinates, of 64 texts of 40 tokens, against 128 texts."""
    with patch.object(calibration, "_seconds", lambda body, device: (body(), 0.5)[1]):
        found = measure_rates(torch.device("cpu"))
    product = 2 * 2 * 64 * 128 * 128**2
    assert (found.making, found.products, found.sign_products) == (2 * 2 * 64 * 40 * 128**2, product, product)
    assert (found.inner, found.signed) == (2 * 2 * 64 * 128 * 2 * 768, 2 * 64 * 128**2)


def test_a_rate_is_the_median_of_five_after_a_first_that_does_not_count(monkeypatch):
    taken, now, calls = iter([100, 5, 1, 4, 2, 3]), [0.0], []

    def body():
        calls.append(next(taken))
        now[0] += calls[-1]

    monkeypatch.setattr(calibration.time, "perf_counter", lambda: now[0])
    assert calibration._seconds(body, torch.device("cpu")) == 3 and len(calls) == 6
