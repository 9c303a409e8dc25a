"""A kernel's spectrum, by which it learns fast or slowly, and the labels' share along each eigenvector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from lmntk.errors import UserError
from lmntk.solvers.inputs import Array, as_train_kernel, encode_labels, symmetric_matrix, target_matrix


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The spectrum of a train kernel [n, c, n, c].

    Attributes:
        eigenvalues: [n c], the largest first.
        alignment: [n c], the share of the centred labels' squared norm along each eigenvector; they sum to 1.
        target_alignment: y^T K y / (|y|^2 ||K||_F) with the centred labels y, between 0 and 1 (Cristianini et
            al. 2001): 1 where the kernel is y y^T.
        effective_rank: exp of the entropy of eigenvalues / trace (Roy and Vetterli 2007), between 1 and n c.
    """

    eigenvalues: Array
    alignment: Array
    target_alignment: float
    effective_rank: float


def spectrum(kernel: Array, labels: Sequence[int]) -> Spectrum:
    """Return the spectrum of an sgd or signgd kernel, against centred labels.

    The labels are -1, +1, or one-hot, less their mean, logit by logit.

    Gradient flow learns the part of the labels along an eigenvector at the rate of its eigenvalue. Cost: one
    eigendecomposition.

    Raises:
        UserError: a kernel that is not symmetric, or labels of one class.
    """
    kernel = as_train_kernel(kernel)
    c = kernel.shape[1]
    targets = target_matrix(encode_labels(labels, c), c)
    y = (targets - targets.mean(0)).ravel()
    values, vectors = np.linalg.eigh(symmetric_matrix(kernel, "the spectrum"))
    values, vectors = values[::-1], vectors[:, ::-1]
    shares = (vectors.T @ y) ** 2 / (y @ y)
    norm = float(np.sqrt((values**2).sum()))
    weights = values.clip(min=0)
    total = float(weights.sum())
    weights = weights[weights > 0] / total if total > 0 else weights[:0]
    return Spectrum(
        eigenvalues=values,
        alignment=shares,
        target_alignment=float((values * shares).sum() / norm) if norm > 0 else 0.0,
        effective_rank=float(np.exp(-(weights * np.log(weights)).sum())) if len(weights) else 0.0,
    )


def group_shares(groups: Mapping[str, Array]) -> dict[str, float]:
    """Return each parameter group's share of the trace of a kernel [n, c, n, c].

    The trace is the sum of all texts' squared gradient norms.

    Raises:
        UserError: no groups, or a kernel without a trace.
    """
    return shares_of(
        {name: float(np.einsum("ncnc->", as_train_kernel(values))) for name, values in groups.items()}
    )


def shares_of(traces: Mapping[str, float]) -> dict[str, float]:
    """Return each trace's share of their sum.

    Raises:
        UserError: there are none, or their sum is 0.
    """
    total = sum(traces.values())
    if not traces or not total > 0:
        raise UserError("groups: the kernel has no parameter groups with a trace; compute it with a grouping")
    return {name: trace / total for name, trace in traces.items()}


def readable_groups(model: nn.Module) -> Callable[[str], str]:
    """Return the function from a parameter's name to its group: embeddings, layer 0, layer 1, ..., or head.

    Lookup tables, and what stands beside them under the name embeddings, are ``embeddings``; a name with a
    number is of that layer; the rest, the final norm among it, is ``head``. A decoder tied to the table goes
    with it.
    """
    tables = {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for p in module.parameters(recurse=False)
    }
    ids = {name: id(parameter) for name, parameter in model.named_parameters()}

    def group(name: str) -> str:
        number = next((part for part in name.split(".") if part.isdigit()), None)
        if number is not None:
            return f"layer {int(number)}"
        return "embeddings" if ids.get(name) in tables or "embeddings" in name else "head"

    return group
