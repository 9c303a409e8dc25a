"""Mixtures of experts: the rules of stacked experts and of routers, against plain autograd, and stacks in kernels."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from model_oracle import oracle, pad_id, random_texts
from model_table import TABLE
from torch import nn

from lmntk.kernels.formulas import FORMULAS
from lmntk.kernels.gram import Panel, gram
from lmntk.prompts.batching import collate
from lmntk.tangents import rules
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import check_coverage
from lmntk.tangents.factors import DenseFactors, OuterFactors, StackedFactors, Tangents, merge

HIDDEN, INNER, EXPERTS = 4, 3, 5
NOBODYS = 2  # the expert that no token chooses
# as many tokens as the longest text; the last column is padding for the second, which the toys do not read
IDS = torch.tensor([[1, 2, 3, 1], [4, 4, 4, 0], [5, 5, 1, 3]])
BATCH = {"ids": IDS, "mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]).double()}
CHOICES = torch.tensor(
    [[0, 1], [0, 1], [1, 3], [3, 0], [4, 1], [0, 4], [1, 0]]
)  # of a token id; text 1 has experts 4 and 1 only

CONFIG = SimpleNamespace(
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size"), INNER),
    **dict.fromkeys(("hidden_act", "mlp_hidden_act"), "gelu"),
    **dict.fromkeys(("num_experts_per_tok", "top_k"), 2),
    hidden_size=HIDDEN, _experts_implementation="eager", swiglu_alpha=1.7, swiglu_limit=0.5, moe_latent_size=None, rms_norm_eps=1e-5,
    norm_topk_prob=True, routed_scaling_factor=1.5, n_group=1, topk_group=1, router_jitter_noise=0.0, input_jitter_noise=0.0,
    num_group=1, expert_dropout=0.0, moe_k=2, moe_norm_min=1e-12,
)  # fmt: skip
FORMS = [
    "mixtral.MixtralExperts",
    "olmoe.OlmoeExperts",
    "nemotron_h.NemotronHExperts",
    "gpt_oss.GptOssExperts",
]
ROUTERS = [
    "mixtral.MixtralTopKRouter",
    "olmoe.OlmoeTopKRouter",
    "qwen3_moe.Qwen3MoeTopKRouter",
    "deepseek_v3.DeepseekV3TopkRouter",
    "granitemoe.GraniteMoeTopKRouter",
    "gpt_oss.GptOssTopKRouter",
    "phimoe.PhimoeTopKRouter",
    "ernie4_5_moe.Ernie4_5_MoeTopKRouter",
]


def of_transformers(path, **changes):
    """Returns a module of transformers, with random parameters."""
    family, name = path.split(".")
    kind = getattr(import_module(f"transformers.models.{family}.modeling_{family}"), name)
    module = kind(SimpleNamespace(**(vars(CONFIG) | changes)))
    for parameter in module.parameters():
        nn.init.normal_(parameter.requires_grad_())
    return module


class Toy(nn.Module):
    """Embedding, a module on all tokens in one row, a weighted mean over tokens, logits."""

    def __init__(self, inner, outputs=2):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(7, HIDDEN)
        self.inner = inner
        self.out = nn.Linear(HIDDEN, outputs)
        self.double()

    def forward(self, batch):
        found = self.inner(self.table(batch["ids"]).reshape(-1, HIDDEN), batch["ids"].reshape(-1)).reshape(
            *batch["ids"].shape, HIDDEN
        )
        return self.out((torch.tanh(found) * batch["mask"][..., None]).sum(1))


class Mixture(nn.Module):
    """Experts that a token's id chooses."""

    def __init__(self, experts):
        super().__init__()
        self.experts = experts
        self.shares = nn.Linear(HIDDEN, 2)

    def forward(self, hidden, ids):
        return hidden + self.experts(hidden, CHOICES[ids], self.shares(hidden))


class Twice(Mixture):
    """One stack of experts used twice in one pass, the second time by other tokens."""

    def forward(self, hidden, ids):
        return self.experts(
            torch.tanh(super().forward(hidden, ids)), CHOICES[(ids + 1) % 7], self.shares(hidden)
        )


