"""Candidates' kernels against autograd through peft's layers, against theory, and against themselves cut otherwise."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from unittest.mock import patch

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_oracle import kernel_of, pad_id, plain_logits, random_texts, relative_distance
from model_table import TABLE
from resumable_work import FORMULAS

from lmntk.engine import plan as planning
from lmntk.engine.batches import Capturer
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.plan import plan_kernels
from lmntk.engine.schedule import Schedule
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.errors import UserError
from lmntk.kernels.formulas import kernel_names
from lmntk.kernels.gram import Panel, gram
from lmntk.kernels.grid import lora_candidates, part_candidates, plain_candidates
from lmntk.kernels.lora import Draw, Draws, LoraStart
from lmntk.kernels.subspaces import Candidate, Subspaces
from lmntk.models.parts import parts_of
from lmntk.prompts.batching import collate
from lmntk.system.executors.local import Local
from lmntk.system.executors.threads import Devices
from lmntk.tangents.capture import capture
from lmntk.tangents.factors import OuterFactors, RowFactors, StackedFactors, Tangents

RANKS = (1, 2, 3)
STARTS = [LoraStart(), LoraStart("kaiming", "alpha/r", 4.0), LoraStart("gaussian-peft", "alpha/sqrt(r)", 2.0)]


def streamed(model, row, candidates, formulas=FORMULAS, pairs=(("a", "a"), ("a", "c")), how=None, key=""):
    texts = {"a": random_texts(row, [5, 4, 6], 0), "c": random_texts(row, [3, 7, 5, 6], 1)}
    trainable = row.parameters.select(model)
    work = KernelWork(
        model, texts, list(pairs), formulas, trainable, pad_id(model), Subspaces(tuple(candidates))
    )
    return texts, stream_kernels(work, how, key=key)


def peft_jacobian(model, texts, candidate):
    """The gradients [n, c, p] of B at LoRA's start, with our A in peft's layers, one text and logit at a time."""
    adapted = copy.deepcopy(model)
    modules = [name.removesuffix(".weight").removeprefix("network.") for name in candidate.parameters]
    start, draw = candidate.start, Draw(candidate.seed, candidate.start.init)
    config = peft.LoraConfig(
        r=candidate.rank,
        lora_alpha=candidate.rank if start.scaling == "one" else start.alpha,
        target_modules=modules,
        use_rslora=start.scaling == "alpha/sqrt(r)",
        fan_in_fan_out=any("c_attn" in name for name in modules),
    )
    peft.tuners.lora.LoraModel(adapted.network, {"default": config}, "default")
    layers = dict(adapted.network.named_modules())
    trained = []
    for name, module in zip(candidate.parameters, modules, strict=True):
        a, b = (getattr(layers[module], f"lora_{part}")["default"].weight for part in "AB")
        drawn = draw.matrix(name, candidate.rank, a.shape[1]) * start.size(candidate.rank)
        a.data = drawn.to(next(model.parameters()).dtype)
        b.data = torch.zeros_like(b, dtype=a.dtype)
        trained.append(b)
    features = []
    for text in texts:
        logits = plain_logits(adapted, collate([text], pad_id(model)))
        rows = [torch.autograd.grad(logit, trained, retain_graph=True) for logit in logits]
        features.append(torch.stack([torch.cat([g.flatten() for g in each]) for each in rows]))
    return torch.stack(features).double()


@pytest.mark.parametrize(
    ("name", "target", "start", "dtype"),
    [
        ("bert", "query+value", STARTS[0], torch.float64),
        ("bert", "all-linear", STARTS[1], torch.float64),
        ("gpt2", "attention", STARTS[2], torch.float64),
        ("opt", "mlp", STARTS[0], torch.float64),
        ("bert", "all-linear", STARTS[0], torch.float32),
        ("gpt2", "mlp", STARTS[1], torch.float32),
        ("llama", "all-linear", STARTS[2], torch.float32),
    ],
)
def test_kernels_are_those_of_autograd_through_peft(name, target, start, dtype):
    """Sgd to 1e-10 in float64 and 1e-6 in float32; votes of the sign formulas all the same."""
    row = TABLE[name]
    model = row.model(2, dtype=dtype)
    candidates = lora_candidates(parts_of(model), [target], RANKS, [4], start)
    texts, found = streamed(model, row, candidates)
    for candidate in candidates:
        rows, columns = (peft_jacobian(model, texts[group], candidate) for group in "ac")
        kernels = found.subspaces["a", "c"][candidate.name]
        tolerance = 1e-10 if dtype == torch.float64 else 1e-6
        assert relative_distance(kernels["sgd"], kernel_of("sgd", rows, columns)) < tolerance
        assert relative_distance(kernels["asigngd"], kernel_of("asigngd", rows, columns)) < 10 * tolerance
        assert torch.equal(kernels["signgd"].double(), kernel_of("signgd", rows, columns))
        own = found.subspaces["a", "a"][candidate.name]["sgd"]
        assert relative_distance(own, kernel_of("sgd", rows, rows)) < tolerance


def test_the_signs_of_float32_are_those_of_float64():
    """At most one in 100,000 votes differs from those of autograd through peft."""
    row = TABLE["bert"]
    model = row.model(2, dtype=torch.float64)
    (candidate,) = lora_candidates(parts_of(model), ["all-linear"], [8])
    texts = random_texts(row, [*range(3, 14), *range(3, 14)], 0)
    full = peft_jacobian(model, texts, candidate)
    single = copy.deepcopy(model).float()
    weights = {name: dict(single.named_parameters())[name] for name in candidate.parameters}
    captured = capture(single, collate(texts, pad_id(model)), weights)
    found = []
    for name, weight in weights.items():
        projected = Draws([(Draw(), 8)]).projected(name, captured.factors[name])
        found.append(projected.gradients(torch.Size((len(weight), 8))).flatten(2).transpose(0, 1))
    votes = torch.cat(found, 2).sign()
    assert votes.numel() > 30_000
    assert int((votes != full.sign()).sum()) <= 1e-5 * votes.numel()


def test_sets_of_parameters_have_the_kernels_of_their_own_work():
    row = TABLE["bert"]
    model = row.model(2)
    parts = parts_of(model)
    candidates = plain_candidates(parts, ["query+value", "biases", "norms", "top-1", "all"])
    texts, found = streamed(model, row, [*candidates, *part_candidates(parts)])
    parameters = dict(model.named_parameters())
    for candidate in candidates:
        alone = stream_kernels(
            KernelWork(
                model,
                texts,
                [("a", "c")],
                FORMULAS,
                {name: parameters[name] for name in candidate.parameters},
                pad_id(model),
            )
        )
        for name, groups in alone.kernels["a", "c"].items():
            torch.testing.assert_close(
                found.subspaces["a", "c"][candidate.name][name], groups["all"], rtol=1e-12, atol=1e-12
            )
    for prefix in ("layer: ", "type: "):
        shares = [k["sgd"] for name, k in found.subspaces["a", "c"].items() if name.startswith(prefix)]
        torch.testing.assert_close(sum(shares), found.kernels["a", "c"]["sgd"]["all"], rtol=1e-12, atol=1e-12)
    assert set(found.kernels["a", "c"]["sgd"]) == {"all"}


def outer(gradients):
    """Factors of given gradients (c, n, o, i): as many terms as inputs."""
    inputs = torch.eye(gradients.shape[-1], dtype=gradients.dtype).expand(gradients.shape[1], -1, -1)
    return OuterFactors(inputs.contiguous(), gradients.transpose(2, 3).contiguous())


def panel(gradients):
    return Panel([Tangents(torch.zeros(gradients.shape[1], gradients.shape[0]), {"w": outer(gradients)})])


def correlated(outputs, inputs, correlation, seed=0):
    """Two gradients (1, 1, o, i) whose entries have this correlation."""
    generator = torch.Generator().manual_seed(seed)
    first, noise = torch.randn(2, 1, 1, outputs, inputs, generator=generator, dtype=torch.float64)
    return first, correlation * first + math.sqrt(1 - correlation**2) * noise


def test_the_mean_over_draws_is_the_kernel_and_the_spread_falls_with_the_rank():
    """On 300 x 200 with correlation .7 an entry's relative sd is .146 at rank 1, .050 at 8, .018 at 64, .009 at 256."""
    left, right = correlated(300, 200, 0.7)
    product = left[0, 0].T @ right[0, 0]
    exact = float(product.trace())
    theory = math.sqrt(float((product**2).sum() + (product * product.T).sum())) / exact
    ranks, draws = {1: 0.146, 8: 0.050, 64: 0.018, 256: 0.009}, 100
    candidates = [Candidate(f"{r} {s}", ("w",), r, s) for r in ranks for s in range(draws)]
    subspaces = Subspaces(tuple(candidates))
    _, found = subspaces.split(gram(panel(left), panel(right), ["sgd"], lambda _: None, subspaces=subspaces))
    for rank, expected in ranks.items():
        values = torch.stack([found[f"{rank} {seed}"]["sgd"].squeeze() for seed in range(draws)]) / exact
        error = float(values.std()) / math.sqrt(2 * draws)
        assert float(values.std()) == pytest.approx(expected, abs=4 * error + 0.001)
        assert float(values.std()) == pytest.approx(theory / math.sqrt(rank), abs=4 * error)
        assert float(values.mean()) == pytest.approx(1, abs=4 * float(values.std()) / math.sqrt(draws))


