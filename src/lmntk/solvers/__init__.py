"""Predictions from kernels: ridge, asymmetric least squares, logistic, support vectors, and their settings.

Axes, here and in every module of this folder: n / m are train / eval examples, c / d the logits of a train /
eval example. A kernel is float64 [N, C, M, C] (first pair: train); flattened it is [N C, M C] with the logit
as the fast axis. C = 1 is the *difference* output with targets {-1, +1}; C >= 2 has one-hot targets, and the
prediction is the argmax. For `asigngd`, `values` has the sign on the train side, <sign g_c(x_n), g_d(x_m)>,
and `values_flipped` on the eval side.

Importing this package imports neither scipy nor scikit-learn; the names below load their modules on first
use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_MODULE_OF = {
    "AsymmetricPath": "asymmetric",
    "AsymmetricSVM": "asymmetric",
    "GridResult": "result",
    "KernelLogistic": "logistic",
    "KernelRidge": "ridge",
    "KernelSVC": "support_vector",
    "KernelSVR": "support_vector",
    "KernelWarning": "inputs",
    "RidgePath": "ridge_path",
    "RowLogistic": "row_logistic",
    "SOLVERS": "grid",
    "Selection": "selection",
    "Solver": "grid",
    "SolverInputs": "inputs",
    "Summary": "selection",
    "aggregate": "selection",
    "default_grid": "grid",
    "predict_labels": "selection",
    "select_on_dev": "selection",
    "select_on_leave_one_out": "selection",
    "solve_grid": "grid",
}

if TYPE_CHECKING:
    from lmntk.solvers.asymmetric import AsymmetricPath, AsymmetricSVM
    from lmntk.solvers.grid import SOLVERS, Solver, default_grid, solve_grid
    from lmntk.solvers.inputs import KernelWarning, SolverInputs
    from lmntk.solvers.logistic import KernelLogistic
    from lmntk.solvers.result import GridResult
    from lmntk.solvers.ridge import KernelRidge
    from lmntk.solvers.ridge_path import RidgePath
    from lmntk.solvers.row_logistic import RowLogistic
    from lmntk.solvers.selection import (
        Selection,
        Summary,
        aggregate,
        predict_labels,
        select_on_dev,
        select_on_leave_one_out,
    )
    from lmntk.solvers.support_vector import KernelSVC, KernelSVR

__all__ = [
    "SOLVERS",
    "AsymmetricPath",
    "AsymmetricSVM",
    "GridResult",
    "KernelLogistic",
    "KernelRidge",
    "KernelSVC",
    "KernelSVR",
    "KernelWarning",
    "RidgePath",
    "RowLogistic",
    "Selection",
    "Solver",
    "SolverInputs",
    "Summary",
    "aggregate",
    "default_grid",
    "predict_labels",
    "select_on_dev",
    "select_on_leave_one_out",
    "solve_grid",
]


def __getattr__(name: str) -> Any:
    """Load the module that defines `name`.

    scikit-learn takes half a second, so only those who solve pay for it.
    """
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, so that completion shows what is loaded lazily."""
    return sorted(__all__)
