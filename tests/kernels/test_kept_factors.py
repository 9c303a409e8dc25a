"""Factors that were kept: the kernels again, of a choice of parameters, and of LoRA at its start."""

from __future__ import annotations

import pytest
import torch
from model_oracle import pad_id, plain_logits, random_texts
from model_table import TABLE
from resumable_work import FORMULAS, KEY, PAIRS, same_bits, work

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stored_factors import Choice, StoredFactors
from lmntk.engine.stream import stream_kernels
from lmntk.engine.work_folder import WorkFolder
from lmntk.errors import UserError
from lmntk.kernels.lora import Draw
from lmntk.kernels.subspaces import Candidate, Subspaces
from lmntk.models.filters import ParameterFilter
from lmntk.prompts.batching import collate


def low_rank(kept, pair, rank, seed=0, choice=None):
    """LoRA's sgd kernel of kept factors, on every linear map of the choice."""
    candidate = Candidate("lora", kept.adaptable(choice), rank, seed)
    return kept.subspaces(pair, ["sgd"], Subspaces((candidate,)))[0]["lora"]["sgd"]


@pytest.mark.parametrize("formulas", [["sgd"], FORMULAS])
def test_kept_factors_give_the_kernels_again(tmp_path, formulas):
    whole = work(tmp_path, keep=True)
    WorkFolder.finish(Settings(scratch=tmp_path, keep_factors=True), KEY)
    kept = StoredFactors(tmp_path)
    assert kept.pairs == PAIRS
    for pair in PAIRS:
        found, noise = kept.kernels(pair, formulas)
        assert noise == (whole.noise[pair[0]] if formulas != ["sgd"] else 0)
        for name, groups in found.items():
            torch.testing.assert_close(groups["all"], whole.kernels[pair][name]["all"], rtol=1e-5, atol=1e-5)
    for group, values in whole.logits.items():
        torch.testing.assert_close(kept.logits(group), values)


def test_a_choice_of_parameters_of_kept_factors(tmp_path):
    row = TABLE["bert"]
    model = row.model(2).float()
    work(tmp_path, keep=True)
    kept = StoredFactors(tmp_path)
    texts = {
        group: random_texts(row, lengths, i)
        for i, (group, lengths) in enumerate({"a": [5, 4, 6], "b": [4, 4], "c": [3, 7, 5, 6, 4]}.items())
    }
    for chosen in (
        ParameterFilter(include=("*.layer.1.*",)),
        ParameterFilter(biases_only=True),
        ParameterFilter(exclude=("*embeddings*",)),
    ):
        expected = stream_kernels(
            KernelWork(model, texts, [("a", "c")], ["sgd"], chosen.select(model), pad_id(model))
        ).kernels["a", "c"]["sgd"]["all"]
        found, _ = kept.kernels(
            ("a", "c"), ["sgd"], Choice(chosen.include, chosen.exclude, chosen.biases_only)
        )
        torch.testing.assert_close(found["sgd"]["all"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="the choice leaves nothing"):
        kept.kernels(("a", "c"), ["sgd"], Choice(include=("nobody",)))


@pytest.mark.parametrize("name", ["bert", "bert-untied", "llama-tied", "llama"])
def test_low_rank_kernels_are_those_of_peft_at_its_start(tmp_path, name):
    """LoRA with our A on every linear map, B = 0: the gradient of B is G A^T, up to LoRA's own scale of one."""
    row = TABLE[name]
    model = row.model(2)
    texts = random_texts(row, [5, 4, 6], 0)
    settings = Settings(scratch=tmp_path, keep_factors=True)
    stream_kernels(
        KernelWork(model, {"a": texts}, [("a", "a")], ["sgd"], row.parameters.select(model), pad_id(model)),
        settings,
        key=KEY,
    )
    kept, draw = StoredFactors(tmp_path), Draw(5)
    weights = {name: dict(model.named_parameters())[name] for name in kept.index.adaptable}
    features = []
    for text in texts:
        logits = plain_logits(model, collate([text], pad_id(model)))
        rows = [torch.autograd.grad(logit, list(weights.values()), retain_graph=True) for logit in logits]
        projected = [
            torch.cat(
                [
                    (g @ draw.matrix(n, 3, g.shape[1]).T / 3**0.5).flatten()
                    for n, g in zip(weights, part, strict=True)
                ]
            )
            for part in rows
        ]
        features.append(torch.stack(projected))
    stacked = torch.stack(features)
    torch.testing.assert_close(
        low_rank(kept, ("a", "a"), 3, seed=5),
        torch.einsum("ncp,mdp->ncmd", stacked, stacked),
        rtol=1e-6,
        atol=1e-8,
    )


def test_a_gradient_that_came_by_autograd_has_no_low_rank_kernel(tmp_path):
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    row = TABLE["bert"]
    model = row.model(2)
    query = model.network.bert.encoder.layer[0].attention.self.query
    query.__class__ = Doubled
    settings = Settings(scratch=tmp_path, keep_factors=True)
    stream_kernels(
        KernelWork(
            model, {"a": random_texts(row, [5, 4], 0)}, [("a", "a")], ["sgd"], row.parameters.select(model), 0
        ),
        settings,
        key=KEY,
    )
    kept = StoredFactors(tmp_path)
    name = "network.bert.encoder.layer.0.attention.self.query.weight"
    with pytest.raises(
        UserError, match=f"lora-rank: the gradients of '{name}' came by plain autograd, .*--exclude {name}$"
    ):
        low_rank(kept, ("a", "a"), 2)
    assert low_rank(kept, ("a", "a"), 2, choice=Choice(exclude=(name,))).any()


def test_the_mean_of_low_rank_kernels_is_the_kernel_of_the_adapted_weights(tmp_path):
    work(tmp_path, keep=True)
    kept = StoredFactors(tmp_path)
    expected = kept.kernels(("a", "c"), ["sgd"], Choice(include=tuple(kept.index.adaptable)))[0]["sgd"]["all"]

    def distance(rank, draws):
        found = [low_rank(kept, ("a", "c"), rank, seed) for seed in range(draws)]
        return float((torch.stack(found).mean(0) - expected).norm() / expected.norm())

    assert distance(8, 40) < 0.12
    assert distance(64, 2) < distance(1, 2)


def test_kept_factors_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="holds none; keep some with"):
        StoredFactors(tmp_path)
    work(tmp_path / "s", keep=True)
    with pytest.raises(UserError, match="'b,a' is not there; there are a,a; a,c"):
        StoredFactors(tmp_path / "s").kernels(("b", "a"), ["sgd"])
    next((tmp_path / "s").rglob("factors/c-*")).unlink()
    with pytest.raises(UserError, match="files of 'c' are missing"):
        StoredFactors(tmp_path / "s").kernels(("a", "c"), ["sgd"])
    work(tmp_path / "s", key="f" * 32, keep=True)
    with pytest.raises(UserError, match="holds 2 pieces of work; name one"):
        StoredFactors(tmp_path / "s")


def test_factors_that_no_schedule_tells_of_are_not_taken(tmp_path):
    work(tmp_path / "kept", chunk=2, keep=True)
    (folder,) = (tmp_path / "kept").iterdir()
    (folder / "work.json").unlink()
    assert list((folder / "factors").glob("c-00000002*"))
    other = work(tmp_path / "kept", chunk=4, keep=True)
    assert same_bits(other, work(tmp_path / "whole", chunk=4, keep=True))
