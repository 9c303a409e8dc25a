# The public names: `__init__.py` imports them from here when they are first used, and type checkers read this file alone.
# Relative imports of names, one a line to a home; other statements lazy-loader does not follow.

from .engine.adapter_kernels import AdapterCandidate, adapter_kernels
from .engine.compute import PromptedTexts, compute_kernels, kernels_of_prompt, module_kernels
from .engine.kernel_work import KernelWork
from .engine.progress import Listener
from .engine.settings import Settings
from .engine.sketched import sketch_kernels, sketch_within
from .engine.stream import stream_kernels
from .errors import UserError
from .estimator.classifier import TangentClassifier
from .estimator.features import TangentFeatures
from .experiment.configuration import Experiment
from .experiment.run import run
from .kernels.grid import SubspaceGrid, lora_candidates, part_candidates, plain_candidates
from .kernels.kernel import Kernel
from .kernels.lora import LoraStart
from .kernels.sketches import Sketch
from .kernels.subspaces import Candidate, Subspaces
from .models.filters import ParameterFilter
from .models.loading import load_pretrained
from .models.logit_model import ClassifierModel, HeadModel, LogitModel, PromptModel
from .models.parts import parts_of
from .prompts import EnsembleEncoder, HeadEncoder, PromptEncoder
from .solvers import solve_grid
from .tangents.rules import register_rule
from .tasks import Example, read_data

__all__ = [
    "AdapterCandidate",
    "Candidate",
    "ClassifierModel",
    "EnsembleEncoder",
    "Example",
    "Experiment",
    "HeadEncoder",
    "HeadModel",
    "Kernel",
    "KernelWork",
    "Listener",
    "LogitModel",
    "LoraStart",
    "ParameterFilter",
    "PromptEncoder",
    "PromptModel",
    "PromptedTexts",
    "Settings",
    "Sketch",
    "SubspaceGrid",
    "Subspaces",
    "TangentClassifier",
    "TangentFeatures",
    "UserError",
    "__version__",
    "adapter_kernels",
    "compute_kernels",
    "kernels_of_prompt",
    "load_pretrained",
    "lora_candidates",
    "module_kernels",
    "part_candidates",
    "parts_of",
    "plain_candidates",
    "read_data",
    "register_rule",
    "run",
    "sketch_kernels",
    "sketch_within",
    "solve_grid",
    "stream_kernels",
]

__version__: str