def test_over_draws_the_sign_formulas_tend_to_what_theory_says():
    """A column's signs: sum_o (2/pi) arcsin rho_o, and sigma sqrt(2/pi) sum_o <G_o, G'_o> / ||G_o|| with G_o's sign."""
    left, right = correlated(5, 7, 0.6)
    rank = 40_000
    subspaces = Subspaces((Candidate("lora", ("w",), rank),))
    blocks = gram(panel(left), panel(right), ["signgd", "asigngd"], lambda _: None, subspaces=subspaces)
    found = {name: float(values) / rank for name, values in subspaces.split(blocks)[1]["lora"].items()}
    rows, columns = left[0, 0], right[0, 0]
    dots, row_norms, column_norms = (rows * columns).sum(1), rows.norm(dim=1), columns.norm(dim=1)
    sigma = 1 / math.sqrt(rank)
    votes = float((2 / math.pi * torch.asin(dots / row_norms / column_norms)).sum())
    # five standard deviations: an output's vote has one of 1 at most, its product of its column's norm
    assert found["signgd"] == pytest.approx(votes, abs=5 * math.sqrt(5 * 5 / rank))
    for name, norms, others in (
        ("asigngd", row_norms, column_norms),
        ("asigngd_flipped", column_norms, row_norms),
    ):
        expected = sigma * math.sqrt(2 / math.pi) * float((dots / norms).sum())
        assert found[name] == pytest.approx(expected, abs=5 * sigma * float(others.sum()) / math.sqrt(rank))


