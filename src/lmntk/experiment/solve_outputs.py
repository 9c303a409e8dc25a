"""Outputs of ``lmntk kernel`` as something to solve: three folders with the kernels of the same training texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.experiment.kernel_labels import LABELS, KernelLabels
from lmntk.experiment.published import Solvable
from lmntk.kernels.formulas import FORMULAS
from lmntk.kernels.kernel import Kernel
from lmntk.runs.split import SIDES
from lmntk.runs.store import LOGITS
from lmntk.solvers.inputs import Array
from lmntk.system.kept import load_arrays
from lmntk.tasks import TASKS

NEEDS = (
    "solving takes three outputs of `lmntk kernel` in one folder, of the same --train: DIR/train with the training texts as "
    "--eval too, DIR/dev and DIR/test, all with labels"
)
_VARIES = (
    "eval",
    "noise_coordinates_left_out",
    "precision_loss",
    "versions",
)  # of one training set's kernels


def is_output(folder: Path) -> bool:
    """Return whether ``lmntk kernel`` wrote into a folder, or into one of those for the sides."""
    return any(map(_is_written, (folder, *(folder / side for side in SIDES))))


def of_outputs(folder: Path, task: str | None, metric: str | None) -> Solvable:
    """Return the kernels, logits and labels of three outputs.

    Args:
        folder: with ``train``, ``dev`` and ``test``, each an output.
        task: a name; of one of the 14 tasks it says the metric too.
        metric: accuracy, unless the task says another.

    Raises:
        UserError: an output is missing, is without labels, or is of other texts, another model or another prompt.
    """
    if _is_written(folder):
        raise UserError(f"kernels: {str(folder)!r} is one output; {NEEDS}; name DIR")
    kernels: dict[tuple[str, str], Kernel] = {}
    logits: dict[str, Array] = {}
    labels: dict[str, list[int]] = {}
    first: tuple[Any, Any] | None = None
    for side in SIDES:
        one = folder / side
        if not _is_written(one):
            raise UserError(
                f"kernels: {str(folder)!r} has no output of `lmntk kernel` called {side}; {NEEDS}"
            )
        of_side = {
            formula: Kernel.load(path)
            for formula in FORMULAS
            if (path := one / f"{formula}.safetensors").is_file()
        }
        known = KernelLabels.read(one)
        for kernel in of_side.values():
            origin = kernel.provenance
            if known is None or known.texts != (origin.get("train"), origin.get("eval")):
                raise UserError(
                    f"kernels: {str(one)!r} has no labels of its texts; run its `lmntk kernel` again with files that have "
                    "a label column: the kernels are kept"
                )
            if side == "train" and origin["eval"] != origin["train"]:
                raise UserError(
                    f"kernels: {str(one)!r} does not have the training texts as --eval too; {NEEDS}"
                )
            shared = {name: value for name, value in origin.items() if name not in _VARIES}
            first = first or (shared, known.classes)
            if first != (shared, known.classes):
                differing = [name for name in shared if shared[name] != first[0].get(name)] or ["classes"]
                raise UserError(
                    f"kernels: {str(one)!r} is of another {differing[0]} than {str(folder / SIDES[0])!r}; {NEEDS}"
                )
        assert known is not None  # a folder without kernels has not got this far
        numbers = known.evaluate
        if None in numbers:
            raise UserError(
                f"kernels: {str(one)!r}: text {numbers.index(None) + 1} has no label; give every text one, and run it again"
            )
        labels[side] = [number for number in numbers if number is not None]
        logits[side] = load_arrays(one / LOGITS)[0]["eval"]
        kernels |= {(side, formula): kernel for formula, kernel in of_side.items()}
    usual = TASKS[task].metric if task in TASKS else "accuracy"
    return Solvable(task or folder.absolute().name, "prompt", metric or usual, kernels, logits, labels)


def _is_written(folder: Path) -> bool:
    has_kernels = any((folder / f"{formula}.safetensors").is_file() for formula in FORMULAS)
    return has_kernels and ((folder / LOGITS).is_file() or (folder / LABELS).is_file())
