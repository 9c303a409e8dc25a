"""Tangent kernels of pre-trained language models under fine-tuning: computed, solved, explained.

The folders read as the pipeline, and each knows only those to its left:

    tasks -> prompts -> models -> tangents -> kernels -> solvers -> reports

One letter code for axes holds everywhere: n, m examples (training, evaluation); c, d logits; t, s tokens;
i, o a layer's input and output; p coordinates of a parameter; r rows.

The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Example": "lmntk.tasks",
    "Experiment": "lmntk.experiment.configuration",
    "ClassifierModel": "lmntk.models.logit_model",
    "EnsembleEncoder": "lmntk.prompts",
    "HeadEncoder": "lmntk.prompts",
    "HeadModel": "lmntk.models.logit_model",
    "Kernel": "lmntk.kernels.kernel",
    "LogitModel": "lmntk.models.logit_model",
    "ParameterFilter": "lmntk.models.filters",
    "PromptEncoder": "lmntk.prompts",
    "PromptModel": "lmntk.models.logit_model",
    "UserError": "lmntk.errors",
    "compute_kernels": "lmntk.engine.compute",
    "load_pretrained": "lmntk.models.loading",
    "module_kernels": "lmntk.engine.compute",
    "read_data": "lmntk.tasks",
    "register_rule": "lmntk.tangents.rules",
    "run": "lmntk.experiment.run",
    "solve_grid": "lmntk.solvers",
    "stream_kernels": "lmntk.engine.stream",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Imports a public name from its home."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lmntk' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted(__all__)
