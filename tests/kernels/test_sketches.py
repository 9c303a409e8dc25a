"""IntrinsicDimension's kernels: right in the mean, spread as theory says, beside dense Gaussian and Rademacher maps."""

from __future__ import annotations

import math

import pytest
import torch
from model_oracle import kernel_of, pad_id, random_texts
from model_table import TABLE

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.sketched import PROBES, sketch_kernels, sketch_within
from lmntk.engine.stream import stream_kernels
from lmntk.errors import UserError
from lmntk.kernels.gram import Panel, gram
from lmntk.kernels.sketches import Sketch, bars, entry_sd, hadamard
from lmntk.tangents.factors import DenseFactors, OuterFactors, RowFactors, StackedFactors, Tangents

KINDS = ("sparse", "fastfood", "kronecker")


def draw(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def tangents(n=4, c=2, seed=0):
    """A batch with factors of every form, whose gradients are alike in part."""
    generator = torch.Generator().manual_seed(seed)

    def outer(t, i, o):
        inputs = draw(generator, 1, t, i) + draw(generator, n, t, i)
        return OuterFactors(inputs, draw(generator, c, 1, t, o) + draw(generator, c, n, t, o))

    ids = torch.stack([torch.randperm(6, generator=generator)[:3] for _ in range(n)])
    factors = {
        "weight": outer(5, 40, 30),
        "table": RowFactors(ids, draw(generator, c, n, 3, 20)),
        "bias": DenseFactors(draw(generator, c, n, 50)),
        "experts": StackedFactors((outer(2, 9, 7), None)),
    }
    return Tangents(torch.zeros(n, c), factors)


SHAPES = {"weight": (30, 40), "table": (6, 20), "bias": (50,), "experts": (2, 7, 9)}


def flat(batch):
    parts = [f.gradients(torch.Size(SHAPES[name])).flatten(2) for name, f in batch.factors.items()]
    return torch.cat(parts, 2).transpose(0, 1)


@pytest.mark.parametrize("kind", [*KINDS, "gaussian", "rademacher"])
def test_the_mean_over_draws_is_the_kernel_and_the_spread_is_theorys(kind):
    """Of dense maps, which are the oracles, and of those that are never built; of a two-sided one the spread is larger."""
    batch, dimension, draws = tangents(), 64, 80
    gradients = flat(batch)
    exact = kernel_of("sgd", gradients, gradients)
    found = []
    for seed in range(draws):
        if kind in KINDS:
            features = Sketch(kind, dimension, seed).features(batch)
        else:
            generator = torch.Generator().manual_seed(seed)
            dense = draw(generator, gradients.shape[-1], dimension)
            features = gradients @ (dense if kind == "gaussian" else dense.sign()) / math.sqrt(dimension)
        found.append(kernel_of("sgd", features, features))
    values = torch.stack(found)
    norms = exact.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1)
    sd = entry_sd(exact, norms, norms, dimension)
    spread = (values - exact).square().mean(0).sqrt()
    bias = (values.mean(0) - exact).abs() / (spread / math.sqrt(draws))
    assert float(bias.max()) < 4.5
    ratio = float((spread / sd).mean())
    assert 0.85 < ratio < (1.1 if kind != "kronecker" else 3)


@pytest.mark.parametrize("kind", KINDS)
def test_features_do_not_depend_on_the_batch_and_are_the_seeds(kind):
    batch = tangents()
    whole = Sketch(kind, 48, 3).features(batch)
    assert whole.shape == (4, 2, 48)
    for index in range(4):
        one = Tangents(
            batch.logits[index : index + 1], {n: f.of_example(index) for n, f in batch.factors.items()}
        )
        torch.testing.assert_close(Sketch(kind, 48, 3).features(one)[0], whole[index], rtol=1e-12, atol=1e-12)
    assert not torch.equal(Sketch(kind, 48, 4).features(batch), whole)


