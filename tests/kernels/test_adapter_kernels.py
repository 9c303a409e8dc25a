"""PiSSA and OLoRA as candidates: kernels of both factors, and a network that is as it was."""

from __future__ import annotations

import pytest
import torch
from model_oracle import alone, flat, kernel_of, oracle, pad_id, random_texts, relative_distance
from model_table import TABLE

from lmntk.engine.adapter_kernels import AdapterCandidate, adapter_kernels
from lmntk.engine.kernel_work import KernelWork
from lmntk.errors import UserError
from lmntk.models.parts import parts_of
from lmntk.models.started_adapters import started_adapter
from lmntk.models.targets import parameters_of


@pytest.mark.parametrize(
    ("name", "target", "starts"),
    [("bert", "query+value", ("pissa", "olora")), ("gpt2", "attention", ("pissa",))],
)
def test_kernels_are_those_of_both_factors_by_name(name, target, starts):
    row = TABLE[name]
    model = row.model(2)
    weights = parameters_of(target, parts_of(model), low_rank=True)
    candidates = [AdapterCandidate(f"{init} r=2", weights, 2, init) for init in starts]
    texts = {"a": random_texts(row, [5, 4, 6], 0)}
    work = KernelWork(
        model, texts, [("a", "a")], ["sgd", "signgd"], row.parameters.select(model), pad_id(model)
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    plain = model(alone(model, texts["a"])[0])
    found = adapter_kernels(work, candidates)["a", "a"]
    assert list(found) == [candidate.name for candidate in candidates]
    for candidate in candidates:
        with started_adapter(model, weights, 2, candidate.init) as parameters:
            torch.testing.assert_close(model(alone(model, texts["a"])[0]), plain, rtol=1e-5, atol=1e-5)
            assert {each.split(".lora_")[1][0] for each in parameters} == {"A", "B"}
            jacobian = oracle(model, alone(model, texts["a"]), parameters)
        sides = {part: {n: j for n, j in jacobian.items() if f".lora_{part}." in n} for part in "AB"}
        assert all(float(flat(side).abs().max()) > 1e-6 for side in sides.values())
        expected = kernel_of("sgd", flat(jacobian), flat(jacobian))
        assert relative_distance(found[candidate.name]["sgd"], expected) < 1e-10
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert {key: p.requires_grad for key, p in model.named_parameters()} == flags


@pytest.mark.parametrize(
    ("name", "init", "message"),
    [
        ("gpt2", "olora", "olora: PEFT does not start it on transposed maps, .*c_attn.weight'; use pissa"),
        ("llama-lora", "pissa", "pissa: the model is an adapter already; give its base model"),
        ("bert", "eva", "subspaces: no start 'eva' is known; give one of pissa, olora"),
    ],
)
def test_what_has_no_start(name, init, message):
    model = TABLE[name].model(2)
    weights = [each for each in dict(model.named_parameters()) if each.endswith("0.attn.c_attn.weight")]
    with pytest.raises(UserError, match=message), started_adapter(model, weights, 2, init):
        pass
