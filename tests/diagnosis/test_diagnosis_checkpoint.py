"""Somebody's checkpoint becomes weights of the base, or one line says what differs."""

from __future__ import annotations

import copy
import json

import peft
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny import write_adapter, write_classifier, write_gpt2, write_model, write_t5
from torch import nn

from lmntk.diagnosis.checkpoint import load_finetuned
from lmntk.errors import UserError
from lmntk.models.loading import load_pretrained
from lmntk.models.logit_model import ClassifierModel, HeadModel, PromptModel, untie_head
from lmntk.models.state import frozen
from lmntk.models.weights import at_weights

BATCH = {
    "input_ids": torch.tensor([[2, 7, 9, 11, 4, 3], [2, 8, 6, 4, 5, 3]]),
    "attention_mask": torch.ones(2, 6, dtype=torch.int64),
    "read_position": torch.tensor([4, 3]),
}


def logits(model, weights=None):
    with torch.no_grad(), frozen(model), at_weights(model, weights or {}):
        return model(BATCH)


def tuned(folder, base, seed=1):
    """Writes a base's checkpoint, every parameter moved."""
    pretrained = load_pretrained(str(base))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in pretrained.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    pretrained.network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("writer", [write_model, write_gpt2, write_classifier])
def test_a_checkpoint_gives_its_own_logits(writer, tmp_path):
    base = writer(tmp_path / "base")
    folder = tuned(tmp_path / "tuned", base)

    def model_of(path):
        pretrained = load_pretrained(str(path))
        return pretrained, ClassifierModel(
            pretrained.network
        ) if pretrained.kind == "classifier" else PromptModel(pretrained.network, [7, 8])

    pretrained, model = model_of(base)
    for file in base.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    for file in [*base.glob("vocab*"), *base.glob("merges*")]:
        (folder / file.name).write_bytes(file.read_bytes())
    _, there = model_of(folder)
    start = logits(model)
    weights = load_finetuned(folder, pretrained, model)
    assert set(weights) == {name for name, _ in model.named_parameters()}
    torch.testing.assert_close(logits(model, weights), logits(there))
    assert not torch.allclose(logits(model, weights), start, atol=1e-4)
    assert torch.equal(logits(model), start)


def test_a_sequence_to_sequence_checkpoint(tmp_path):
    base = write_t5(tmp_path / "base")
    folder = tuned(tmp_path / "tuned", base)
    pretrained = load_pretrained(str(base))
    model = PromptModel(pretrained.network, [7, 8])
    weights = load_finetuned(folder, pretrained, model)
    expected = dict(load_pretrained(str(base)).network.named_parameters())
    assert set(weights) == {f"network.{name}" for name in expected}


def test_a_lora_adapter_is_merged_into_the_base(base, tmp_path):
    folder = write_adapter(tmp_path / "adapter", base)
    pretrained, adapted = load_pretrained(str(base)), load_pretrained(str(folder), base=str(base))
    model, there = PromptModel(pretrained.network, [7, 8]), PromptModel(adapted.network, [7, 8])
    weights = load_finetuned(folder, pretrained, model)
    assert set(weights) == {name for name, _ in model.named_parameters()}
    torch.testing.assert_close(logits(model, weights), logits(there))
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, weights[name])}
    assert moved == {
        name for name, _ in model.named_parameters() if name.endswith(("query.weight", "value.weight"))
    }


def test_an_adapter_that_brings_whole_modules(base, tmp_path):
    folder = write_adapter(tmp_path / "adapter", base, modules_to_save=["LayerNorm"])
    pretrained, adapted = load_pretrained(str(base)), load_pretrained(str(folder), base=str(base))
    model = PromptModel(pretrained.network, [7, 8])
    torch.testing.assert_close(
        logits(model, load_finetuned(folder, pretrained, model)), logits(PromptModel(adapted.network, [7, 8]))
    )


def test_a_file_of_weights_with_a_head(base, tmp_path):
    pretrained = load_pretrained(str(base))
    model = HeadModel(pretrained.network, nn.Linear(16, 2))
    weights = {name: p.detach() + 1 for name, p in model.named_parameters()}
    save_file(weights, tmp_path / "weights.safetensors")
    found = load_finetuned(tmp_path / "weights.safetensors", pretrained, model)
    assert set(found) == set(weights)
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    with pytest.raises(UserError, match=r"has no 'head\.weight'.*head mode"):
        load_finetuned(tuned(tmp_path / "tuned", base), pretrained, model)


