"""One table of small masked language models, and the oracle: plain autograd on the untouched network, one text at a time.

A new family is one row of ``TABLE``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from lmntk.models.filters import ParameterFilter
from lmntk.models.logit_model import HeadModel, LogitModel, PromptModel, untie_head
from lmntk.prompts.batching import collate
from lmntk.prompts.encoding import EncodedText

VOCABULARY = 37
LABELS = (5, 9, 7)
FIRST_ID = 4  # ids below are special in every family
KEY_BIASES = ("*.key.bias", "*.k_lin.bias")
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 24,
}


@dataclass(frozen=True)
class Row:
    """A family: how to build it, and what is known of it beforehand."""

    config: Callable[..., Any]
    settings: dict[str, Any]
    network: type[nn.Module]
    untied: bool = False
    head_mode: bool = False
    parameters: ParameterFilter = field(default_factory=ParameterFilter)
    noise: tuple[str, ...] = KEY_BIASES  # names of parameters that are rounding noise, whole
    relative_positions: bool = False  # so that padding on the left leaves the function as it is
    batched: bool = True
    token_types: bool = False
    attentions: tuple[str, ...] = ("sdpa", "eager")

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
        """Returns the network with every parameter, biases and norms too, moved away from 0 and 1."""
        torch.manual_seed(seed)
        network = self.network(self.config(**self.settings)).double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        if self.untied:
            untie_head(network)
            with torch.no_grad():
                network.get_output_embeddings().weight.add_(0.2 * torch.randn(VOCABULARY, 1))
        return network.to(dtype).eval()

    def model(self, outputs: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> LogitModel:
        """Returns a model of 2 or 3 logits, or with ``outputs=1`` of a difference."""
        network = self.build(seed, dtype)
        classes = max(outputs, 2)
        if self.head_mode:
            return HeadModel(network, nn.Linear(8, classes).to(dtype), outputs == 1)
        return PromptModel(network, LABELS[:classes], outputs == 1)

    def is_noise(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.noise)


bert = partial(Row, hf.BertConfig, SMALL, hf.BertForMaskedLM, token_types=True)
roberta = partial(Row, hf.RobertaConfig, SMALL, hf.RobertaForMaskedLM, relative_positions=True)  # positions count from the first token
distilbert = partial(
    Row,
    hf.DistilBertConfig,
    {"vocab_size": VOCABULARY, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12, "max_position_embeddings": 24},
    hf.DistilBertForMaskedLM,
)
albert = partial(Row, hf.AlbertConfig, SMALL | {"embedding_size": 6}, hf.AlbertForMaskedLM, token_types=True)
electra = partial(Row, hf.ElectraConfig, SMALL | {"embedding_size": 6}, hf.ElectraForMaskedLM, token_types=True)
DEBERTA = SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
deberta = partial(Row, hf.DebertaV2Config, network=hf.DebertaV2ForMaskedLM, batched=False, attentions=("eager",))
MODERN = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 24,
    "local_attention": 4,
    "pad_token_id": 0,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# rotary positions are relative, but transformers computes their angles in float32: moved texts agree to 1e-9 only
modern = partial(Row, hf.ModernBertConfig, network=hf.ModernBertForMaskedLM, noise=())

TABLE: dict[str, Row] = {
    "bert": bert(),
    "bert-untied": bert(untied=True),
    "bert-head-mode": bert(head_mode=True),
    "bert-biases": bert(parameters=ParameterFilter(biases_only=True)),
    "roberta": roberta(),
    "roberta-untied-without-embeddings": roberta(untied=True, parameters=ParameterFilter(embeddings=False)),
    "roberta-top-layer": roberta(parameters=ParameterFilter(include=("*.layer.1.*",), exclude=("*.layer.1.output.dense.bias",))),
    "distilbert": distilbert(),
    "distilbert-without-head": distilbert(parameters=ParameterFilter(head=False)),
    "albert": albert(),
    "albert-head-mode": albert(head_mode=True),
    "electra": electra(),
    "electra-untied": electra(untied=True),
    "deberta-shared-keys": deberta(
        settings=DEBERTA | {"share_att_key": True, "position_buckets": 4, "position_biased_input": False, "type_vocab_size": 0},
        noise=(),
        relative_positions=True,
    ),
    "deberta-own-keys-convolution": deberta(
        settings=DEBERTA | {"share_att_key": False, "conv_kernel_size": 3, "conv_act": "gelu"}, noise=("*.pos_key_proj.bias",)
    ),
    "deberta-without-embeddings": deberta(
        settings=DEBERTA | {"share_att_key": True}, untied=True, noise=(), parameters=ParameterFilter(embeddings=False)
    ),
    "modernbert": modern(settings=MODERN),
    "modernbert-with-biases": modern(
        settings=MODERN | {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}, untied=True
    ),
}
# one row a family, for what need not be shown for every variant
FAMILIES = ["bert", "roberta", "distilbert", "albert", "electra", "deberta-shared-keys", "deberta-own-keys-convolution", "modernbert"]


def pad_id(model: LogitModel) -> int:
    return int(model.network.config.pad_token_id or 0)


def random_texts(row: Row, lengths: Sequence[int], seed: int) -> list[EncodedText]:
    """Returns texts in which tokens, label words among them, are often repeated; the read position is anywhere."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, count: int) -> tuple[int, ...]:
        return tuple(torch.randint(low, high, (count,), generator=generator).tolist())

    texts = []
    for length in lengths:
        types = draw(0, 2, length) if row.token_types else None
        ids = draw(FIRST_ID, 18, length - 1)
        # the last token differs: without absolute positions, equal tokens make attention uniform and its gradients noise
        texts.append(EncodedText((*ids, 20), draw(0, length, 1)[0], types))
    return texts


