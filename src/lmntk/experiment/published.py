"""Kernels that the paper's code saved: tuples of tensors, read as tensors alone.

For each of train, dev and test there is ``{side}_kernels_{task}.pt``, a tuple (kernel, labels): the kernel
[N, C, M, C] of the N train texts against the side's M, or [2, N, C, M, C] of A-SignGD, with the sign on the train
side first and on the other side second; and ``{side}_logits_{task}.pt``, a tuple (logits [M, C], labels). Labels of
one logit are -1 and +1. A file that holds anything else is refused, and no code in it runs.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmntk.errors import UserError
from lmntk.kernels.formulas import FORMULAS
from lmntk.kernels.kernel import Kernel
from lmntk.runs.split import SIDES
from lmntk.solvers.inputs import Array
from lmntk.tasks import get_task


@dataclass(frozen=True, eq=False)
class Solvable:
    """All that a solver needs of one split.

    Attributes:
        name: of the split, or the task.
        mode: ``prompt`` or ``head``: what the logits are called.
        metric: ``accuracy`` or ``f1``.
        kernels: by (side, formula).
        logits: [n, c] by side, before training; empty where there are none.
        labels: class numbers by side.
        is_classifier: the logits are of the model's own head.
    """

    name: str
    mode: str
    metric: str
    kernels: Mapping[tuple[str, str], Kernel]
    logits: Mapping[str, Array]
    labels: Mapping[str, Sequence[int]]
    is_classifier: bool = False

    @property
    def formulas(self) -> tuple[str, ...]:
        """The formulas whose kernels are there on all sides."""
        return tuple(
            formula for formula in FORMULAS if all((side, formula) in self.kernels for side in SIDES)
        )


def published(
    folder: Path, task: str, formulas: Sequence[str] | None = None, metric: str | None = None
) -> Solvable:
    """Return the kernels that the paper's code saved of a task."""
    kernels: dict[tuple[str, str], Kernel] = {}
    logits: dict[str, Array] = {}
    labels: dict[str, list[int]] = {}
    paths = {side: _file(folder, f"{side}_kernels_{task}.pt") for side in SIDES}
    beside = {side: _file(folder, f"{side}_logits_{task}.pt", required=False) for side in SIDES}
    absent = [side for side, path in beside.items() if path is None]
    if 0 < len(absent) < len(SIDES):
        raise UserError(
            f"kernels: no file {absent[0]}_logits_{task}.pt in {str(folder)!r}, and other sides have one; give all three or none"
        )
    for side, path in paths.items():
        values, truth = _pair(path)
        kernel = _kernel(path, values, formulas)
        kernels[side, kernel.formula] = kernel
        n, c, m, _ = kernel.values.shape
        labels[side] = _labels(path, truth, c, m)
        first = (
            kernels["train", kernel.formula].values.shape if ("train", kernel.formula) in kernels else None
        )
        if first is None or (n, c) != first[:2] or (side == "train" and n != m):
            other = "no kernel of its kind" if first is None else f"{list(first)}, the train kernel's"
            raise UserError(
                f"kernels: {path} has the shape {list(values.shape)}, which does not fit {other}; give files of one computation"
            )
        if beside[side] is not None:
            values = _pair(beside[side])[0]
            if tuple(values.shape) != (m, c):
                raise UserError(
                    f"kernels: {beside[side]} has the shape {list(values.shape)}, and {path} asks for {[m, c]}; "
                    "give both of one run"
                )
            logits[side] = values.double().numpy()
    return Solvable(task, "prompt", metric or _metric(task), kernels, logits, labels)


def _metric(task: str) -> str:
    try:
        return get_task(task).metric
    except UserError:
        raise UserError(
            f"task: {task!r} is not one of the 14, so its metric is not known; give --metric accuracy or f1"
        ) from None


def _file(folder: Path, name: str, required: bool = True) -> Any:
    """Return a file by its name, case aside, or None where it is not required."""
    match = {path.name.casefold(): path for path in sorted(folder.iterdir())}.get(name.casefold())
    if match is None and required:
        tasks = sorted(
            {path.stem.removeprefix("train_kernels_") for path in folder.glob("train_kernels_*.pt")}
        )
        hint = (
            f"it has kernels of {', '.join(tasks)}"
            if tasks
            else "name a run's folder, or one of the paper's files"
        )
        raise UserError(f"kernels: no file {name} in {str(folder)!r}; {hint}")
    return match


def _pair(path: Path) -> tuple[Tensor, Tensor]:
    """Return the two tensors in a file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"kernels: {path} is damaged, or holds more than tensors, reading which could run somebody else's code; it is refused. If you "
            "trust it, save it again as a tuple of two tensors"
        ) from None
    except Exception as error:  # of a damaged file torch says anything
        raise UserError(
            f"kernels: cannot read {path} ({' '.join(str(error).split())[:120]}); is it whole?"
        ) from error
    if (
        not isinstance(content, tuple | list)
        or len(content) != 2
        or not all(isinstance(part, Tensor) for part in content)
    ):
        raise UserError(
            f"kernels: {path} is not a tuple of two tensors, values and labels; give a file of the paper's code"
        )
    return _numbers(path, content[0]), _numbers(path, content[1])


def _numbers(path: Path, found: Tensor) -> Tensor:
    """Return a tensor that has its own numbers.

    Raises:
        UserError: it is sparse, quantised, complex, empty, of no device, or not finite.
    """
    kinds = {
        "sparse": found.layout != torch.strided or found.is_nested,
        "without numbers (meta)": found.is_meta,
        "quantised": found.is_quantized,
        "complex": found.is_complex(),
        "empty": found.numel() == 0,
    }
    wrong = next((kind for kind, is_so in kinds.items() if is_so), "")
    if not wrong and not bool(torch.isfinite(found.detach().float()).all()):
        wrong = "of numbers that are not all finite"
    if wrong:
        raise UserError(
            f"kernels: {path} holds a tensor that is {wrong}; save plain, finite numbers, as the paper's code does"
        )
    return found.detach()


def _kernel(path: Path, values: Tensor, formulas: Sequence[str] | None) -> Kernel:
    shape = list(values.shape)
    sides = values if values.ndim == 5 else values[None]
    if values.ndim not in (4, 5) or (values.ndim == 5 and shape[0] != 2) or sides.shape[2] != sides.shape[4]:
        raise UserError(
            f"kernels: {path} has the shape {shape}, which is not a kernel: [N, C, M, C], or [2, N, C, M, C] of A-SignGD"
        )
    arrays = sides.double().numpy()
    symmetric = [formula for formula in formulas or () if formula != "asigngd"] or ["sgd"]
    if values.ndim == 5:
        return Kernel("asigngd", arrays[0], arrays[1])
    if len(formulas or ()) > 1:
        raise UserError(f"formulas: {path} holds one kernel [N, C, M, C], of sgd or signgd; say which one")
    return Kernel(symmetric[0], arrays[0])


def _labels(path: Path, found: Tensor, c: int, m: int) -> list[int]:
    """Return class numbers of labels: as they are, or 0 and 1 of -1 and +1."""
    values = found.reshape(-1).double().numpy()
    if c == 1 and values.size and values.min() < 0:
        values = (values > 0).astype(np.float64)
    if values.size != m or (values != values.round()).any() or values.min() < 0 or values.max() >= max(c, 2):
        raise UserError(
            f"kernels: the labels in {path}, of shape {list(found.shape)}, are no class numbers of {m} texts and {max(c, 2)} classes"
        )
    return [int(value) for value in values]
