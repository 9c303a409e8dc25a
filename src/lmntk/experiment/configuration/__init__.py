"""Typed configurations of what lmntk computes: their fields, from flags, from a TOML file, or from both.

A field's description, default and group are the command line's too: ``lmntk.cli.options`` makes options of the fields.
"""

from lmntk.experiment.configuration.experiment import Experiment
from lmntk.experiment.configuration.fine_tuning import FineTuning
from lmntk.experiment.configuration.fit import Audit, Fit
from lmntk.experiment.configuration.own_task import OwnTask
from lmntk.experiment.configuration.parts import Computation
from lmntk.experiment.configuration.prompts import Prompts
from lmntk.experiment.configuration.reading import (
    from_flags,
    load_experiment,
    make_experiment,
    read_toml,
)
from lmntk.experiment.configuration.subspace import Subspace
from lmntk.experiment.configuration.text_kernels import FactorKernels, TextKernels

__all__ = [
    "Audit",
    "Computation",
    "Experiment",
    "FactorKernels",
    "FineTuning",
    "Fit",
    "OwnTask",
    "Prompts",
    "Subspace",
    "TextKernels",
    "from_flags",
    "load_experiment",
    "make_experiment",
    "read_toml",
]
