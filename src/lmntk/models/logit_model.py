"""LogitModel: a module from a batch of tokens to logits [n, c]. Nothing to the right of ``models/`` knows more.

``PromptModel`` reads the label words' logits of a masked language model at the mask; ``HeadModel`` puts a linear layer on the
first token's features. Both read one position, so everything above the encoder runs for one token instead of all,
and of the decoder only the label words' rows are computed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmntk.errors import UserError

NETWORK_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class LogitModel(nn.Module):
    """A network whose ``forward(batch)`` returns logits [n, c].

    With ``difference=True`` two logits are folded into their difference f = f_1 - f_0, so c = 1 and labels are -1, +1.
    """

    def __init__(self, network: nn.Module, outputs: int, difference: bool) -> None:
        super().__init__()
        if difference and outputs != 2:
            raise UserError(f"difference: needs exactly two classes, not {outputs}; use all logits")
        self.network = network
        self.difference = difference
        self.outputs = 1 if difference else outputs

    def selected_rows(self) -> Mapping[nn.Module, Tensor]:
        """Returns the modules that compute only some of their output rows, and which."""
        return {}

    def fold(self, logits: Tensor) -> Tensor:
        """Returns logits [n, 2] as their difference [n, 1] when the model is one of differences, else as they are."""
        return logits[:, 1:2] - logits[:, 0:1] if self.difference else logits


def network_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the part of a batch that the network takes."""
    return {name: batch[name] for name in NETWORK_INPUTS if name in batch}


@contextmanager
def reading_one_position(base: nn.Module, positions: Tensor) -> Iterator[None]:
    """While the body runs, the base model hands on the hidden states [n, 1, i] of one position an example."""

    def cut(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        hidden = output[0]
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        chosen = hidden[rows, positions].unsqueeze(1)
        if isinstance(output, tuple):
            return (chosen, *output[1:])
        output["last_hidden_state"] = chosen
        return output

    handle = base.register_forward_hook(cut)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def computing_rows(decoder: nn.Linear, rows: Tensor) -> Iterator[None]:
    """While the body runs, the decoder computes these rows of its output only."""

    def forward(hidden: Tensor) -> Tensor:
        bias = None if decoder.bias is None else decoder.bias[rows]
        return nn.functional.linear(hidden, decoder.weight[rows], bias)

    decoder.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del decoder.forward


class PromptModel(LogitModel):
    """The label words' masked-language-model logits at the mask: f_c(x) = logit of word c.

    Args:
        network: a Hugging Face ``*ForMaskedLM``.
        label_ids: the c token ids of the label words.
        difference: fold two label words into one output.
    """

    def __init__(self, network: Any, label_ids: Sequence[int], difference: bool = False) -> None:
        super().__init__(network, len(label_ids), difference)
        decoder = network.get_output_embeddings()
        if not isinstance(decoder, nn.Linear) or decoder.weight.shape[0] != network.config.vocab_size:
            raise UserError(
                f"model: {type(network).__name__} has no linear decoder over its vocabulary; load it as a masked language model"
            )
        self.register_buffer("label_ids", torch.tensor(list(label_ids)), persistent=False)
        self.label_ids: Tensor

    def selected_rows(self) -> Mapping[nn.Module, Tensor]:
        """Returns the decoder with the label words' rows."""
        return {self.network.get_output_embeddings(): self.label_ids}  # type: ignore[operator]

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the logits [n, c] of a batch with ``input_ids``, ``attention_mask`` [n, t] and ``read_position`` [n]."""
        network: Any = self.network
        with (
            reading_one_position(network.base_model, batch["read_position"]),
            computing_rows(network.get_output_embeddings(), self.label_ids),
        ):
            logits = network(**network_inputs(batch)).logits
        return self.fold(logits[:, 0])


class HeadModel(LogitModel):
    """A linear layer on the first token's features: f(x) = W h(x) + b.

    Args:
        network: a Hugging Face model; its base model's last hidden state is read.
        head: the linear layer [c, i], as the linear probe leaves it.
        difference: fold two classes into one output.
    """

    def __init__(self, network: Any, head: nn.Linear, difference: bool = False) -> None:
        super().__init__(getattr(network, "base_model", network), head.out_features, difference)
        self.head = head

    def features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the features h(x) [n, i]."""
        hidden: Tensor = self.network(**network_inputs(batch))[0]
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), batch["read_position"]]

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the logits [n, c]."""
        return self.fold(self.head(self.features(batch)))


def untie_head(network: Any) -> None:
    """Gives the decoder of a masked language model its own copy of the weight, in place.

    Tied, the one weight's gradient has the cross terms of both uses; untied, embedding and decoder count apart, as in
    the reference.
    """
    decoder = network.get_output_embeddings()
    embedding = network.get_input_embeddings()
    if decoder.weight is embedding.weight:
        decoder.weight = nn.Parameter(copy.deepcopy(decoder.weight.detach()))
    network.config.tie_word_embeddings = False
