"""Fine-tuned weights on disk: a safetensors file, and a model's folder as transformers reads it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel
from torch import Tensor

from lmntk.errors import UserError
from lmntk.models.filters import has_adapter
from lmntk.models.loading import Pretrained
from lmntk.models.logit_model import LogitModel
from lmntk.models.weights import at_weights
from lmntk.system import kept
from lmntk.system.files import reporting_disk
from lmntk.system.library_bars import without_bars

FORMAT = "lmntk weights 1"
WEIGHTS, MODEL, CHECKSUMS = "weights.safetensors", "model", "lmntk-checksums.json"


def slug(method: str) -> str:
    """Return a method as it stands in names of files.

    ``sgd fine-tuning (lora r=8)`` is ``sgd-fine-tuning-lora-r-8``.
    """
    return re.sub(r"[^\w.]+", "-", method).strip("-")


def save_weights(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Write weights by the names of a LogitModel's parameters, and plain data beside them, atomically."""
    kept.save_tensors(path, weights, {"format": FORMAT, "facts": json.dumps(facts)})


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return the weights in a file and the data beside them.

    Raises:
        DamagedError: a file that is not what was written.
        UserError: no such file, or none that ``save_weights`` wrote.
    """
    advice = "make some with lmntk finetune --save"
    try:
        weights, metadata = kept.load_tensors(path)
    except FileNotFoundError:
        raise UserError(f"weights: there is no file {str(path)!r}; {advice}") from None
    if metadata.get("format") != FORMAT:
        raise UserError(f"weights: {str(path)!r} holds no fine-tuned weights; {advice}")
    try:
        return weights, dict(json.loads(metadata["facts"]))
    except (KeyError, ValueError, TypeError) as error:
        raise kept.DamagedError(path, "it does not say what it belongs to") from error


def export(folder: Path, model: LogitModel, pretrained: Pretrained, weights: Mapping[str, Tensor]) -> None:
    """Write the network at other weights, and its tokenizer, as transformers' ``save_pretrained`` does.

    The folder is there whole or not.

    A linear head that is not the network's own (head mode) is not in it: ``save_weights`` keeps that.

    Raises:
        UserError: the network has an adapter, whose layers are no part of transformers' format.
    """
    if has_adapter(model):
        raise UserError(
            "export: transformers cannot save a model with an adapter in place; "
            "only its trained weights are kept"
        )
    with replacing_folder(folder) as temporary, at_weights(model, weights), reporting_disk():
        with without_bars():
            pretrained.network.save_pretrained(temporary)
        pretrained.tokenizer.save_pretrained(temporary)
        kept.write_record(temporary / CHECKSUMS, {"files": kept.checksums_of(temporary)})


def is_export(folder: Path) -> bool:
    """Return whether what ``export`` wrote is there, and whole; a damaged file is named."""

    def verify() -> bool:
        kept.compare(folder, kept.read_form(folder / CHECKSUMS, _Export).files)
        return (folder / "config.json").is_file()

    return kept.or_none(verify) is True


class _Export(BaseModel):
    """The checksums of the files of a model's folder."""

    files: dict[str, str]


class replacing_folder:  # noqa: N801
    """A temporary folder that takes the place of ``folder`` when the body has ended without an error."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temporary = folder, folder.with_name(f".{folder.name}.partial")

    def __enter__(self) -> Path:
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        return self.temporary

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.temporary.replace(self.folder)
        else:
            shutil.rmtree(self.temporary, ignore_errors=True)
