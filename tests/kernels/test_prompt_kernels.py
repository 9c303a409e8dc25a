"""Kernels of prompted texts, as Python asks for them: which parameters count, and which logits."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import write_model

from lmntk import (
    ParameterFilter,
    PromptedTexts,
    PromptEncoder,
    SubspaceGrid,
    UserError,
    compute_kernels,
    kernels_of_prompt,
    load_pretrained,
)
from lmntk.prompts.encoding import Limits
from lmntk.tasks import Example

TRAIN = [Example("a great film"), Example("the story was dull")]
OTHERS = [Example("very bad"), Example("a fun and happy book"), Example("it is not good")]
LAYER = ("*.layer.1.*",)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pretrained = load_pretrained(str(write_model(tmp_path_factory.mktemp("model"))), "float64")
    return pretrained, PromptEncoder(
        pretrained.tokenizer, "{a} it was {mask} .", ["terrible", "great"], Limits(64)
    )


@pytest.fixture(scope="module")
def computed(model):
    pretrained, encoder = model
    return lambda **options: compute_kernels(pretrained, encoder, TRAIN, OTHERS, ["sgd"], **options)


def test_parameters_that_count_add_up(computed):
    """Of the kernel of all there is a part of one layer, and a part of what is left."""
    inside, outside = ParameterFilter(include=LAYER), ParameterFilter(exclude=LAYER)
    whole, *parts = (computed(parameters=chosen).kernels["sgd"] for chosen in (None, inside, outside))
    for part, chosen in zip(parts, (inside, outside), strict=True):
        assert part.provenance["parameters"] == chosen.as_dict()
        assert np.abs(part.values).max() / np.abs(whole.values).max() > 0.01
    np.testing.assert_allclose(parts[0].values + parts[1].values, whole.values, rtol=1e-10)


def test_two_logits_are_folded_into_their_difference(computed):
    folded, both = computed(), computed(all_logits=True)
    values = both.kernels["sgd"].values
    assert values.shape == (2, 2, 3, 2)
    sign = np.array([-1.0, 1.0])
    expected = np.einsum("ncmd,c,d->nm", values, sign, sign)[:, None, :, None]
    np.testing.assert_allclose(folded.kernels["sgd"].values, expected, rtol=1e-10)
    np.testing.assert_allclose(folded.logits["eval"], both.logits["eval"] @ sign[:, None], rtol=1e-10)


def test_plain_strings_are_texts(model):
    pretrained, encoder = model
    named = compute_kernels(pretrained, encoder, TRAIN, OTHERS, ["sgd"]).kernels["sgd"]
    texts, others = ([example.text_a for example in part] for part in (TRAIN, OTHERS))
    plain = compute_kernels(pretrained, encoder, texts, others, ["sgd"]).kernels["sgd"]
    np.testing.assert_array_equal(plain.values, named.values)
    with pytest.raises(UserError, match="not a single one"):
        compute_kernels(pretrained, encoder, "a great film", OTHERS)


def test_candidates_for_what_to_train_come_from_the_same_pass(model):
    """By name and formula; LoRA's kernel lies near the adapted weights', and says what it is of."""
    pretrained, encoder = model
    grid = SubspaceGrid(
        ("attention",), (1, 16), (0, 1), plain=("attention&all-linear", "biases"), by_part=True
    )
    texts = PromptedTexts(pretrained, encoder, TRAIN, OTHERS, subspaces=grid)
    found = kernels_of_prompt(texts, ["sgd", "asigngd"])
    biases = compute_kernels(
        pretrained, encoder, TRAIN, OTHERS, ["sgd"], parameters=ParameterFilter(biases_only=True)
    )
    np.testing.assert_allclose(
        found.subspaces["biases"]["sgd"].values, biases.kernels["sgd"].values, rtol=1e-10
    )
    adapted = found.subspaces["attention&all-linear"]["sgd"].values
    distance = {
        name: np.linalg.norm(kernels["sgd"].values - adapted) / np.linalg.norm(adapted)
        for name, kernels in found.subspaces.items()
        if " r=" in name
    }
    assert distance["attention r=16 seed=0"] < 0.5
    assert distance["attention r=16 seed=0"] != distance["attention r=16 seed=1"]
    kernel = found.subspaces["attention r=1 seed=1"]["asigngd"]
    assert kernel.flipped is not None and kernel.values.shape == (2, 1, 3, 1)
    assert (kernel.provenance["subspace"]["rank"], kernel.provenance["subspace"]["seed"]) == (1, 1)
    plain = compute_kernels(pretrained, encoder, TRAIN, OTHERS, ["sgd", "asigngd"])
    np.testing.assert_array_equal(found.kernels["sgd"].values, plain.kernels["sgd"].values)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (SubspaceGrid(), "there is no candidate; give targets"),
        (SubspaceGrid(("mlp",)), "LoRA has targets and ranks; give both"),
        (SubspaceGrid(ranks=(1,), plain=("mlp",)), "LoRA has targets and ranks; give both"),
    ],
)
def test_grids_without_candidates(model, grid, message):
    pretrained, encoder = model
    with pytest.raises(UserError, match=f"^subspaces: {message}"):
        kernels_of_prompt(PromptedTexts(pretrained, encoder, TRAIN, OTHERS, subspaces=grid))
