"""The formulas of kernels, and on which side each takes the gradients' signs."""

from __future__ import annotations

from collections.abc import Sequence

FORMULAS = ("sgd", "signgd", "asigngd")
FLIPPED = "asigngd_flipped"
# kernel name -> (sign on the row side, sign on the column side)
SIGNS = {
    "sgd": (False, False),
    "signgd": (True, True),
    "asigngd": (True, False),
    FLIPPED: (False, True),
}
SYMMETRIC = ("sgd", "signgd")  # of texts with themselves


def kernel_names(formulas: Sequence[str]) -> list[str]:
    """Return the kernels that the formulas need; ``asigngd`` needs both orientations."""
    names = []
    for formula in formulas:
        names += ["asigngd", FLIPPED] if formula == "asigngd" else [formula]
    return names
