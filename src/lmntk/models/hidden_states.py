"""Reading a network at one position: its modules below make hidden states, those above run for one token.

A vocabulary's head costs as much as several layers when it scores every token; here it scores the one that is
read, and computes the rows of the label words alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from lmntk.errors import ModelError, UserError, one_line
from lmntk.models.configuration import setting
from lmntk.models.kinds import can_do_without_cache, has_kind, kinds_of
from lmntk.models.vocabulary import head_of, table_of

NETWORK_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids")


def without_wrapper(network: Any) -> Any:
    """Return the network inside a ``PeftModel``, adapter and all; any other network as it is.

    Raises:
        UserError: what is trained is no part of that network.
    """
    get_base_model = getattr(network, "get_base_model", None)
    if get_base_model is None:
        return network
    config = getattr(network, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise UserError(
            f"adapter: {type(config).__name__.removesuffix('Config')} is one of prompt learning, which changes no "
            "layer; use LoRA, DoRA or IA3"
        )
    return get_base_model()


def is_encoder_decoder(network: Any) -> bool:
    """Return whether a network has an encoder and a decoder, as T5 and BART have."""
    return bool(setting(getattr(network, "config", None), "is_encoder_decoder", False))


def is_decoder_only(network: Any) -> bool:
    """Return whether a network predicts the next token (GPT-2, Llama): a token sees those before it."""
    config = getattr(network, "config", None)
    return config is not None and "causal" in kinds_of(config)


def network_arguments(network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of the network's forward for a batch.

    Decoder-only networks get positions that count real tokens, so that padding on the left changes nothing; not
    those of an encoder's family, which count from another number (RoBERTa). Nobody gets a cache of keys and
    values who can do without.
    """
    accepted = inspect.signature(network.forward).parameters
    arguments: dict[str, Any] = {name: batch[name] for name in NETWORK_INPUTS if name in batch}
    if "position_ids" in accepted and is_decoder_only(network) and not has_kind(network.config, "masked"):
        arguments["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    if "use_cache" in accepted and can_do_without_cache(network.config):
        arguments["use_cache"] = False
    return arguments


def outputs_of(network: nn.Module, batch: Mapping[str, Tensor]) -> Any:
    """Return what the network makes of a batch; see ``call``."""
    return call(network, network_arguments(network, batch))


def call(network: nn.Module, arguments: Mapping[str, Tensor]) -> Any:
    """Return what the network makes of these arguments.

    Raises:
        ModelError: the network's own code fails; memory that runs out is not its fault.
    """
    try:
        return network(**arguments)
    except (ModelError, UserError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        if "memory" in str(error) or "CUDA" in str(error):
            raise
        raise ModelError(f"{type(network).__name__} cannot run a batch: {one_line(error)}") from error


def source_of_hidden_states(network: Any) -> nn.Module | None:
    """Return the module inside a network whose output the vocabulary's head reads; None where none is known.

    It is the decoder or the base model by name, unless that is the network itself or holds the head (Llama 4's
    text model calls itself its decoder); then the child that looks the tokens up.
    """
    head, table = head_of(network), table_of(network)
    named = (
        network.get_decoder()
        if is_encoder_decoder(network) or is_decoder_only(network)
        else network.base_model
    )
    if isinstance(named, nn.Module) and named is not network and not _holds(named, head):
        return named
    for child in network.children():
        if _holds(child, table) and not _holds(child, head):
            return cast("nn.Module", child)
    return None


def base_of(network: Any) -> nn.Module:
    """Return what makes the hidden states of a network that has no decoder of its own: its base model, else itself."""
    base: nn.Module = getattr(network, "base_model", network)
    has_head = head_of(network) is not None
    return (source_of_hidden_states(network) or base) if base is network and has_head else base


def _holds(module: nn.Module, inner: nn.Module | None) -> bool:
    return inner is not None and any(each is inner for each in module.modules())


@contextmanager
def reading_one_position(source: nn.Module | None, positions: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """Let ``source`` hand on the hidden states [n, 1, i] of one position an example, while the body runs.

    Yields what takes the position's row [n, o] from the network's output [n, 1, o]; or from [n, t, o], without
    a source, or of a network that calls its parts by another way than through it.
    """
    rows = torch.arange(len(positions), device=positions.device)
    is_cut = []

    def cut(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        is_cut.append(True)
        chosen = output[0][rows, positions].unsqueeze(1)
        if isinstance(output, tuple):
            return (chosen, *output[1:])
        output["last_hidden_state"] = chosen
        return output

    with ExitStack() as stack:
        if source is not None:
            stack.callback(source.register_forward_hook(cut).remove)
        yield lambda output: output[:, 0] if is_cut else output[rows, positions]


@contextmanager
def computing_rows(network: nn.Module, decoder: nn.Linear, rows: Tensor) -> Iterator[None]:
    """Let the decoder compute these rows of its output only, while the body runs.

    Constants that the network itself adds over the vocabulary (BART's ``final_logits_bias``) are cut to the
    same rows.
    """

    def forward(hidden: Tensor) -> Tensor:
        bias = None if decoder.bias is None else decoder.bias[rows]
        return nn.functional.linear(hidden, decoder.weight[rows], bias)

    vocabulary = decoder.weight.shape[0]
    whole = {
        name: buffer
        for name, buffer in network.named_buffers(recurse=False)
        if buffer.dim() and buffer.shape[-1] == vocabulary
    }
    with ExitStack() as stack:
        decoder.forward = forward  # type: ignore[method-assign, assignment]
        stack.callback(vars(decoder).pop, "forward")
        for name, buffer in whole.items():
            stack.callback(network._buffers.__setitem__, name, buffer)
            network._buffers[name] = buffer[..., rows]
        yield


class EncoderDecoder(nn.Module):
    """The encoder and decoder of a sequence-to-sequence network, without its vocabulary's head."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder = network.get_encoder()
        self.decoder = network.get_decoder()
        self.config = network.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Any:
        """Return the decoder's output, hidden states [n, t, i] first."""
        encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        return self.decoder(
            input_ids=decoder_input_ids,
            encoder_hidden_states=encoded,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        )