def plain_logits(model: LogitModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns one text's logits [c] from the network as Hugging Face made it: all tokens, the whole vocabulary."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "read_position"}
    position = int(batch["read_position"])
    network: Any = model.network
    if isinstance(model, HeadModel):
        logits = nn.functional.linear(network(**inputs).last_hidden_state[0, position], model.head.weight, model.head.bias)
    else:
        logits = network(**inputs).logits[0, position][model.label_ids]  # type: ignore[index]
    return logits[1:] - logits[:1] if model.difference else logits


def oracle(model: LogitModel, batches: Sequence[Mapping[str, Tensor]], trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Returns the Jacobian {name: [n, c, p]} by ``torch.autograd.grad``, one text and logit at a time."""
    rows: dict[str, list[Tensor]] = {name: [] for name in trainable}
    for batch in batches:
        logits = plain_logits(model, batch)
        found = [torch.autograd.grad(f, list(trainable.values()), retain_graph=True, allow_unused=True) for f in logits]
        for index, (name, parameter) in enumerate(trainable.items()):
            parts = [torch.zeros_like(parameter) if each[index] is None else each[index] for each in found]
            rows[name].append(torch.stack([part.flatten() for part in parts]))
    return {name: torch.stack(each) for name, each in rows.items()}


def alone(model: LogitModel, texts: Sequence[EncodedText]) -> list[dict[str, Tensor]]:
    """Returns every text as a batch of one without padding."""
    return [collate([text], pad_id(model)) for text in texts]


def flat(jacobian: Mapping[str, Tensor], without: Mapping[str, Tensor] | None = None) -> Tensor:
    """Returns the Jacobian [n, c, p] with the masked coordinates set to zero."""
    masks = without or {}
    return torch.cat([torch.where(masks[name], 0.0, part) if name in masks else part for name, part in jacobian.items()], 2)


# kernel -> (sign of the rows' gradient, sign of the columns'), as SPEC defines them; not the library's own table
ORACLE_SIGNS = {"sgd": (False, False), "signgd": (True, True), "asigngd": (True, False), "asigngd_flipped": (False, True)}


def kernel_of(name: str, rows: Tensor, columns: Tensor) -> Tensor:
    """Returns the named kernel [n, c, m, d] of two Jacobians, by the definition."""
    row_sign, column_sign = ORACLE_SIGNS[name]
    return torch.einsum("ncp,mdp->ncmd", rows.sign() if row_sign else rows, columns.sign() if column_sign else columns)


def relative_distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())