SIZES = st.integers(1, 5)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(SIZES, SIZES, SIZES, SIZES, SIZES, SIZES),
    ranks=st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 3),
    tile_bytes=st.sampled_from([64, 1024, 2**24]),
    kind=st.sampled_from(["outer", "one term", "rows", "stacked"]),
)
def test_any_shape_rank_seed_and_tiling_gives_the_kernel_of_projected_gradients(
    sizes, ranks, seed, tile_bytes, kind
):
    n, m, c, t, i, o = sizes
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def factors(count):
        if kind == "rows":
            return RowFactors(
                torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(count)]),
                draw(c, count, 2, i),
            )
        terms = 1 if kind == "one term" else t
        part = OuterFactors(draw(count, terms, i), draw(c, count, terms, o))
        return StackedFactors((None, part)) if kind == "stacked" else part

    sides = [Panel([Tangents(draw(count, c), {"w": factors(count)})]) for count in (n, m)]
    subspaces = Subspaces(
        (
            *tuple(Candidate(f"{r}-{s}", ("w",), r, s) for r in ranks for s in (seed, 9)),
            Candidate("w", ("w",)),
        )
    )
    full = {"rows": (4, i), "stacked": (2, o, i)}.get(kind, (o, i))
    name = "w 1" if kind == "stacked" else "w"
    gradients = [p.batches[0].factors["w"].gradients(torch.Size(full)).transpose(0, 1) for p in sides]
    for columns, others in ((sides[1], gradients[1]), (sides[0], gradients[0])):
        blocks = gram(sides[0], columns, FORMULAS, lambda _: None, tile_bytes, subspaces)
        _, found = subspaces.split(blocks)
        for candidate in subspaces.candidates:
            projected = (gradients[0], others)
            if candidate.rank is not None:
                a = Draw(candidate.seed).matrix(name, candidate.rank, i).T / math.sqrt(candidate.rank)
                projected = (gradients[0] @ a, others @ a)
            flat = [each.flatten(2) for each in projected]
            for kernel in kernel_names(FORMULAS):
                expected = kernel_of(kernel, *flat)
                torch.testing.assert_close(found[candidate.name][kernel], expected, rtol=1e-10, atol=1e-10)


