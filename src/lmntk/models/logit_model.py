"""LogitModel: a module from a batch of tokens to logits [n, c]. Later folders know no more of a model.

``PromptModel`` reads the label words' logits of a language model, masked, causal or sequence-to-sequence, at
one position; ``HeadModel`` puts a linear layer on features; ``ClassifierModel`` is a stock checkpoint with a
trained head of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lmntk.errors import UserError
from lmntk.models.hidden_states import (
    EncoderDecoder,
    computing_rows,
    is_encoder_decoder,
    outputs_of,
    reading_one_position,
    source_of_hidden_states,
    without_wrapper,
)
from lmntk.models.vocabulary import head_of, is_tied
from lmntk.prompts.batching import members

Features = Literal["read", "pooled", "mean"]


class LogitModel(nn.Module):
    """A network whose ``forward(batch)`` returns logits [n, c].

    With ``difference=True`` two logits are folded into their difference f = f_1 - f_0, so c = 1 and labels
    are -1, +1.
    """

    def __init__(self, network: nn.Module, outputs: int, difference: bool) -> None:
        super().__init__()
        if difference and outputs != 2:
            raise UserError(f"difference: needs exactly two classes, not {outputs}; use all logits")
        self.network = network
        self.difference = difference
        self.outputs = 1 if difference else outputs

    def selected_rows(self) -> Mapping[nn.Module, Tensor]:
        """Return the modules that compute only some of their output rows, and which."""
        return {}

    def body(self) -> Sequence[nn.Module]:
        """Return the modules that make the hidden states: what is not among them is the head."""
        network: Any = self.network
        if is_encoder_decoder(network):
            return [network.get_encoder(), network.get_decoder()]
        return [getattr(network, "base_model", network)]

    def fold(self, logits: Tensor) -> Tensor:
        """Return logits [n, 2] as their difference [n, 1] if the model is one of differences."""
        return logits[:, 1:2] - logits[:, 0:1] if self.difference else logits


class PromptModel(LogitModel):
    """The label words' logits at the position that is read: f_c(x) = sum_u weight[c, u] logit of token u.

    Where several templates make an ensemble, the mean over them.

    Args:
        network: a Hugging Face language model with a vocabulary's head, or a ``PeftModel`` of one.
        label_ids: the token ids of the label words, all different.
        difference: fold two classes into one output.
        label_weights: the weights [c, u] of the tokens in each class; None: one token a class, in order.
    """

    def __init__(
        self,
        network: Any,
        label_ids: Sequence[int],
        difference: bool = False,
        label_weights: Sequence[Sequence[float]] | None = None,
    ) -> None:
        network = without_wrapper(network)
        super().__init__(network, len(label_ids) if label_weights is None else len(label_weights), difference)
        if head_of(network) is None:
            raise UserError(
                f"model: {type(network).__name__} has no head over a vocabulary; "
                "use a language model, or head mode"
            )
        self.register_buffer("label_ids", torch.tensor(list(label_ids)), persistent=False)
        self.label_ids: Tensor
        self._rows_suffice: bool | None = None  # not known before the first batch
        weights = None if label_weights is None else torch.tensor(label_weights, dtype=torch.float64)
        self.register_buffer("label_weights", weights, persistent=False)
        self.label_weights: Tensor | None

    def _linear_decoder(self) -> nn.Linear | None:
        """Return the head's linear layer if it is a plain one, of which single rows can be computed."""
        decoder = head_of(self.network)
        return decoder if isinstance(decoder, nn.Linear) else None

    def selected_rows(self) -> Mapping[nn.Module, Tensor]:
        """Return the decoder with the label words' rows."""
        decoder = self._linear_decoder()
        return {decoder: self.label_ids} if decoder is not None and self._rows_suffice else {}

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits [n, c] of ``input_ids``, ``attention_mask`` [n, t] and ``read_position`` [n].

        Sequence-to-sequence networks also take ``decoder_input_ids`` [n, s], and the position is one of them.
        """
        parts = [self._one_template(part) for part in members(batch)]
        logits = parts[0] if len(parts) == 1 else torch.stack(parts).mean(0)
        if self.label_weights is not None:
            logits = logits @ self.label_weights.to(logits.dtype).T
        return self.fold(logits)

    def vocabulary_logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits [n, v] of every token at the position that is read, of the first template."""
        first = members(batch)[0]
        with reading_one_position(source_of_hidden_states(self.network), first["read_position"]) as read:
            return read(outputs_of(self.network, first).logits)

    def prepare(self, batch: Mapping[str, Tensor]) -> None:
        """Find out, once, whether the label words' rows alone are the same model.

        It is done before hooks watch the network.
        """
        if self._rows_suffice is None:
            self._rows_suffice = self._try_rows(
                {name: tensor[:1] for name, tensor in members(batch)[0].items()}
            )

    def _one_template(self, batch: Mapping[str, Tensor]) -> Tensor:
        self.prepare(batch)
        return self._read(batch, bool(self._rows_suffice))

    def _try_rows(self, batch: Mapping[str, Tensor]) -> bool | None:
        """Return whether the label words' rows alone give one text the whole vocabulary's logits.

        Not so where a network uses the decoder's weight without calling the decoder, or adds to its output
        itself. None where this batch does not tell, its logits being no numbers.
        """
        if self._linear_decoder() is None:
            return False
        with torch.no_grad():
            whole = self._read(batch, False)
            if not bool(torch.isfinite(whole).all()):
                return None
            try:
                rows = self._read(batch, True)
            except (RuntimeError, IndexError):
                return False
        return rows.shape == whole.shape and torch.allclose(
            rows, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max())
        )

    def _read(self, batch: Mapping[str, Tensor], only_rows: bool) -> Tensor:
        decoder = self._linear_decoder() if only_rows else None
        rows = nullcontext() if decoder is None else computing_rows(self.network, decoder, self.label_ids)
        with (
            reading_one_position(source_of_hidden_states(self.network), batch["read_position"]) as read,
            rows,
        ):
            logits = read(outputs_of(self.network, batch).logits)
        return logits[:, self.label_ids] if decoder is None else logits


