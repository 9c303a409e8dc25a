"""Gaussian-process posterior on a kernel: how sure a decision is, and which texts to label so that others get surer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.stats import norm

from lmntk.attribution.parts import Margins
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.solvers.inputs import Array, flatten


@dataclass(frozen=True, eq=False)
class Posterior:
    """Decisions of M texts as a Gaussian process sees them after training.

    The prior is f ~ N(f0 / s, a K), observed with noise a rho, rho being the fitted ridge. The mean is ridge regression's decision; the
    amplitude a maximises the marginal likelihood of the targets t: a = t^T (K + rho I)^-1 t / (N C).

    Attributes:
        mean: decisions [M, C].
        covariance: a (K_xx - K_x^T (K + rho I)^-1 K_x) [M, k, M, k]; k is C, or 1 where the classes share the kernel.
        noise: a rho.
        amplitude: a.
    """

    mean: Array
    covariance: Array
    noise: float
    amplitude: float

    @classmethod
    def of(
        cls,
        refits: RidgeRefits,
        among: Array,
        intercept: Array | float = 0.0,
        basis: Array | None = None,
    ) -> Posterior:
        """Return the posterior on the texts whose outcomes are asked for.

        Cost: once O((N C)^3), and O(N C (M C)^2).

        Args:
            refits: the training.
            among: kernel of these texts [M, k, M, k].
            intercept: what is added to the mean [C].
            basis: of a kernel of contrasts these [C, C - 1]: the likelihood is that of the targets' contrasts, for what all logits have
                in common has no prior variance, and would count as noise.
        """
        texts = refits.texts
        cross, m = flatten(texts.cross), texts.cross_f0.shape[0]
        of_logits = refits.targets()
        seen = of_logits if basis is None else of_logits @ basis
        targets = refits.rows_of(seen if basis is None else seen @ basis.T)
        amplitude = float(np.sum(targets * (refits.inverse @ targets)) / seen.size)
        explained = (cross.T @ (refits.inverse @ cross)).reshape(m, texts.outputs, m, texts.outputs)
        covariance = amplitude * ((among + among.transpose(2, 3, 0, 1)) / 2 - explained)
        return cls(refits.decisions + intercept, covariance, amplitude * refits.ridge, amplitude)

    @property
    def margins(self) -> Margins:
        """The predicted class of each text over the runner-up."""
        return Margins.of(self.mean)

    def sureness(self, covariance: Array | None = None) -> Array:
        """Return the probability that each text's predicted class is above its runner-up [M]: Phi(margin / deviation).

        Args:
            covariance: that remains after more texts are labelled; by default the posterior's.
        """
        margins, values = self.margins, self.covariance if covariance is None else covariance
        at = np.arange(len(values))
        blocks = values[at, :, at]  # (m, k, k)
        if blocks.shape[1] == margins.direction.shape[1]:
            variance = np.einsum("mc,mcd,md->m", margins.direction, blocks, margins.direction)
        else:  # classes that share a kernel are independent, each with the same variance
            variance = blocks[:, 0, 0] * (margins.direction**2).sum(axis=1)
        deviation = np.sqrt(np.maximum(variance, 0.0))
        margin = margins.along(self.mean)
        sure = np.where(margin > 0, 1.0, 0.5)
        return np.asarray(
            np.where(deviation > 0, norm.cdf(margin / np.where(deviation > 0, deviation, 1.0)), sure)
        )

    def labelled(self, covariance: Array, number: int) -> Array:
        """Return the covariance [M, k, M, k] that remains once a text is labelled, whatever its label: one block of a Cholesky factor."""
        m, k = covariance.shape[:2]
        block = covariance[number, :, number] + self.noise * np.eye(k)
        column = covariance[:, :, number].reshape(m * k, k)
        lost = column @ cho_solve(cho_factor(block), column.T)
        return np.asarray(covariance - lost.reshape(covariance.shape))

    def batch(self, count: int) -> list[int]:
        """Return the numbers of the texts to label, the first the most: each is the least sure once those before it are labelled.

        So a text that is like one that was chosen already is sure by then, and does not come again.

        Cost: O(count (M k)^2).
        """
        covariance, chosen = self.covariance, []
        left = np.ones(len(self.mean), dtype=bool)
        for _ in range(min(count, len(self.mean))):
            sureness = np.where(left, self.sureness(covariance), np.inf)
            number = int(sureness.argmin())
            chosen.append(number)
            left[number] = False
            covariance = self.labelled(covariance, number)
        return chosen
