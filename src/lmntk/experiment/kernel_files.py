"""``lmntk kernel``: kernels of texts in files, written to a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmntk.engine.compute import as_kernels, compute_kernels, origin
from lmntk.engine.stored_factors import Choice, KeptFactors
from lmntk.engine.stream import MACHINE, NOT_KEPT, SCRATCH, Settings, finish, finish_all
from lmntk.engine.work import Owner
from lmntk.errors import UserError
from lmntk.kernels.formulas import FORMULAS, kernel_names
from lmntk.kernels.groups import group_of_layer
from lmntk.kernels.kernel import Kernel
from lmntk.kernels.lora import LowRank
from lmntk.models.build import untie
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import load_pretrained
from lmntk.prompts.assembly import Limits
from lmntk.prompts.encoding import fitting_length
from lmntk.prompts.ensemble import make_prompt_encoder
from lmntk.prompts.label_words import Reduce
from lmntk.system.devices import chosen_devices, place
from lmntk.system.executors.choose import chosen_executor
from lmntk.system.files import alone_in, save_tensors
from lmntk.system.hashing import versions
from lmntk.system.memory import default_memory, parse_bytes
from lmntk.system.precision import check_precision
from lmntk.tasks import read_jsonl

DEFAULT_LENGTH = 128  # tokens


def kernels_of_factors(
    factors: Path,
    out: Path,
    formulas: Sequence[str] = FORMULAS,
    pair: Sequence[str] = (),
    groups: bool = False,
    keep_noise: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    biases_only: bool = False,
    lora_rank: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes ``out/<formula>.safetensors`` and ``out/logits.safetensors`` from factors that ``keep_factors`` left; no model is loaded.

    Raises:
        UserError: no factors, no such pair, nothing left of the choice, files in ``out`` already.
    """
    _check_formulas(formulas)
    kept = KeptFactors(factors)
    chosen = tuple(pair) or kept.pairs[0]
    if not pair and len(kept.pairs) > 1:
        raise UserError(
            f"pair: the factors are of several; choose one of {'; '.join(','.join(one) for one in kept.pairs)}"
        )
    if len(chosen) != 2:
        raise UserError(f"pair: {','.join(chosen)!r} is not ROWS,COLUMNS")
    there = [formula for formula in formulas if (out / f"{formula}.safetensors").exists()]
    if there:
        raise UserError(f"out: {str(out / there[0])!r}.safetensors is there already; name another folder")
    low_rank = None if lora_rank is None else LowRank(lora_rank, seed)
    choice = Choice(tuple(include), tuple(exclude), biases_only, low_rank)
    found, noise = kept.kernels(
        (chosen[0], chosen[1]), formulas, choice, group_of_layer if groups else None, not keep_noise
    )
    provenance = {
        "factors": kept.folder.name, "pair": list(chosen), "parameters": {"include": list(include), "exclude": list(exclude),
        "biases_only": biases_only, "lora_rank": lora_rank, "seed": seed if low_rank else None},
        "precision": kept.precision, "noise_coordinates_left_out": noise, "versions": versions(),
    }  # fmt: skip
    files: dict[str, list[int]] = {}
    for formula, kernel in as_kernels(found, formulas, groups, provenance).items():
        kernel.save(out / f"{formula}.safetensors")
        files[str(out / f"{formula}.safetensors")] = list(kernel.values.shape)
    logits = {
        side: kept.logits(group).cpu().numpy() for side, group in zip(("train", "eval"), chosen, strict=True)
    }
    save_tensors(out / "logits.safetensors", logits, {"provenance": json.dumps(provenance, sort_keys=True)})
    return {"files": files, "coverage": f"from the factors in {kept.folder}", "provenance": provenance}


def _check_formulas(formulas: Sequence[str]) -> None:
    unknown = [formula for formula in formulas if formula not in FORMULAS]
    if unknown or not formulas:
        raise UserError(f"formulas: {unknown[0] if unknown else ''!r} is not one of {', '.join(FORMULAS)}")