class Routed(nn.Module):
    """A router, and experts that are numbers."""

    def __init__(self, router):
        super().__init__()
        self.router = router
        self.numbers = nn.Linear(EXPERTS, 1, bias=False)

    def forward(self, hidden, ids):
        _, weights, choices = self.router(hidden)
        return hidden * (weights.to(hidden.dtype) * self.numbers.weight[0].detach()[choices]).sum(
            -1, keepdim=True
        )


def jacobian(model):
    """Returns {name: (c, n, *shape)} by plain autograd, each example alone."""
    found = {}
    for index in range(len(IDS)):
        logits = model({name: tensor[index : index + 1] for name, tensor in BATCH.items()})[0]
        for name, parameter in model.named_parameters():
            rows = [
                torch.autograd.grad(f, parameter, retain_graph=True, allow_unused=True)[0] for f in logits
            ]
            found.setdefault(name, []).append(
                torch.stack([torch.zeros_like(parameter) if row is None else row for row in rows])
            )
    return {name: torch.stack(rows, 1) for name, rows in found.items()}


def assert_right(model, tolerance=1e-12, fallback=(), wrong=()):
    """The coverage is as expected, and what is captured, all together and in other batches, equals plain autograd."""
    trainable = dict(model.named_parameters())
    coverage = check_coverage(model, BATCH, trainable)
    assert (coverage.batched, set(coverage.fallback) - set(coverage.unused), set(coverage.wrong)) == (
        True,
        set(fallback),
        set(wrong),
    )
    expected = jacobian(model)
    for pieces in ([3], [1, 2]):
        batches = [
            dict(zip(BATCH, part, strict=True))
            for part in zip(*(tensor.split(pieces) for tensor in BATCH.values()), strict=True)
        ]
        tangents = [capture(model, batch, trainable, coverage.fallback) for batch in batches]
        for name, parameter in trainable.items():
            if name in tangents[0].factors:
                found = torch.cat([each.factors[name].gradients(parameter.shape) for each in tangents], 1)
                torch.testing.assert_close(found, expected[name], rtol=tolerance, atol=tolerance)
            else:
                assert not expected[name].any(), name
    return capture(model, BATCH, trainable, coverage.fallback), expected


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_stacked_experts(form, outputs):
    model = Toy(Mixture(of_transformers(form)), outputs)
    tangents, expected = assert_right(model)
    stacks = {
        name: factors for name, factors in tangents.factors.items() if isinstance(factors, StackedFactors)
    }
    assert len(stacks) == 2
    for name, stack in stacks.items():
        assert [part is None for part in stack.parts] == [expert == NOBODYS for expert in range(EXPERTS)]
        unused = expected[name][:, 1]
        assert (
            not unused[:, [0, 2, 3]].any() and unused[:, 4].any()
        )  # the second text uses experts 4 and 1 only
        # of text 0 (ids 1 2 3 1), text 1 (4 4 4 and padding, id 0), text 2 (5 5 1 3), those that chose 0 and 4
        assert [stack.parts[expert].inputs.shape[1] for expert in (0, 4)] == [4, 3]
    biases = [name for name in tangents.factors if name.endswith("proj_bias")]
    assert len(biases) == (2 if "gpt_oss" in form else 0)


def test_a_stack_used_twice_is_merged_index_by_index():
    tangents, _ = assert_right(Toy(Twice(of_transformers("mixtral.MixtralExperts"))))
    assert isinstance(tangents.factors["inner.experts.down_proj"], StackedFactors)


