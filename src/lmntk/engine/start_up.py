"""The start-up check: what has to hold of a model before a kernel of it is computed, looked at on a few texts.

All that computes kernels or gradients comes through here, the doctor too; the list of what is looked at is
``lmntk.models.invariants``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lmntk.engine.lengths import evenly
from lmntk.kernels.gram import Panel, gram
from lmntk.models.invariants import FINITE, READING, REPEATABLE
from lmntk.models.logit_model import LogitModel
from lmntk.models.rounding import LOGITS, distance
from lmntk.models.state import Batch, frozen
from lmntk.prompts.encoded_text import EncodedText
from lmntk.tangents.coverage import Coverage, check_coverage
from lmntk.tangents.factors import Tangents

READ = 4  # texts whose logits are compared with the plain network's


def check_texts(
    model: nn.Module,
    trainable: Mapping[str, nn.Parameter],
    texts: Sequence[EncodedText],
    collated: Callable[[Sequence[EncodedText]], Batch],
) -> Coverage:
    """Return how the gradients of these texts are to be captured; see ``check_model``.

    The shortest text and the longest are looked at, alone and together, and a few between them are read.
    """
    ordered = sorted(texts, key=lambda text: text.length)
    extremes = [ordered[0], ordered[-1]][: len(ordered)]
    alone = [collated([text]) for text in extremes]
    between = evenly(ordered[1:-1], READ - 2) if len(ordered) > READ else ordered[1:-1]
    return check_model(
        model,
        trainable,
        collated(extremes),
        alone,
        [*reversed(alone), *(collated([text]) for text in between)],
    )


def check_model(
    model: nn.Module,
    trainable: Mapping[str, nn.Parameter],
    together: Batch,
    alone: Sequence[Batch],
    read: Sequence[Batch] | None = None,
) -> Coverage:
    """Return how a model's gradients are to be captured, after a look at all that has to hold of it at the start.

    Args:
        model: from a batch to logits.
        trainable: the parameters that count.
        together: one example, or two in a batch: the shortest and the longest.
        alone: the same, each in a batch of its own, without padding.
        read: examples whose logits are compared with the user's own network's, the longest first; by default
            those alone.

    Raises:
        ModelError: an invariant is broken, and there is no way round it.
    """
    reading, scale = None, 0.0
    if isinstance(model, LogitModel):
        reading, scale = check_reading(model, list(reversed(alone)) if read is None else read)
    return replace(check_coverage(model, together, trainable, alone, scale, _entries), reading=reading)


def check_reading(model: LogitModel, texts: Sequence[Batch]) -> tuple[float, float]:
    """Return the largest difference of texts' logits from those of the user's own network, and the logits' scale.

    The user's network is asked first, of all texts: a model that changes from text to text shows.

    Args:
        model: as it is to be measured.
        texts: each alone, without padding; the longest first.

    Raises:
        InvariantError: they differ by more than rounding.
    """
    (users,) = model.users
    with torch.no_grad(), frozen(users), frozen(model):
        plain = [model.plain(text) for text in texts]
        own = [model.unfolded(text) for text in texts]
        if not all(bool(torch.isfinite(logits).all()) for logits, _ in plain):
            raise FINITE.broken("the logits are not finite: try another dtype or attention implementation")
        errors = [
            distance(logits, expected, scale) for logits, (expected, scale) in zip(own, plain, strict=True)
        ]
        allowed = LOGITS.get(own[0].dtype, 1e-2)
        worst = max(
            range(len(texts)), key=lambda index: errors[index] if errors[index] == errors[index] else 1e9
        )
        if not errors[worst] <= allowed:
            again = distance(model.plain(texts[worst])[0], *plain[worst])
            if not again <= allowed:
                raise REPEATABLE.broken(
                    f"two passes of one text differ by {again:.1e} of the largest logit: "
                    "the model is random, or changes from text to text"
                )
            raise READING.broken(
                f"{model.reading} of {type(users).__name__} differ by {errors[worst]:.1e} from what the network gives "
                "a text when it is called plainly: this class of models cannot be read in this mode"
            )
    return max(errors), max(scale for _, scale in plain)


def _entries(parts: Sequence[Tangents]) -> Mapping[str, Tensor]:
    """Return the kernel of captured examples against themselves, by parameter, as all kernels are contracted."""
    panel = Panel(parts)
    return gram(panel, panel, ["sgd"], grouping=_own_name)["sgd"]


def _own_name(parameter: str) -> str:
    return parameter