class HeadModel(LogitModel):
    """A linear layer on features: f(x) = W h(x) + b.

    Args:
        network: a Hugging Face model, or a ``PeftModel``; its base model's last hidden states are read.
        head: the linear layer [c, i], as the linear probe leaves it.
        difference: fold two classes into one output.
        features: ``read``: the hidden state at the position that is read (an encoder's first token, a
            decoder's last); ``mean``: of all tokens; ``pooled``: what the network's own pooler makes of the
            first token.
    """

    def __init__(
        self, network: Any, head: nn.Linear, difference: bool = False, features: Features = "read"
    ) -> None:
        network = without_wrapper(network)
        base = (
            EncoderDecoder(network)
            if is_encoder_decoder(network)
            else getattr(network, "base_model", network)
        )
        super().__init__(base, head.out_features, difference)
        if features == "pooled" and getattr(self.network, "pooler", None) is None:
            raise UserError(f"features: {type(self.network).__name__} has no pooler; use read or mean")
        if features == "mean" and isinstance(base, EncoderDecoder):
            raise UserError(
                f"features: {type(network).__name__} is read at its decoder's first token; use read, not mean"
            )
        self.head = head
        self.kind: Features = features

    def body(self) -> Sequence[nn.Module]:
        """Return the base model."""
        return [self.network]

    def features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the features h(x) [n, i]."""
        output = outputs_of(self.network, batch)
        if self.kind == "pooled":
            pooled: Tensor = output.pooler_output
            return pooled
        hidden: Tensor = output[0]
        if self.kind == "mean":
            mask = batch["attention_mask"][:, :, None].to(hidden.dtype)
            return (hidden * mask).sum(1) / mask.sum(1)
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), batch["read_position"]]

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits [n, c]."""
        return self.fold(self.head(self.features(batch)))


class ClassifierModel(LogitModel):
    """A stock ``*ForSequenceClassification`` with its own trained head, or a ``PeftModel`` of one."""

    def __init__(self, network: Any, difference: bool = False) -> None:
        network = without_wrapper(network)
        super().__init__(network, network.config.num_labels, difference)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits [n, c]."""
        return self.fold(outputs_of(self.network, batch).logits)


def untie_head(network: Any) -> None:
    """Give the head of a language model its own copy of the weight shared with the embedding, in place.

    Tied, the one weight's gradient has the cross terms of both uses; untied, embedding and decoder count
    apart, as in the reference.
    """
    decoder: Any = head_of(network)
    if is_tied(network):
        decoder.weight = nn.Parameter(
            copy.deepcopy(decoder.weight.detach()), requires_grad=decoder.weight.requires_grad
        )
    network.config.tie_word_embeddings = False