def test_the_same_expert_chosen_twice_and_no_expert():
    """An index past the last expert stands for none: expert parallelism has such."""
    choices = CHOICES.clone()
    choices[1], choices[3] = torch.tensor([1, 1]), torch.tensor([EXPERTS, 0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "CHOICES", choices)
        assert_right(Toy(Mixture(of_transformers("mixtral.MixtralExperts"))))


def test_experts_that_no_logit_depends_on():
    """Their output is multiplied by zero: gradients are zero, but they are caught."""

    class Silent(Mixture):
        def forward(self, hidden, ids):
            return hidden + 0 * self.experts(hidden, CHOICES[ids], self.shares(hidden))

    tangents, _ = assert_right(Toy(Silent(of_transformers("mixtral.MixtralExperts"))))
    assert (
        not tangents.factors["inner.experts.down_proj"].gradients(torch.Size([EXPERTS, HIDDEN, INNER])).any()
    )


def test_other_forms_have_no_rule():
    dbrx = of_transformers("dbrx.DbrxExperts", ffn_hidden_size=INNER, ffn_act_fn={"name": "silu"})
    assert rules.rule_of(dbrx) is None
    normed = of_transformers("mixtral.MixtralExperts")
    normed.has_post_expert_norm = True
    assert rules.rule_of(normed) is None


def test_experts_of_another_shape_have_no_rule():
    module = of_transformers("mixtral.MixtralExperts")
    assert rules.rule_of(module) is not None
    module.is_transposed = True  # which its weights are not
    assert rules.rule_of(module) is None


@pytest.mark.parametrize("form", ROUTERS)
def test_every_form_of_router(form):
    router = of_transformers(form)
    assert rules.rule_of(router) is rules.RULES_BY_NAME["Router"]
    for name, buffer in router.named_buffers():
        assert name == "e_score_correction_bias"
        buffer.zero_()
    model = Toy(Routed(router), 3)
    tangents, _ = assert_right(model, tolerance=1e-6)  # many compute in float32
    assert isinstance(tangents.factors["inner.router.weight"], OuterFactors)


def test_a_router_of_more_than_one_layer_has_no_rule():
    class DeepRouter(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(EXPERTS, HIDDEN))
            self.before = nn.Linear(HIDDEN, HIDDEN)

    assert rules.rule_of(DeepRouter()) is None


@pytest.mark.parametrize(
    ("form", "matters"), [("mixtral.MixtralTopKRouter", False), ("olmoe.OlmoeTopKRouter", True)]
)
def test_scores_of_experts_that_were_not_chosen_leave_no_rounding_error(form, matters):
    """Mixtral's weights sum to one over the chosen; OLMoE's as configured here do not, and the others' scores matter."""
    model = Toy(Routed(of_transformers(form, norm_topk_prob=False)))
    tangents = capture(model, BATCH, dict(model.named_parameters()))
    found = tangents.factors["inner.router.weight"].gradients(model.inner.router.weight.shape)  # (c, n, e, h)
    with torch.no_grad():
        choices = model.inner.router(model.table(IDS).reshape(-1, HIDDEN))[2].reshape(*IDS.shape, 2)
    chosen = torch.stack(
        [torch.zeros(EXPERTS, dtype=torch.bool).scatter(0, each[:3].flatten(), True) for each in choices]
    )
    chosen[0, choices[0, 3]] = chosen[2, choices[2, 3]] = True  # the second text's fourth token is padding
    assert not chosen.all()
    assert bool((found[:, ~chosen] != 0).all()) is matters
    assert bool((found[:, ~chosen] != 0).any()) is matters
    assert (found[:, chosen] != 0).all()


@pytest.mark.parametrize("fault", ["no weights", "first expert", "raises"])
def test_a_planted_error_is_caught(fault, monkeypatch):
    right = rules.RULES_BY_NAME["Experts"]

    def planted(use):
        if fault == "raises":
            raise IndexError("planted")
        if fault == "no weights":
            use = rules.Use(
                **vars(use) | {"arguments": (*use.arguments[:2], torch.ones_like(use.arguments[2]))}
            )
        for parameter, stack in right(use):
            yield parameter, StackedFactors((None, *stack.parts[1:])) if fault == "first expert" else stack

    monkeypatch.setitem(rules.RULES_BY_NAME, "Experts", planted)
    names = {"inner.experts.gate_up_proj", "inner.experts.down_proj"}
    assert_right(Toy(Mixture(of_transformers("mixtral.MixtralExperts"))), fallback=names, wrong=names)


def stacks(seed, batches, wide, transposed=False, uses=4):
    """Returns tangents of batches with two stacks, some indices of which some batches leave out."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def part(n):
        t = int(torch.randint(1, uses + 1, (), generator=generator))
        inputs, gradients = normal(n, t, wide), normal(2, n, t, wide + 1)
        gradients[:, 0, t // 2 :] = 0  # filled up
        return OuterFactors(inputs, gradients, transposed)

    found = []
    for n, used in batches:
        found.append(
            Tangents(
                normal(n, 2),
                {"w": StackedFactors(tuple(part(n) if index in used else None for index in range(4)))},
            )
        )
    return found


def dense(tangents, shape):
    return [
        Tangents(each.logits, {"w": DenseFactors(each.factors["w"].gradients(shape).flatten(2))})
        for each in tangents
    ]


@pytest.mark.parametrize("grouping", [None, str.upper])
@pytest.mark.parametrize(
    ("wide", "uses"), [(3, 6), (40, 1), (40, 3)]
)  # by tiles, by signs of rank-one gradients, by inner products
def test_kernels_of_stacks_equal_those_of_dense_gradients(wide, uses, grouping):
    shape = torch.Size([4, wide + 1, wide])
    rows = stacks(1, [(3, {0, 1}), (2, {1, 2}), (4, {0, 3})], wide, uses=uses)
    columns = stacks(2, [(2, {1}), (5, {0, 1, 2})], wide, uses=uses)
    for left, right in ((rows, columns), (columns, rows), (rows, rows)):
        plain_left = dense(left, shape)
        plain_right = plain_left if right is left else dense(right, shape)
        found = gram(panel := Panel(left), panel if right is left else Panel(right), FORMULAS, grouping)
        expected = gram(
            panel := Panel(plain_left), panel if right is left else Panel(plain_right), FORMULAS, grouping
        )
        assert found.keys() == expected.keys()
        for name, groups in expected.items():
            assert found[name].keys() == groups.keys()
            for group, values in groups.items():
                torch.testing.assert_close(found[name][group], values, rtol=1e-12, atol=1e-10)


def test_stacks_without_a_common_index_have_a_kernel_of_zeros():
    rows, columns = stacks(1, [(3, {0})], 3), stacks(2, [(2, {1})], 3)
    found = gram(Panel(rows), Panel(columns), ["sgd"])["sgd"]["all"]
    assert found.shape == (3, 2, 2, 2) and not found.any()


def test_a_parameter_stacked_on_one_side_only_is_refused():
    rows = stacks(1, [(3, {0, 1})], 3)
    with pytest.raises(TypeError, match="stacked in some batches"):
        gram(Panel(rows), Panel(dense(rows, torch.Size([4, 4, 3]))), ["sgd"])


@pytest.mark.parametrize("transposed", [False, True])
def test_merging_and_cutting_stacks(transposed):
    shape = torch.Size([4, 3, 4] if transposed else [4, 4, 3])
    first, second = (
        stacks(seed, [(3, used)], 3, transposed)[0].factors["w"] for seed, used in ((1, {0, 1}), (2, {1, 3}))
    )
    merged = merge([first, second], shape)
    assert isinstance(merged, StackedFactors)
    assert [part is None for part in merged.parts] == [False, False, True, False]
    expected = first.gradients(shape) + second.gradients(shape)
    torch.testing.assert_close(merged.gradients(shape), expected)
    torch.testing.assert_close(merged.of_example(1).gradients(shape), expected[:, 1:2])
    mixed = merge([first, DenseFactors(second.gradients(shape).flatten(2))], shape)
    torch.testing.assert_close(mixed.gradients(shape), expected)
    assert Tangents(torch.zeros(3, 2), {"w": first}).nbytes == 8 * sum(
        tensor.numel() for tensor in first.tensors()
    )


def test_a_real_mixture_keeps_few_numbers():
    """Every expert's tokens are kept alone; the top layer keeps those of the position that is read."""
    row = TABLE["mixtral"]
    model = row.model(2)
    texts = random_texts(row, [7, 3, 5], 1)
    trainable = row.parameters.select(model)
    tangents = capture(model, collate(texts, pad_id(model)), trainable)
    found = tangents.factors["network.model.layers.1.mlp.experts.down_proj"]
    used = [0 if part is None else part.inputs.shape[1] for part in found.parts]
    assert max(used) == 1
    assert sum(
        int((part.output_gradients != 0).any(-1).any(0).sum()) for part in found.parts if part is not None
    ) == 2 * len(texts)
    expected = oracle(model, [collate([text], pad_id(model)) for text in texts], trainable)
    for name in trainable:
        torch.testing.assert_close(
            tangents.factors[name].gradients(trainable[name].shape).flatten(2).transpose(0, 1),
            expected[name],
            rtol=1e-5,
            atol=1e-6,
        )
