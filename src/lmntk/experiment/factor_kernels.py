"""``lmntk kernel --factors``: kernels of factors that were kept, without the model: of other parameters, or of LoRA at its start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lmntk.engine.compute import as_kernels
from lmntk.engine.stored_factors import Choice, StoredFactors
from lmntk.errors import UserError
from lmntk.experiment.configuration import FactorKernels
from lmntk.experiment.kernel_files import kernel_path, save_kernels, save_logits
from lmntk.kernels.formulas import kernel_names
from lmntk.kernels.gram import EVERYTHING
from lmntk.kernels.grid import ON_ADAPTER
from lmntk.kernels.groups import group_of_layer
from lmntk.kernels.subspaces import Candidate, Subspaces
from lmntk.models.targets import check_rank, parameters_of
from lmntk.system.hashing import versions

ByGroup = dict[str, dict[str, Tensor]]  # kernels, by kernel name and group of parameters


def kernels_of_factors(wanted: FactorKernels) -> dict[str, Any]:
    """Write kernels and logits of factors that ``keep_factors`` left; no model is loaded.

    Of several targets or ranks each has a folder of its own.

    Returns:
        The files with their shapes, a line on the coverage, and the provenance that is in the files.

    Raises:
        UserError: no factors, no such pair, nothing left of the choice, files in ``out`` already, a rank that a layer has not.
    """
    kept = StoredFactors(wanted.factors)
    pair = _pair(wanted, kept)
    choice = Choice(wanted.include, wanted.exclude, wanted.biases_only)
    sets = _sets(wanted, kept, choice)
    folders = {
        (target, rank): _folder(wanted, target, rank)
        for target in sets
        for rank in wanted.lora_rank or (None,)
    }
    for folder in folders.values():
        for formula in wanted.formulas:
            if (path := kernel_path(folder, formula)).exists():
                raise UserError(f"out: {str(path)!r} is there already; name another folder")
    if wanted.lora_rank or wanted.targets:
        values, noise = _of_candidates(wanted, kept, pair, sets)
    else:
        grouping = group_of_layer if wanted.groups else None
        whole, noise = kept.kernels(pair, wanted.formulas, choice, grouping, not wanted.keep_noise)
        values = {("", None): whole}
    rows, columns = pair
    logits = {"train": kept.logits(rows).cpu().numpy(), "eval": kept.logits(columns).cpu().numpy()}
    files: dict[str, list[int]] = {}
    for (target, rank), folder in folders.items():
        provenance = _provenance(wanted, kept, target, rank, noise)
        kernels = as_kernels(values[target, rank], wanted.formulas, wanted.groups, provenance)
        files |= save_kernels(folder, kernels)
        save_logits(folder, logits, provenance)
    return {"files": files, "coverage": f"from the factors in {kept.folder}", "provenance": provenance}


def _sets(wanted: FactorKernels, kept: StoredFactors, choice: Choice) -> Mapping[str, tuple[str, ...]]:
    """Return the names of the parameters that each target takes, or without targets LoRA."""
    if wanted.lora_rank and kept.index.adapted:
        raise UserError(ON_ADAPTER)
    parts = kept.index.parts
    if not wanted.targets:
        sets = {"": kept.adaptable(choice) if wanted.lora_rank else ()}
    elif not parts:
        raise UserError(
            f"targets: the factors in {str(kept.folder)!r} do not say what each parameter is; "
            "take them again, or name parameters with --include"
        )
    else:
        counted = {name: part for name, part in parts.items() if choice.takes(name)}
        low_rank = bool(wanted.lora_rank)
        sets = {target: parameters_of(target, counted, low_rank) for target in wanted.targets}
    for target, names in sets.items():
        inner = tuple(name for name in names if name in parts and parts[name].adaptable)
        if wanted.lora_rank and inner:  # a head has as many outputs as there are classes
            check_rank(max(wanted.lora_rank), target or "all of them", inner, parts)
    return sets


def _of_candidates(
    wanted: FactorKernels, kept: StoredFactors, pair: tuple[str, str], sets: Mapping[str, tuple[str, ...]]
) -> tuple[dict[tuple[str, int | None], ByGroup], int]:
    """Return the kernels of each target at each rank, and how many coordinates were noise."""
    grouped: dict[tuple[str, int | None], dict[str, Candidate]] = {}
    for target, names in sets.items():
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(group_of_layer(name) if wanted.groups else EVERYTHING, []).append(name)
        for rank in wanted.lora_rank or (None,):
            grouped[target, rank] = {
                group: Candidate(f"{target} {rank} {group}", tuple(chosen), rank, wanted.seed)
                for group, chosen in groups.items()
            }
    every = tuple(candidate for groups in grouped.values() for candidate in groups.values())
    found, noise = kept.subspaces(pair, wanted.formulas, Subspaces(every), not wanted.keep_noise)
    return {
        key: {
            name: {group: found[candidate.name][name] for group, candidate in groups.items()}
            for name in kernel_names(wanted.formulas)
        }
        for key, groups in grouped.items()
    }, noise


def _folder(wanted: FactorKernels, target: str, rank: int | None) -> Path:
    """Return the folder of a target and rank: the output folder itself where there is one of each."""
    parts = [target] if len(wanted.targets) > 1 else []
    parts += [f"r{rank}"] if len(wanted.lora_rank) > 1 else []
    return wanted.out / "-".join(parts).replace("/", "_") if parts else wanted.out


def _provenance(
    wanted: FactorKernels, kept: StoredFactors, target: str, rank: int | None, noise: int
) -> dict[str, Any]:
    return {
        "factors": kept.folder.name,
        "pair": list(_pair(wanted, kept)),
        "parameters": {
            "include": list(wanted.include),
            "exclude": list(wanted.exclude),
            "biases_only": wanted.biases_only,
            "target": target or None,
            "lora_rank": rank,
            "seed": None if rank is None else wanted.seed,
        },
        "precision": kept.precision,
        "noise_coordinates_left_out": noise,
        "versions": versions(),
    }


def _pair(wanted: FactorKernels, kept: StoredFactors) -> tuple[str, str]:
    """Return the names of the row texts and the column texts whose kernels are wanted."""
    if not wanted.pair and len(kept.pairs) > 1:
        choice = "; ".join(",".join(pair) for pair in kept.pairs)
        raise UserError(f"pair: there are factors of several pairs; choose one of {choice}")
    pair = wanted.pair or kept.pairs[0]
    if len(pair) != 2:
        raise UserError(f"pair: {','.join(pair)!r} is not ROWS,COLUMNS")
    return pair[0], pair[1]