class Elsewhere:
    """Does jobs as another process does."""

    def run(self, make_worker, jobs):
        # what was pickled a moment ago, as executors hand work to their processes
        return Local().run(pickle.loads(pickle.dumps(make_worker)), jobs)


def test_workers_and_earlier_tiles_give_the_same_bits(tmp_path):
    row = TABLE["bert"]
    model = row.model(2).float()
    parts = parts_of(model)
    candidates = [
        *lora_candidates(parts, ["query+value", "all-linear"], RANKS, [0, 1]),
        *part_candidates(parts),
    ]
    first = None
    with patch.object(planning, "make_schedule", lambda *a, **k: Schedule(2, False, 2, 0, 0)):
        for how, key in (
            (Settings(), ""),
            (Settings(executor=Elsewhere()), ""),
            (Settings(executor=Devices((torch.device("cpu"), torch.device("cpu")))), ""),
            (Settings(scratch=tmp_path), "k" * 32),
            (Settings(scratch=tmp_path), "k" * 32),  # of the tiles on disk
        ):
            with patch.object(planning, "_unfit", lambda *a: None):
                _, found = streamed(model, row, candidates, how=how, key=key)
            first = first or found
            for pair, kernels in first.subspaces.items():
                for candidate, by_name in kernels.items():
                    for name, values in by_name.items():
                        assert torch.equal(found.subspaces[pair][candidate][name], values)


def test_a_candidate_does_not_depend_on_what_else_is_computed():
    row = TABLE["bert"]
    model = row.model(2)
    parts = parts_of(model)
    grid = lora_candidates(parts, ["query+value", "attention"], [1, 4], [0, 1])
    _, together = streamed(model, row, [*grid, *plain_candidates(parts, ["mlp"])])
    for candidate in grid[::3]:
        _, alone = streamed(model, row, [candidate])
        for name, values in alone.subspaces["a", "c"][candidate.name].items():
            torch.testing.assert_close(
                together.subspaces["a", "c"][candidate.name][name], values, rtol=1e-12, atol=1e-12
            )


def test_the_plan_counts_the_sums_and_the_projected_inputs():
    row = TABLE["bert"]
    model = row.model(2)
    candidates = lora_candidates(parts_of(model), ["attention"], [1, 8], range(5))
    texts = {"a": random_texts(row, [5] * 160, 0)}
    work = KernelWork(model, texts, [("a", "a")], ["sgd"], row.parameters.select(model), pad_id(model))
    many = replace(work, subspaces=Subspaces(tuple(candidates)))
    trial = []

    def tried_once(capturer, try_out=Capturer.try_out):  # what else the process holds would be measured twice
        trial[:] = trial or [replace(try_out(capturer), checked=0)]  # the start-up check holds more here
        return trial[0]

    with (
        patch.object(Capturer, "try_out", tried_once),
        patch.object(Capturer, "held_now", lambda _, tried: tried),
    ):
        plain, counted = plan_kernels(work), plan_kernels(many)
    sums = 10 * 2 * 8 * 160 * 160 * 2 * 2
    assert counted.peak - plain.peak >= sums
    assert counted.contraction_operations > 1.2 * plain.contraction_operations
    with pytest.raises(UserError, match=r"^memory: "):
        plan_kernels(many, Settings(memory=plain.peak // 2))


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([Candidate("x", ("w",)), Candidate("x", ("v",))], "two candidates are called 'x'"),
        ([Candidate("x", ())], "'x' has no parameters"),
        ([Candidate("x", ("w",), 0)], "the rank of 'x' is 0; give 1 or more"),
    ],
)
def test_what_is_no_candidate(candidates, message):
    with pytest.raises(UserError, match=f"^subspaces: {message}"):
        Subspaces(tuple(candidates))


def test_a_parameter_that_is_not_there():
    row = TABLE["bert"]
    with pytest.raises(
        UserError, match=r"^subspaces: 'x' takes 'nobody', which does not count here; names look like"
    ):
        streamed(row.model(2), row, [Candidate("x", ("nobody",))])