def test_a_file_that_names_the_networks_parameters_and_a_part_of_them(base, tmp_path):
    pretrained = load_pretrained(str(base))
    model = PromptModel(pretrained.network, [7, 8])
    name = "bert.encoder.layer.0.attention.self.query.bias"
    save_file({name: torch.ones(16, dtype=torch.float16)}, tmp_path / "some.safetensors")
    found = load_finetuned(tmp_path / "some.safetensors", pretrained, model)
    assert list(found) == [f"network.{name}"] and found[f"network.{name}"].dtype == torch.float32


def test_ties(base, tmp_path):
    """The same tie is one weight; a checkpoint with both apart is not of the tied base, and is of one that is untied."""
    pretrained = load_pretrained(str(base))
    model = PromptModel(pretrained.network, [7, 8])
    apart = copy.deepcopy(pretrained.network)
    untie_head(apart)
    apart.cls.predictions.decoder.bias = nn.Parameter(
        apart.cls.predictions.decoder.bias.detach().clone()
    )  # transformers ties it as well
    with torch.no_grad():
        apart.get_output_embeddings().weight.add_(torch.randn(apart.get_output_embeddings().weight.shape))
    apart.save_pretrained(tmp_path / "apart")
    with pytest.raises(
        UserError, match=r"apart, which are one weight in .*; load the base with its head untied"
    ):
        load_finetuned(tmp_path / "apart", pretrained, model)
    untie_head(pretrained.network)
    untied = PromptModel(pretrained.network, [7, 8])
    found = load_finetuned(tmp_path / "apart", pretrained, untied)
    with torch.no_grad(), frozen(apart):
        torch.testing.assert_close(logits(untied, found), logits(PromptModel(apart, [7, 8])))


def altered(folder, base, **settings):
    config = hf.BertConfig.from_pretrained(base, **settings)
    torch.manual_seed(3)
    network = hf.BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"intermediate_size": 20},
            r"'bert\.encoder\.layer\.0\.intermediate\.dense\.weight' is \(20, 16\), and \(32, 16\) in the base",
        ),
        ({"num_hidden_layers": 3}, r"it has 'bert\.encoder\.layer\.2\.[a-z.A-Z]+', which the base has not"),
        ({"num_attention_heads": 4}, "its configuration has another num_attention_heads"),
    ],
)
def test_another_architecture_is_said(settings, message, base, tmp_path):
    pretrained = load_pretrained(str(base))
    with pytest.raises(UserError, match=message):
        load_finetuned(
            altered(tmp_path / "other", base, **settings), pretrained, PromptModel(pretrained.network, [7, 8])
        )


def test_fewer_layers_are_said(base, tmp_path):
    pretrained = load_pretrained(str(base))
    with pytest.raises(UserError, match="num_hidden_layers"):
        load_finetuned(
            altered(tmp_path / "other", base, num_hidden_layers=1),
            pretrained,
            PromptModel(pretrained.network, [7, 8]),
        )


def test_another_kind_of_model_is_said(base, tmp_path):
    pretrained = load_pretrained(str(base))
    with pytest.raises(UserError, match="which has no masked-language-model head"):
        load_finetuned(
            tuned(tmp_path / "gpt", write_gpt2(tmp_path / "base")),
            pretrained,
            PromptModel(pretrained.network, [7, 8]),
        )


def test_another_tokenizer_is_said(base, tmp_path):
    pretrained = load_pretrained(str(base))
    folder = tuned(tmp_path / "tuned", base)
    for file in base.glob("token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    model = PromptModel(pretrained.network, [7, 8])
    load_finetuned(folder, pretrained, model)
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["film"], words["book"] = words["book"], words["film"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"another tokenizer.*'book' is token \d+, and \d+ in the base"):
        load_finetuned(folder, pretrained, model)


def test_what_is_no_checkpoint_is_said(base, tmp_path):
    pretrained = load_pretrained(str(base))
    model = PromptModel(pretrained.network, [7, 8])
    with pytest.raises(UserError, match="neither a safetensors file nor a folder"):
        load_finetuned(tmp_path / "nowhere", pretrained, model)
    (tmp_path / "broken.safetensors").write_text("no")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_finetuned(tmp_path / "broken.safetensors", pretrained, model)
    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="it has 'x', which the base has not"):
        load_finetuned(tmp_path / "other.safetensors", pretrained, model)
    assert load_file(tmp_path / "other.safetensors") and peft