def test_a_two_sided_sketch_is_that_of_the_built_gradient():
    """E <L g1 R, L g2 R> = <g1, g2>, and L G R is what the factors make."""
    batch = tangents()
    only = Tangents(batch.logits, {"weight": batch.factors["weight"]})
    identity = torch.eye(40, dtype=torch.float64)
    built = batch.factors["weight"].gradients(torch.Size((30, 40)))
    dense = OuterFactors(identity.expand(4, -1, -1), built.transpose(2, 3).contiguous())
    sketch = Sketch("kronecker", 35)
    assert sketch.sides == (5, 7)
    torch.testing.assert_close(
        sketch.features(only),
        sketch.features(Tangents(batch.logits, {"weight": dense})),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_error_bars_cover_and_are_no_wider_than_they_must_be(kind):
    """19 of 20 entries whose texts are no probes, over draws and texts; the median bar is at most three times the median error."""
    texts, dimension = 4 * PROBES, 400
    probes = torch.linspace(0, texts - 1, PROBES).round().long()
    covered, widths, errors = [], [], []
    free = torch.tensor(sorted(set(range(texts)) - set(probes.tolist())))
    first, second = free[torch.triu_indices(len(free), len(free))]
    for seed in range(32):
        batch = tangents(n=texts, c=1, seed=seed % 4)
        exact = gram(Panel([batch]), Panel([batch]), ["sgd"])["sgd"]["all"]
        features = Sketch(kind, dimension, seed).features(batch)
        values = kernel_of("sgd", features, features)
        norms = features.square().sum(2)
        known = exact[probes][:, :, probes]
        found = bars(values, entry_sd(values, norms, norms, dimension), (probes, probes), known)
        error, width = (each[first, 0, second, 0] for each in ((values - exact).abs(), found))
        covered.append((error <= width).double())
        widths.append(width)
        errors.append(error)
    assert float(torch.cat(covered).mean()) >= 0.95
    assert float(torch.cat(widths).median()) <= 3 * float(torch.cat(errors).median())


def test_hadamards_matrix():
    matrix = hadamard(torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix.T, 8 * torch.eye(8, dtype=torch.float64))
    assert set(matrix.flatten().tolist()) == {1.0, -1.0}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (("dense", 4), "no 'dense' is known; give one of sparse, fastfood, kronecker"),
        (("sparse", 0), "dimension is 0"),
    ],
)
def test_what_is_no_sketch(wanted, message):
    with pytest.raises(UserError, match=f"^sketch: .*{message}"):
        Sketch(*wanted)


def test_kernels_of_texts_lie_within_their_bars():
    row = TABLE["bert"]
    model = row.model(2)
    texts = {"a": random_texts(row, [5, 4, 6, 7], 0), "c": random_texts(row, [3, 7, 5, 6, 4], 1)}
    pairs = [("a", "a"), ("a", "c")]
    work = KernelWork(model, texts, pairs, ["sgd", "signgd"], row.parameters.select(model), pad_id(model))
    exact = stream_kernels(work).kernels
    for kind in KINDS:
        found = sketch_kernels(work, Sketch(kind, 1024))
        for pair in pairs:
            within = (found.kernels[pair]["sgd"] - exact[pair]["sgd"]["all"]).abs() <= found.bars[pair]
            assert float(within.double().mean()) >= 0.9, (kind, pair)
        assert float(found.kernels["a", "a"]["signgd"].diagonal(dim1=0, dim2=2).max()) <= 1024
    with pytest.raises(UserError, match=r"^memory: .* is too little for 9 texts of 1024 features"):
        sketch_kernels(work, Sketch("sparse", 1024), Settings(memory=2**10))


def work_of(lengths):
    """Kernels of random texts on a small model."""
    row = TABLE["bert"]
    model, texts = row.model(2), random_texts(row, lengths, 0)
    return KernelWork(model, {"a": texts}, [("a", "a")], ["sgd"], row.parameters.select(model), pad_id(model))


@pytest.mark.parametrize(("kind", "tolerance"), [("sparse", 0.15), ("kronecker", 0.3)])
def test_a_tolerance_picks_the_dimension_that_reaches_it(kind, tolerance):
    work = work_of([5, 4, 6, 7, 3, 8])
    exact = stream_kernels(work).kernels["a", "a"]["sgd"]["all"]
    sketch = sketch_within(work, kind, tolerance, seed=100)
    errors = []
    for seed in range(4):  # other draws than those that picked it
        found = sketch_kernels(work, Sketch(kind, sketch.dimension, seed)).kernels["a", "a"]["sgd"]
        errors.append(float((found - exact).norm() / exact.norm()))
    assert 0.5 * tolerance < math.sqrt(sum(e**2 for e in errors) / 4) < 1.6 * tolerance


def test_a_tolerance_out_of_reach_says_what_is_reached():
    work = work_of([5, 4, 6])
    with pytest.raises(
        UserError, match=r"tolerance: 1e-07 needs .* features of each text.*, which reach .*give that"
    ):
        sketch_within(work, "sparse", 1e-7)
    with pytest.raises(UserError, match="tolerance: 2 is not a share"):
        sketch_within(work, "sparse", 2)
    with pytest.raises(UserError, match="take sparse or kronecker"):
        sketch_within(work, "fastfood", 0.1)
