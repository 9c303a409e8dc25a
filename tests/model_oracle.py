"""The plain twin of every kernel: autograd on the network as Hugging Face made it, one text and one logit at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from model_row import FIRST_ID, Row
from torch import Tensor, nn

from lmntk.models.configuration import setting
from lmntk.models.logit_model import ClassifierModel, HeadModel, LogitModel
from lmntk.prompts.batching import collate
from lmntk.prompts.encoding import EncodedText


def pad_id(model: LogitModel) -> int:
    return int(setting(model.network.config, "pad_token_id", 0))


def random_texts(row: Row, lengths: Sequence[int], seed: int) -> list[EncodedText]:
    """Returns texts in which tokens, label words among them, are often repeated; the read position is anywhere."""
    generator = torch.Generator().manual_seed(seed)

    prefix = (2, 3) if row.reading == "decoder" else None

    def draw(low: int, high: int, count: int) -> tuple[int, ...]:
        return tuple(torch.randint(low, high, (count,), generator=generator).tolist())

    texts = []
    for length in lengths:
        types = draw(0, 2, length) if row.token_types else None
        ids = draw(FIRST_ID, 18, length - 1)
        # the last token differs: without absolute positions, equal tokens make attention uniform and its gradients noise
        position = {"last": length - 1, "decoder": len(prefix or ()) - 1}.get(
            row.reading, draw(0, length, 1)[0]
        )
        texts.append(EncodedText((*ids, 20), position, types, decoder_ids=prefix))
    return texts


def plain_logits(model: LogitModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns one text's logits [c] from the network as Hugging Face made it: all tokens, the whole vocabulary."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "read_position"}
    position = int(batch["read_position"])
    network: Any = model.network
    if isinstance(model, HeadModel):
        output = network(**inputs)
        features = {
            "read": lambda: output[0][0, position],
            "mean": lambda: output[0][0].mean(0),
            "pooled": lambda: output.pooler_output[0],
        }
        logits = nn.functional.linear(features[model.kind](), model.head.weight, model.head.bias)
    elif isinstance(model, ClassifierModel):
        logits = network(**inputs).logits[0]
    else:
        logits = network(**inputs).logits[0, position][model.label_ids]  # type: ignore[index]
    return logits[1:] - logits[:1] if model.difference else logits


def _without_rounding(name: str, gradient: Tensor) -> Tensor:
    """Returns a router's gradient [e, h] without rounding error in place of zero.

    Mixtral's weights sum to one over the experts chosen, so the others' scores do not matter, and a text's gradient is zero in the
    rows of experts that it never chooses. The softmax is float32: autograd returns 1e-6 of the rest or less there.
    """
    if not name.endswith(".mlp.gate.weight"):
        return gradient
    sizes = gradient.abs().amax(1, keepdim=True)
    return torch.where(sizes < 1e-5 * sizes.max(), 0.0, gradient)


def oracle(
    model: LogitModel, batches: Sequence[Mapping[str, Tensor]], trainable: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Returns the Jacobian {name: [n, c, p]} by ``torch.autograd.grad``, one text and logit at a time."""
    rows: dict[str, list[Tensor]] = {name: [] for name in trainable}
    for batch in batches:
        logits = plain_logits(model, batch)
        found = [
            torch.autograd.grad(f, list(trainable.values()), retain_graph=True, allow_unused=True)
            for f in logits
        ]
        for index, (name, parameter) in enumerate(trainable.items()):
            parts = [torch.zeros_like(parameter) if each[index] is None else each[index] for each in found]
            rows[name].append(torch.stack([_without_rounding(name, part).flatten() for part in parts]))
    return {name: torch.stack(each) for name, each in rows.items()}


def alone(model: LogitModel, texts: Sequence[EncodedText]) -> list[dict[str, Tensor]]:
    """Returns every text as a batch of one without padding."""
    return [collate([text], pad_id(model)) for text in texts]


def flat(jacobian: Mapping[str, Tensor], without: Mapping[str, Tensor] | None = None) -> Tensor:
    """Returns the Jacobian [n, c, p] with the masked coordinates set to zero."""
    masks = without or {}
    return torch.cat(
        [torch.where(masks[name], 0.0, part) if name in masks else part for name, part in jacobian.items()], 2
    )


# kernel -> (sign of the rows' gradient, sign of the columns'), written down once more: not the library's own table
ORACLE_SIGNS = {
    "sgd": (False, False),
    "signgd": (True, True),
    "asigngd": (True, False),
    "asigngd_flipped": (False, True),
}


def kernel_of(name: str, rows: Tensor, columns: Tensor) -> Tensor:
    """Returns the named kernel [n, c, m, d] of two Jacobians, by the definition."""
    row_sign, column_sign = ORACLE_SIGNS[name]
    return torch.einsum(
        "ncp,mdp->ncmd", rows.sign() if row_sign else rows, columns.sign() if column_sign else columns
    )


def relative_distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())
