"""Checks of a model's gradients: every parameter's, against autograd, tied ones once, noise counted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lmntk.checkup.findings import Finding, some
from lmntk.models.state import Batch
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import Coverage, autograd_gradients, check_coverage
from lmntk.tangents.noise import noise_coordinates

LARGE = 64  # entries; smaller parameters may well be equal by their initialisation


def check_gradients(model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter]) -> tuple[list[Finding], Coverage | None]:
    """Returns what the captured gradients of a batch are like beside plain autograd, parameter by parameter."""
    try:
        coverage = check_coverage(model, batch, trainable)
    except RuntimeError as error:
        return [Finding("gradients", "fault", " ".join(str(error).split()))], None
    owners = _owners(model)
    uncovered = [f"{name} ({owners.get(name, '?')})" for name in coverage.fallback if name not in coverage.wrong]
    wrong = [f"{name} ({owners.get(name, '?')})" for name in coverage.wrong]
    findings = []
    sizes = sum(parameter.numel() for parameter in trainable.values())
    covered = len(trainable) - len(coverage.fallback)
    details = {
        "parameters": sizes,
        "covered_by_rules": covered,
        "by_plain_autograd": list(coverage.fallback),
        "rule_is_wrong": list(coverage.wrong),
        "without_influence": list(coverage.unused),
        "batched": coverage.batched,
    }
    cost = _cost(model, batch, trainable, coverage) if coverage.fallback else ""
    line = f"{len(trainable)} parameters with {sizes:,} entries, {covered} of them covered by rules"
    findings.append(Finding("coverage", "fine", line, details))
    if uncovered:
        line = f"no rule covers {some(uncovered)}: right, by plain autograd, but {cost}; register a rule for the module"
        findings.append(Finding("rules", "fault", line, {"parameters": list(coverage.fallback)}))
    if wrong:
        line = f"the rule is wrong for {some(wrong)}: passed over for plain autograd, {cost}; register a right rule for the module"
        findings.append(Finding("rules", "fault", line, {"parameters": list(coverage.wrong)}))
    if not coverage.batched:
        line = f"texts go one at a time, about three times as long: {coverage.reason}"
        findings.append(Finding("batches", "note", line, {"reason": coverage.reason}))
    line = f"the captured gradients agree with autograd to {coverage.worst:.1e} of a parameter's largest entry"
    findings.append(Finding("error", "fine", line, {"largest_relative_error": coverage.worst}))
    if coverage.unused:
        line = f"{len(coverage.unused)} parameters have no influence on the logits: {some(coverage.unused)}"
        findings.append(Finding("influence", "note", line))
    return findings, coverage


def _owners(model: nn.Module) -> dict[str, str]:
    """Returns the class of the module that each parameter belongs to."""
    return {
        f"{prefix}.{name}" if prefix else name: type(module).__name__
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


def _cost(model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter], coverage: Coverage) -> str:
    """Returns in words how much longer the plain autograd of some parameters makes a text."""
    covered = {name: parameter for name, parameter in trainable.items() if name not in coverage.fallback}
    if not covered:
        return "every text alone"
    one = {name: tensor[:1] for name, tensor in batch.items()}
    part = batch if coverage.batched else one
    started = time.perf_counter()
    capture(model, part, covered)
    without = time.perf_counter() - started
    started = time.perf_counter()
    capture(model, part, trainable, coverage.fallback)
    return f"{(time.perf_counter() - started) / max(without, 1e-9):.1f} times as long"


def check_error(model: nn.Module, batches: Sequence[Batch], trainable: Mapping[str, nn.Parameter], coverage: Coverage) -> Finding:
    """Returns how far the whole gradient of each text is from autograd's, in relative 2-norm."""
    errors = []
    for batch in batches:
        tangents = capture(model, batch, trainable, coverage.fallback)
        squares = differences = 0.0
        for name, reference in autograd_gradients(model, batch, trainable).items():
            if reference is not None:
                found = tangents.factors[name].gradients(reference.shape[1:])[:, 0] if name in tangents.factors else reference * 0
                squares += float(reference.double().square().sum())
                differences += float((found - reference).double().square().sum())
        errors.append((differences / squares) ** 0.5 if squares else differences**0.5)
    worst = max(errors)
    limit = 1e-2 if next(iter(trainable.values())).dtype == torch.float32 else 1e-5
    line = f"whole gradients of {len(errors)} texts agree with autograd to {worst:.1e} (relative 2-norm)"
    return Finding("texts", "fine" if worst <= limit else "fault", line, {"relative_errors": errors})


def check_noise(model: nn.Module, batches: Sequence[Batch], trainable: Mapping[str, nn.Parameter], coverage: Coverage) -> Finding:
    """Returns how many coordinates have a gradient that is rounding noise, and where."""
    masks = noise_coordinates([capture(model, batch, trainable, coverage.fallback) for batch in batches])
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    where = f", in {some(list(counts))}" if counts else ""
    line = f"{sum(counts.values()):,} coordinates' gradients are rounding noise{where}: left out of the sign kernels"
    return Finding("noise", "fine", line, {"coordinates": sum(counts.values()), "by_parameter": counts})


def check_ties(model: nn.Module, network: nn.Module) -> list[Finding]:
    """Returns which parameters are one under several names, and which should be one and are two."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    tied = [found for found in names.values() if len(found) > 1]
    findings = []
    if tied:
        line = f"tied: {'; '.join(' = '.join(found) for found in tied[:3])}; each counts once, with the gradients of all its uses"
        findings.append(Finding("ties", "fine", line, {"tied": tied}))
    doubled = [
        (first[0], second[0])
        for (one, first), (other, second) in _pairs(names)
        if one.shape == other.shape and one.dim() > 1 and one.numel() >= LARGE and torch.equal(one, other) and bool(one.any())
    ]
    for first_name, second_name in doubled:
        line = f"{first_name} and {second_name} hold the same values and are two parameters: tie them, or their gradient is split in two"
        findings.append(Finding("ties", "fault", line, {"doubled": [first_name, second_name]}))
    config = getattr(network, "config", None)
    get_head = getattr(network, "get_output_embeddings", lambda: None)
    head = get_head()
    if head is not None and getattr(config, "tie_word_embeddings", False) and not doubled:
        table = network.get_input_embeddings().weight  # type: ignore[operator]
        if getattr(head, "weight", table) is not table and not hasattr(head, "base_layer"):
            line = "the configuration ties the vocabulary's head to the embedding, and they are two parameters: tie them, or set it right"
            findings.append(Finding("ties", "fault", line))
    return findings


def _pairs(names: Mapping[nn.Parameter, list[str]]) -> list[tuple[tuple[nn.Parameter, list[str]], tuple[nn.Parameter, list[str]]]]:
    found = list(names.items())
    by_shape: dict[torch.Size, list[tuple[nn.Parameter, list[str]]]] = {}
    for item in found:
        by_shape.setdefault(item[0].shape, []).append(item)
    return [(items[i], items[j]) for items in by_shape.values() for i in range(len(items)) for j in range(i + 1, len(items))]