def compute_to_folder(
    model: str,
    train: Path,
    evaluate: Path,
    template: str | Sequence[str],
    label_words: str | Sequence[str],
    out: Path,
    progress: Any,
    formulas: Sequence[str] = FORMULAS,
    max_length: int | None = None,
    dtype: str = "float32",
    attention: str | None = None,
    kind: str = "auto",
    revision: str | None = None,
    base: str | None = None,
    label_words_reduce: Reduce | None = None,
    batch_size: int = 32,
    memory: str | None = None,
    scratch: Path | None = None,
    keep_factors: bool = False,
    device: str = "auto",
    device_memory: str | None = None,
    precision: str = "float32",
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    all_logits: bool = False,
    untie_head: bool = False,
    groups: bool = False,
    keep_noise: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes ``out/<formula>.safetensors`` and ``out/logits.safetensors``; returns their names, shapes and the coverage line.

    Raises:
        UserError: a mistake in the files, the prompt or the model; a kernel of something else in ``out``.
    """
    _check_formulas(formulas)
    words = (
        [word.strip() for word in label_words.split(",")]
        if isinstance(label_words, str)
        else list(label_words)
    )
    if out.exists() and not out.is_dir():
        raise UserError(f"out: {str(out)!r} is a file; name a folder")
    if batch_size < 1 or (max_length is not None and max_length < 1):
        raise UserError(f"{'batch-size' if batch_size < 1 else 'max-length'}: must be at least 1")
    budget = default_memory() if memory is None else parse_bytes(memory)
    card_budget = None if device_memory is None else parse_bytes(device_memory, "device-memory")
    devices = chosen_devices(device)
    checked = check_precision(precision, dtype, devices)
    texts = {
        side: read_jsonl(path, require_label=False) for side, path in (("train", train), ("eval", evaluate))
    }
    pretrained = load_pretrained(model, dtype, attention, kind=kind, revision=revision, base=base)
    place(pretrained, device)
    reading: Any = pretrained.reading("prompt")
    if untie_head:
        untie(pretrained)
    encoder = make_prompt_encoder(
        pretrained.tokenizer,
        template,
        words,
        Limits(max_length or fitting_length(pretrained.tokenizer, DEFAULT_LENGTH)),
        reading=reading,
        decoder_start=pretrained.decoder_start,
        reduce=label_words_reduce,
    )
    grouping = group_of_layer if groups else None
    executor = chosen_executor(engine, address, workers, devices, device)
    settings = Settings(
        batch_size,
        budget,
        not keep_noise,
        grouping,
        (scratch or out / SCRATCH).resolve(),
        keep_factors,
        executor,
        out / MACHINE,
        checked,
        card_budget,
        owner=Owner(out, ("kernel",)),
    )
    filtered = ParameterFilter(**(parameters or {}))
    expected = origin(
        pretrained,
        encoder,
        texts["train"],
        texts["eval"],
        all_logits=all_logits,
        parameters=filtered,
        settings=settings,
    )
    files: dict[str, list[int]] = {}
    plain = json.loads(json.dumps(expected))
    for (
        formula
    ) in FORMULAS:  # the same kernel is kept, one of something else never overwritten or left beside this one
        path = out / f"{formula}.safetensors"
        if path.exists():
            found = Kernel.load(path, plain)
            if formula in formulas and bool(found.groups) == groups:
                files[str(path)] = list(found.values.shape)
    logits_path = out / "logits.safetensors"
    formulas = [formula for formula in formulas if str(out / f"{formula}.safetensors") not in files] or (
        [] if logits_path.exists() else list(formulas)
    )
    if not formulas:
        if keep_factors:
            progress.note(NOT_KEPT)
        if any(
            root.is_dir() for root in (out / SCRATCH, settings.scratch) if root is not None
        ):  # of a run that was cut short at its end
            with alone_in(out):
                finish_all(settings)
        return {"files": files, "coverage": "all there from an earlier run"}
    if pretrained.stored_dtype != dtype:
        progress.note(f"weights stored in {pretrained.stored_dtype}, computed with in {dtype}")
    c = 1 if encoder.classes == 2 and not all_logits else encoder.classes
    n, m = len(texts["train"]), len(texts["eval"])
    tokens = sum(encoder.encode(e).length for part in texts.values() for e in part) / (n + m)
    per_text, per_pair = 6 * tokens * c, 2.0 * c * c * len(kernel_names(formulas))
    progress.work(f"{n} x {m} texts", per_text * (n + m) + per_pair * n * m)
    with alone_in(out):
        computed = compute_kernels(
            pretrained,
            encoder,
            texts["train"],
            texts["eval"],
            formulas,
            all_logits=all_logits,
            parameters=filtered,
            settings=settings,
            report=lambda captured, contracted: progress.advance(per_text * captured + per_pair * contracted),
        )
        if computed.loss is not None:
            progress.note(computed.loss.describe())
        provenance = next(iter(computed.kernels.values())).provenance
        save_tensors(logits_path, computed.logits, {"provenance": json.dumps(provenance, sort_keys=True)})
        files[str(logits_path)] = list(computed.logits["eval"].shape)
        for formula, kernel in computed.kernels.items():
            kernel.save(out / f"{formula}.safetensors")
            files[str(out / f"{formula}.safetensors")] = list(kernel.values.shape)
        finish(settings, computed.work)
        finish_all(settings)
    return {"files": files, "coverage": computed.coverage.describe(), "provenance": provenance}
