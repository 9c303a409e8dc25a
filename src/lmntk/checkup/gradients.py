"""Checks of a model's gradients: every parameter's caught, as autograd has them, rounding noise counted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lmntk.checkup.findings import Finding, Level, counted, some
from lmntk.engine.start_up import check_model
from lmntk.models.invariants import (
    COVERAGE,
    GRADIENTS,
    INFLUENCE,
    NOISE,
    REACH,
    READING,
    WHOLE,
    InvariantError,
)
from lmntk.models.state import Batch
from lmntk.tangents.capture import capture
from lmntk.tangents.comparison import autograd_gradients
from lmntk.tangents.coverage import Coverage, without
from lmntk.tangents.factors import Tangents
from lmntk.tangents.noise import noise_coordinates
from lmntk.tangents.rules import rule_of

# Largest relative 2-norm error. In float32 sound models have 1e-8 to 1e-6; Llama-like ones compute in float32
# even in float64.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
# Of the whole gradient's 2-norm: a parameter's gradient that is smaller may be rounding noise alone.
FLOOR = {torch.float64: 1e-8, torch.float32: 1e-5}
REPEATS = 2  # of a timing, of which the shortest counts


def check_gradients(
    model: nn.Module,
    batch: Batch,
    alone: Sequence[Batch],
    trainable: Mapping[str, nn.Parameter],
    read: Sequence[Batch] = (),
) -> tuple[list[Finding], Coverage | None]:
    """Return the findings of the start-up check: how a model is read, and its gradients beside plain autograd's.

    The batch is of one text or two, ``alone`` the same without their padding; ``read`` are those whose logits are
    compared with the plain network's, the longest first.

    A parameter without a rule is a fault, for its gradient is right but costly; one whose module has a rule
    and is passed by (its weight is used without a call, as some tables of relative positions) only a note.
    """
    try:
        coverage = check_model(model, trainable, batch, alone, read)
    except RuntimeError as error:
        broken = error.invariant if isinstance(error, InvariantError) else WHOLE.name
        return [Finding(broken, "fault", " ".join(str(error).split()))], None
    size = sum(parameter.numel() for parameter in trainable.values())
    by_autograd = [name for name in coverage.fallback if name not in coverage.unused]
    covered = len(trainable) - len(by_autograd)
    details = {
        "tensors": len(trainable),
        "entries": size,
        "covered_by_rules": covered,
        "by_plain_autograd": by_autograd,
        "rule_is_wrong": list(coverage.wrong),
        "without_influence": list(coverage.unused),
        "batched": coverage.batched,
    }
    counts = f"{counted(len(trainable), 'parameter')} with {size:,} entries"
    line = (
        f"{counts}, all covered by rules"
        if not by_autograd
        else f"{counts}, {covered} covered by rules, the others by plain autograd"
    )
    findings = [Finding("coverage", "fine", line, details)]
    if coverage.reading is not None:
        shown = f"the logits are those that the network gives each text alone (to {coverage.reading:.1e})"
        findings.insert(
            0, Finding(READING.name, "fine", shown, {"largest_relative_difference": coverage.reading})
        )
    if by_autograd:
        findings += _by_autograd(model, coverage, _cost(model, batch, trainable, coverage))
    if not coverage.batched:
        reason = (
            coverage.reason if " " in coverage.reason else f"{coverage.reason} runs without the batch axis"
        )
        findings.append(
            Finding(
                "speed",
                "note",
                f"texts go one at a time, about three times as long: {reason}",
                {"reason": reason},
            )
        )
    line = (
        f"the captured gradients agree with autograd to {coverage.worst:.1e} of a parameter's largest entry, "
        f"a kernel entry to {coverage.entry:.1e}"
    )
    figures = {"largest_relative_error": coverage.worst, "kernel_entry": coverage.entry}
    findings.append(Finding(GRADIENTS.name, "fine", line, figures))
    if coverage.unreached:
        line = (
            f"autograd does not reach {counted(len(coverage.unreached), 'parameter')}, which training would not "
            f"move and kernels do not count: {some(coverage.unreached)}"
        )
        findings.append(Finding(REACH.name, "note", line, {"names": list(coverage.unreached)}))
    if coverage.unused:
        line = (
            f"{counted(len(coverage.unused), 'parameter')} without influence on the logits: "
            f"{some(coverage.unused)}"
        )
        level: Level = "fault" if len(coverage.unused) + len(coverage.unreached) == len(trainable) else "note"
        findings.append(Finding(INFLUENCE.name, level, line, {"names": list(coverage.unused)}))
    return findings, coverage


def _by_autograd(model: nn.Module, coverage: Coverage, cost: float) -> list[Finding]:
    """Return faults of parameters with a wrong rule or none, and a note on those used past their module."""
    owners = _owners(model)
    used = [name for name in coverage.fallback if name not in coverage.unused]
    classes = {name: sorted({type(module).__name__ for module in owners[name]}) for name in used}
    without = {
        name: [type(module).__name__ for module in owners[name] if rule_of(module) is None] for name in used
    }
    none = [name for name in used if without[name]]  # of a tied one, one use without a rule is enough
    classes |= {name: sorted(set(without[name])) for name in none}
    wrong = [name for name in coverage.wrong if name not in none]
    past = [name for name in used if name not in none and name not in wrong]
    long = f"which takes {cost:.1f} times as long"
    cases: list[tuple[list[str], Level, str, str]] = [
        (
            none,
            "fault",
            "no rule covers",
            f"computed by plain autograd, {long}; register a rule for the module",
        ),
        (
            wrong,
            "fault",
            "the rule is wrong for",
            f"replaced by plain autograd, {long}; register a right rule for the module",
        ),
        (past, "note", "not used by a call of its module:", f"computed by plain autograd, {long}"),
    ]
    findings = []
    for names, level, begin, end in cases:
        if names:
            shown = some([f"{name} ({', '.join(classes[name])})" for name in names])
            line = f"{begin} {shown}: {end}"
            modules = sorted({kind for name in names for kind in classes[name]})
            findings.append(
                Finding(
                    COVERAGE.name, level, line, {"names": names, "modules": modules, "times_as_long": cost}
                )
            )
    return findings


def _owners(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the modules that have each parameter, all of a tied one's, by the parameter's first name.

    Innermost ones where there are any: BERT's head holds its decoder's bias under a name of its own, too, and
    does not use it.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    owners: dict[str, list[nn.Module]] = {name: [] for name in names.values()}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[names[parameter]].append(module)
    return {
        name: [module for module in owned if next(module.children(), None) is None] or owned
        for name, owned in owners.items()
    }


def _cost(model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter], coverage: Coverage) -> float:
    """Return the time of a capture, in times of one of the parameters with rules alone; at least 1."""
    trainable = without(trainable, coverage.unreached)
    covered = without(trainable, coverage.fallback)
    part = batch if coverage.batched else {name: tensor[:1] for name, tensor in batch.items()}
    shortest = [float("inf")] * 2
    for _ in range(REPEATS):
        for index, (chosen, fallback) in enumerate(((covered, ()), (trainable, coverage.fallback))):
            started = time.perf_counter()
            capture(model, part, chosen, fallback)
            shortest[index] = min(shortest[index], time.perf_counter() - started)
    return max(1.0, shortest[1] / max(shortest[0], 1e-9))


def check_error(
    model: nn.Module,
    together: Batch,
    alone: Sequence[Batch],
    trainable: Mapping[str, nn.Parameter],
    coverage: Coverage,
) -> Finding:
    """Return the relative error (2-norm) of each text's captured gradient against autograd's.

    The one is captured as kernels capture it, autograd's is of the text alone.

    Both the whole gradient's error and each parameter's have to be small; what is wrong in one text only is
    found here.
    """
    tangents = _captured(model, together, alone, trainable, coverage)
    dtype = next(iter(trainable.values())).dtype
    tolerance, floor = TOLERANCE.get(dtype, 1e-2), FLOOR.get(dtype, 1e-3)
    whole_errors, parameter_errors = [], dict.fromkeys(trainable, 0.0)
    for text, batch in enumerate(alone):
        norms, apart = {}, {}
        for name, reference in autograd_gradients(model, batch, trainable).items():
            tangent, index = (tangents[0], text) if coverage.batched else (tangents[text], 0)
            captured = (
                tangent.factors[name].gradients(trainable[name].shape)[:, index]
                if name in tangent.factors
                else None
            )
            if reference is None and captured is None:
                continue
            expected = torch.zeros_like(captured) if reference is None and captured is not None else reference
            assert expected is not None
            difference = expected if captured is None else captured - expected
            norms[name], apart[name] = (float(part.double().norm()) for part in (expected, difference))
        size = _norm(norms)
        whole_errors.append(_norm(apart) / size if size else _norm(apart))
        for name, error in apart.items():
            relative = error / max(norms[name], floor * size / tolerance) if size else error
            parameter_errors[name] = (
                relative if not relative <= parameter_errors[name] else parameter_errors[name]
            )
    wrong = [name for name, error in parameter_errors.items() if not error <= tolerance]
    worst = (
        max(whole_errors)
        if all(error <= tolerance for error in whole_errors)
        else next(e for e in whole_errors if not e <= tolerance)
    )
    details = {
        "relative_errors": whole_errors,
        "by_parameter": {name: parameter_errors[name] for name in wrong},
    }
    texts = counted(len(alone), "text")
    if not wrong and worst <= tolerance:
        return Finding(
            WHOLE.name,
            "fine",
            f"whole gradients of {texts} agree with autograd to {worst:.1e} (relative 2-norm)",
            details,
        )
    largest = max((parameter_errors[name] for name in wrong), default=worst)
    where = (
        f", most in {some(sorted(wrong, key=lambda name: -parameter_errors[name]))} ({largest:.1e})"
        if wrong
        else ""
    )
    line = (
        f"gradients of {texts} differ from autograd by {worst:.1e} (relative 2-norm){where}: "
        "register a right rule for the module"
    )
    return Finding(WHOLE.name, "fault", line, details)


def _captured(
    model: nn.Module,
    together: Batch,
    alone: Sequence[Batch],
    trainable: Mapping[str, nn.Parameter],
    coverage: Coverage,
) -> list[Tangents]:
    """Return the texts' factors: of one batch where the model keeps its texts apart, else one by one."""
    return [
        coverage.capture(model, batch, trainable) for batch in ([together] if coverage.batched else alone)
    ]


def _norm(parts: Mapping[str, float]) -> float:
    return float(sum(part**2 for part in parts.values()) ** 0.5)


def check_noise(
    model: nn.Module,
    together: Batch,
    alone: Sequence[Batch],
    trainable: Mapping[str, nn.Parameter],
    coverage: Coverage,
) -> Finding:
    """Return how many coordinates have a gradient that is rounding noise in all texts, and where."""
    masks = noise_coordinates(_captured(model, together, alone, trainable, coverage))
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    total = sum(counts.values())
    line = f"{counted(total, 'coordinate')} with a gradient that is rounding noise"
    line += f", left out of the sign kernels: {some(list(counts))}" if counts else ""
    return Finding(NOISE.name, "fine", line, {"coordinates": total, "by_parameter": counts})
