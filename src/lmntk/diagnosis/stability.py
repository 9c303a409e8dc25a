"""The largest learning rate at which gradient descent is stable, as the kernel predicts it.

Near theta_0 the logits of the n training texts move by df = - eta (1/n) K chi(f), and chi changes by H df, H
the Hessian of a text's loss by its logits. Descent on a loss that is quadratic (squared), or bounded by one
(cross-entropy), converges for eta < 2 / s, where s is the sharpness, the largest eigenvalue of (1/n) H^1/2 K
H^1/2:

* squared: H = 1, so eta < 2 n / lambda_max(K), exactly: above it the residual along that eigenvector grows;
* cross-entropy at f0: H = diag(p) - p p^T, for one logit p (1 - p). Local: training changes p, towards
  smaller H once texts are fitted;
* cross-entropy, whatever f: H <= 1/2, for one logit 1/4; descent below 2 / s never diverges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax

from lmntk.errors import UserError
from lmntk.solvers.inputs import Array, as_logits, as_train_kernel, symmetric_matrix


@dataclass(frozen=True)
class StableRates:
    """Largest stable learning rates.

    Attributes:
        full_batch: of gradient descent on all n texts; with cross-entropy, near f0.
        for_every_f: the same with the loss's largest curvature, so it holds all along the training of the
            linearized model.
        every_minibatch: a rate at which no minibatch's step overshoots its own loss, whatever texts are in
            it; see ``stable_rates``.
    """

    full_batch: float
    for_every_f: float
    every_minibatch: float


def stable_rates(
    kernel: Array, f0: Array | None = None, loss: str = "squared", batch_size: int | None = None
) -> StableRates:
    """Return the largest stable learning rates that an sgd kernel [n, c, n, c] predicts.

    Args:
        kernel: of the training texts.
        f0: pre-trained logits [n, c], for the cross-entropy.
        loss: ``squared`` or ``cross-entropy``, a mean over the batch.
        batch_size: b of minibatch descent; by default n.

    Minibatches: a step of b texts is stable by itself for eta < 2 b / lambda_max(K_BB), with the loss's
    curvature as above. For no batch is lambda_max(K_BB) larger than lambda_max(K), nor than the sum of the b
    largest lambda_max of single texts' blocks; ``every_minibatch`` takes the smaller of the two, and so is
    cautious; so it does for the n mod b texts of a pass's last batch. Batches drawn at random follow
    full-batch descent on average, whose limit is ``full_batch``, with noise on top that the kernel alone does
    not bound: between the two rates training may or may not be stable. Assumed throughout: descent without
    momentum, no clipping (which hides divergence: steps stay bounded, and the loss goes up and down), the
    kernel of theta_0.

    Cost: one eigendecomposition of n c x n c.

    Raises:
        UserError: no f0 with the cross-entropy, or an unknown loss.
    """
    kernel = as_train_kernel(kernel)
    n, c = kernel.shape[:2]
    size = n if batch_size is None else min(batch_size, n)
    sizes = {size, n % size} - {0}  # a pass's last batch has what is left
    if loss == "squared":
        largest, local = 1.0, np.broadcast_to(np.eye(c), (n, c, c))
    elif loss == "cross-entropy":
        if f0 is None:
            raise UserError(
                "stable rates: the cross-entropy's curvature is at the pre-trained logits f0; pass them"
            )
        largest, local = (0.25 if c == 1 else 0.5), _roots(as_logits(f0, (n, c), "f0"))
    else:
        raise UserError(f"loss: {loss!r} is not one of cross-entropy, squared")
    matrix = symmetric_matrix(kernel, "the stable rate")
    curved = np.einsum("nab,nbmc,mcd->namd", local, matrix.reshape(n, c, n, c), local, optimize=True).reshape(
        n * c, n * c
    )
    top = _largest_eigenvalue(matrix)
    blocks = np.sort(np.linalg.eigvalsh(kernel[np.arange(n), :, np.arange(n)])[:, -1])[::-1]
    return StableRates(
        full_batch=_rate(n, _largest_eigenvalue(curved)),
        for_every_f=_rate(n, largest * top),
        every_minibatch=min(_rate(b, largest * min(top, float(blocks[:b].sum()))) for b in sizes),
    )


def _rate(count: int, eigenvalue: float) -> float:
    return 2.0 * count / eigenvalue if eigenvalue > 0 else float("inf")


def _largest_eigenvalue(matrix: Array) -> float:
    from scipy.linalg import eigh

    top = len(matrix) - 1
    return float(eigh((matrix + matrix.T) / 2, eigvals_only=True, subset_by_index=[top, top])[0])


def _roots(logits: Array) -> Array:
    """Return the square roots [n, c, c] of the cross-entropy's Hessians by the logits."""
    if logits.shape[1] == 1:
        p = expit(logits)
        return np.asarray(np.sqrt(p * (1 - p))[:, :, None])
    p = softmax(logits, axis=1)
    hessians = p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None, :]
    values, vectors = np.linalg.eigh(hessians)
    return np.asarray((vectors * np.sqrt(values.clip(min=0))[:, None, :]) @ vectors.mT)
