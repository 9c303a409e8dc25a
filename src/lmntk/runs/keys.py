"""The keys of a split: what its kernels, its results and the means over its results depend on.

Every key begins with the split's content: the model, what turns texts into tokens, and the very texts. Results
of several splits stand in one mean if they share a key but for the texts and the seed: the *setup*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmntk.kernels.kernel import KERNEL_VERSION
from lmntk.solvers.grid import SOLVER_VERSION, SOLVERS, default_grid
from lmntk.system.hashing import Key

SETUP = 16  # letters of a setup's digest


@dataclass(frozen=True)
class SplitKeys:
    """The keys of one split.

    Attributes:
        content: the model, the encoder and the texts: what a training and a baseline depend on.
        settings: what kernels depend on beside the content: groups, noise and precision.
        metric: accuracy or f1.
        test_limit: the most test texts of a split.
    """

    content: Key
    settings: Key
    metric: str
    test_limit: int

    @property
    def kernels(self) -> Key:
        """All that the kernels depend on."""
        return self.content.also(version=KERNEL_VERSION, **self.settings)

    @property
    def results(self) -> Key:
        """All that the results of a method depend on, whatever other methods are asked for."""
        grids = {solver: default_grid(solver) for solver in SOLVERS}
        return Key(version=SOLVER_VERSION, kernels=self.kernels.digest, grids=grids, metric=self.metric)

    def setup(self, of: str, **more: Any) -> str:
        """Return the hash of what results must share to stand in one mean.

        Args:
            of: kernel, baseline or training.
            more: what the results depend on beside the content.
        """
        if of == "kernel":
            more |= {
                name: self.settings[name]
                for name in ("keep_noise", "precision", "shared", "contrasts")
                if name in self.settings
            }
        key = self.content.but("examples").also(of=of, metric=self.metric, test_limit=self.test_limit, **more)
        return key.digest[:SETUP]
