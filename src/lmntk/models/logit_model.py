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

from lmntk.errors import ModelError, UserError
from lmntk.models.hidden_states import (
    NETWORK_INPUTS,
    EncoderDecoder,
    base_of,
    call,
    computing_rows,
    is_encoder_decoder,
    outputs_of,
    reading_one_position,
    source_of_hidden_states,
    without_wrapper,
)
from lmntk.models.invariants import READING
from lmntk.models.rounding import same
from lmntk.models.vocabulary import head_of, is_tied
from lmntk.prompts.batching import members

Features = Literal["read", "pooled", "mean"]


class LogitModel(nn.Module):
    """A network whose ``forward(batch)`` returns logits [n, c].

    With ``difference=True`` two logits are folded into their difference f = f_1 - f_0, so c = 1 and labels
    are -1, +1.

    A subclass says what is read: ``reading``, ``unfolded`` and ``plain`` have no meaning here.

    Args:
        network: what is called.
        outputs: the number of logits before they are folded.
        difference: fold them.
        users: the network as the user has it, with all that is around it.
    """

    def __init__(
        self, network: nn.Module, outputs: int, difference: bool, users: nn.Module | None = None
    ) -> None:
        super().__init__()
        if difference and outputs != 2:
            raise UserError(f"difference: needs exactly two classes, not {outputs}; use all logits")
        self.network = network
        # in a tuple, for it is no part of the model: its parameters keep the names that they have without it
        self.users = (network if users is None else users,)
        self.difference = difference
        self.outputs = 1 if difference else outputs
        self.combination: Tensor | None = None

    def selected_rows(self) -> Mapping[nn.Module, Tensor]:
        """Return the modules that compute only some of their output rows, and which."""
        return {}

    def body(self) -> Sequence[nn.Module]:
        """Return the modules that make the hidden states: what is not among them is the head."""
        network: Any = self.network
        if is_encoder_decoder(network):
            return [network.get_encoder(), network.get_decoder()]
        return [base_of(network)]

    @property
    def reading(self) -> str:
        """The place at which the network is read, in words."""
        raise NotImplementedError

    def unfolded(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits [n, c] of every class."""
        raise NotImplementedError

    def plain(self, text: Mapping[str, Tensor]) -> tuple[Tensor, float]:
        """Return the logits [1, c] of every class that the user's own network gives one text alone, and their scale.

        The network is called as its user would call it, whole and without help. The scale is the size of the
        numbers of which the logits are made: differences that are small beside it are rounding.
        """
        raise NotImplementedError

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits [n, c]."""
        return self.fold(self.unfolded(batch))

    def _call(self, text: Mapping[str, Tensor]) -> Any:
        """Return what the user's network makes of one text, given its tokens alone."""
        (network,) = self.users
        return call(network, {name: text[name] for name in NETWORK_INPUTS if name in text})

    def fold(self, logits: Tensor) -> Tensor:
        """Return logits [n, 2] as their difference [n, 1] if the model is one of differences; or as they are combined."""
        if self.combination is not None:
            return logits @ self.combination.to(logits)
        return logits[:, 1:2] - logits[:, 0:1] if self.difference else logits


def combined(model: LogitModel, weights: Tensor) -> LogitModel:
    """Return a model whose outputs are combinations of the logits: f_k = sum_c weights[c, k] f_c.

    It shares all parameters with ``model``, which stays as it is.

    Args:
        model: with an output for every class.
        weights: [c, k].
    """
    changed = copy.copy(model)
    changed.difference, changed.combination, changed.outputs = False, weights, int(weights.shape[1])
    return changed


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
        users, network = network, without_wrapper(network)
        outputs = len(label_ids) if label_weights is None else len(label_weights)
        super().__init__(network, outputs, difference, users)
        if head_of(network) is None:
            raise UserError(
                f"model: {type(network).__name__} has no head over a vocabulary; "
                "use a language model, or head mode"
            )
        self.register_buffer("label_ids", torch.tensor(list(label_ids)), persistent=False)
        self.label_ids: Tensor
        # the module that is cut to the position, and whether the label words' rows are enough: not known before the first batch
        self._cut: tuple[nn.Module | None] | None = None
        self._rows_suffice: bool | None = None
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

    @property
    def reading(self) -> str:
        """The place at which the network is read, in words."""
        return "the label words' logits at the position that is read"

    def unfolded(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits [n, c] of ``input_ids``, ``attention_mask`` [n, t] and ``read_position`` [n].

        Sequence-to-sequence networks also take ``decoder_input_ids`` [n, s], and the position is one of them.
        """
        return self._of_classes([self._one_template(part) for part in members(batch)])

    def plain(self, text: Mapping[str, Tensor]) -> tuple[Tensor, float]:
        """Return the logits that the user's own network gives one text alone, and the vocabulary's largest."""
        read = [self._call(part).logits[:, int(part["read_position"])] for part in members(text)]
        scale = max(float(logits.abs().max()) for logits in read)
        return self._of_classes([logits[:, self.label_ids] for logits in read]), scale

    def _of_classes(self, templates: Sequence[Tensor]) -> Tensor:
        """Return the mean over the templates of the label words' logits, as each class weighs them."""
        logits = templates[0] if len(templates) == 1 else torch.stack(list(templates)).mean(0)
        if self.label_weights is not None:
            logits = logits @ self.label_weights.to(logits.dtype).T
        return logits

    def vocabulary_logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits [n, v] of every token at the position that is read, of the first template."""
        first = members(batch)[0]
        self.prepare(batch)
        with reading_one_position(self._source(), first["read_position"]) as read:
            return read(outputs_of(self.network, first).logits)

    def prepare(self, batch: Mapping[str, Tensor]) -> None:
        """Find out, once, how little of the network has to be computed for the same logits.

        That is the head at the one position, and of the vocabulary the label words' rows. It is tried on the text
        that is read last, before hooks watch the network.
        """
        if self._cut is None:
            first = members(batch)[0]
            at = int(first["read_position"].argmax())
            self._cut, self._rows_suffice = self._try({name: t[at : at + 1] for name, t in first.items()})

    def _source(self) -> nn.Module | None:
        return None if self._cut is None else self._cut[0]

    def _one_template(self, batch: Mapping[str, Tensor]) -> Tensor:
        self.prepare(batch)
        return self._read(batch, self._source(), bool(self._rows_suffice))

    def _try(self, batch: Mapping[str, Tensor]) -> tuple[tuple[nn.Module | None] | None, bool]:
        """Return which module is cut and whether rows suffice, of the cheapest way that gives a text the same logits.

        A cut has no effect where a network calls its parts otherwise; rows do not suffice where one uses the
        decoder's weight without calling the decoder, or adds to its output itself. The first is None where this
        batch does not tell, its logits being no numbers.
        """
        source, has_rows = source_of_hidden_states(self.network), self._linear_decoder() is not None
        with torch.no_grad():
            whole = self._read(batch, None, False)
            if not bool(torch.isfinite(whole).all()):
                return None, False
            for cut, rows in ((source, True), (None, True), (source, False)):
                if (rows and not has_rows) or (cut is None and source is None and not rows):
                    continue
                try:
                    logits = self._read(batch, cut, rows)
                except (RuntimeError, IndexError, ModelError):
                    continue
                if logits.shape == whole.shape and same(logits, whole):
                    return (cut,), rows
        return (None,), False

    def _read(self, batch: Mapping[str, Tensor], source: nn.Module | None, only_rows: bool) -> Tensor:
        decoder = self._linear_decoder() if only_rows else None
        rows = nullcontext() if decoder is None else computing_rows(self.network, decoder, self.label_ids)
        with reading_one_position(source, batch["read_position"]) as read, rows:
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
        users, network = network, without_wrapper(network)
        base = EncoderDecoder(network) if is_encoder_decoder(network) else base_of(network)
        super().__init__(base, head.out_features, difference, users)
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

    @property
    def reading(self) -> str:
        """The place at which the network is read, in words."""
        places = {
            "read": "the hidden state at the position that is read",
            "mean": "the mean hidden state",
            "pooled": "the pooler's output",
        }
        return places[self.kind]

    def features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the features h(x) [n, i]."""
        return self._features_of(outputs_of(self.network, batch), batch)

    def _features_of(self, output: Any, batch: Mapping[str, Tensor]) -> Tensor:
        if self.kind == "pooled":
            pooled: Tensor = output.pooler_output
            return pooled
        hidden: Tensor = output[0]
        if self.kind == "mean":
            mask = batch["attention_mask"][:, :, None].to(hidden.dtype)
            return (hidden * mask).sum(1) / mask.sum(1)
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), batch["read_position"]]

    def unfolded(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits [n, c] of every class."""
        logits: Tensor = self.head(self.features(batch))
        return logits

    def plain(self, text: Mapping[str, Tensor]) -> tuple[Tensor, float]:
        """Return the head on the hidden states that one text alone has in the user's own network, run whole."""
        source = self.network.decoder if isinstance(self.network, EncoderDecoder) else self.network
        outputs: list[Any] = []
        handle = source.register_forward_hook(lambda module, arguments, output: outputs.append(output))
        try:
            self._call(text)
        finally:
            handle.remove()
        if not outputs:
            raise READING.broken(
                f"{type(self.users[0]).__name__} does not call the {type(source).__name__} that is read, so what it "
                "computes is unknown here: give a model of another class"
            )
        features = self._features_of(outputs[-1], text)
        logits: Tensor = self.head(features)
        scale = float((features.abs() @ self.head.weight.abs().T).max())
        return logits, max(scale, float(logits.abs().max()))


class ClassifierModel(LogitModel):
    """A stock ``*ForSequenceClassification`` with its own trained head, or a ``PeftModel`` of one."""

    def __init__(self, network: Any, difference: bool = False) -> None:
        users, network = network, without_wrapper(network)
        super().__init__(network, network.config.num_labels, difference, users)

    @property
    def reading(self) -> str:
        """The place at which the network is read, in words."""
        return "the classifier's own logits"

    def unfolded(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits [n, c] of every class."""
        logits: Tensor = outputs_of(self.network, batch).logits
        return logits

    def plain(self, text: Mapping[str, Tensor]) -> tuple[Tensor, float]:
        """Return the logits that the user's own network gives one text alone, and the largest."""
        logits: Tensor = self._call(text).logits
        return logits, float(logits.abs().max())


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
