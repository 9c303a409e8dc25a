"""Models in a GGUF file: read by transformers' own loader, dequantised, and said aloud.

The tensors, and so the fingerprint and every key, are those of the same model saved as a folder. transformers reads only some
architectures from GGUF; what it cannot read is one line.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmntk.errors import UserError, one_line
from lmntk.models.checkpoint import check_numbers, loading
from lmntk.models.kinds import KINDS, auto_class, can_do_without_cache, kind_of
from lmntk.system.notices import say

ENDING = ".gguf"
MAGIC = b"GGUF"
UNREADABLE = "model: transformers cannot read {}; convert it to a model folder, or use another file"


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file, with what its results' provenance says of it.

    Attributes:
        path: where it is.
        sha256: of the file.
        quantisation: how many tensors it holds of each type, such as ``210 Q4_1, 61 F32, 1 Q8_0``.
    """

    path: Path
    sha256: str
    quantisation: str

    def as_dict(self) -> dict[str, str]:
        """Return what the provenance of results says of the file."""
        return {"file": self.path.name, "sha256": self.sha256, "quantisation": self.quantisation}

    def load(self, dtype: torch.dtype, attention: str | None, kind: str) -> tuple[Any, str, str]:
        """Return the network in eval mode, dequantised to ``dtype``, its kind, and the types that it is stored in.

        Raises:
            UserError: an architecture that transformers cannot read from GGUF, or a kind that the model has not.
        """
        where: dict[str, Any] = {
            "gguf_file": self.path.name,
            "local_files_only": True,
            "trust_remote_code": False,
        }
        folder, shown = str(self.path.parent), repr(str(self.path))
        config = self.configuration()
        kind = kind_of(config, str(self.path), kind)
        extra = {} if attention is None else {"attn_implementation": attention}
        with loading(UNREADABLE.format(f"{shown} as a {KINDS[kind]} model")):
            network, report = auto_class(kind, config).from_pretrained(
                folder, config=config, dtype=dtype, output_loading_info=True, **where, **extra
            )
        missing = sorted(report["missing_keys"])
        if missing:
            raise UserError(
                f"model: {shown} lacks weights, {missing[0]!r} among {len(missing)}; the file is incomplete, or of another architecture"
            )
        check_numbers(f"model: {shown}", network)
        _forget_quantisation(network)
        if can_do_without_cache(network.config):
            network.config.use_cache = False
        say(
            f"model: {shown} is dequantised to {str(dtype).removeprefix('torch.')}: {self.quantisation} tensors"
        )
        return network.eval(), kind, self.quantisation

    def configuration(self) -> Any:
        """Return the model's configuration.

        Raises:
            UserError: an architecture that transformers cannot read from GGUF.
        """
        from transformers import AutoConfig

        with loading(UNREADABLE.format(repr(str(self.path)))):
            return AutoConfig.from_pretrained(
                str(self.path.parent),
                gguf_file=self.path.name,
                local_files_only=True,
                trust_remote_code=False,
            )

    def tokenizer(self) -> Any:
        """Return the tokenizer in the file.

        Raises:
            UserError: it has none that transformers can read.
        """
        from transformers import AutoTokenizer

        with loading(UNREADABLE.format(f"the tokenizer of {str(self.path)!r}")):
            return AutoTokenizer.from_pretrained(
                str(self.path.parent),
                gguf_file=self.path.name,
                local_files_only=True,
                trust_remote_code=False,
            )


@contextmanager
def parsed_once() -> Iterator[None]:
    """Keep what the package gguf is asked for more than once while a model is loaded.

    transformers parses the file for the configuration, the weights and the tokenizer each, which of a vocabulary of 49,152
    words takes seconds, and makes the table of an architecture's tensor names once for each module.
    """
    try:
        package: Any = importlib.import_module("gguf")
    except ImportError:  # ``read_gguf`` says so
        yield
        return
    reader, names = package.GGUFReader, package.get_tensor_name_map

    def keep_plain(self: Any, mapped: Any) -> None:
        self._plain = mapped.view(np.ndarray)

    # its million slices of a numpy.memmap take five times as long as those of a plain array
    data = property(lambda self: self._plain, keep_plain)
    package.GGUFReader = cache(type("PlainReader", (reader,), {"data": data}))
    package.get_tensor_name_map = cache(names)
    try:
        yield
    finally:
        package.GGUFReader, package.get_tensor_name_map = reader, names


def read_gguf(path: Path) -> GgufFile:
    """Return what a GGUF file holds, after a look at its header and every tensor's place.

    Raises:
        UserError: no such file, one that is damaged or no GGUF, or the package that reads it is missing.
    """
    shown = repr(str(path))
    if not path.is_file():
        beside = ", ".join(sorted(each.name for each in path.parent.glob(f"*{ENDING}"))) or "none"
        raise UserError(f"model: there is no GGUF file {shown}; its folder has {beside}")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UserError(
                f"model: {shown} is no GGUF file, whatever its name; give a model's folder or a GGUF file"
            )
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"model: {shown} needs the package gguf; pip install 'lmntk[gguf]'")
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(os.path.join(path.parent, path.name)).tensors  # as transformers writes the path
        counts = Counter(tensor.tensor_type.name for tensor in tensors)
    except Exception as error:  # of a damaged file the reader says anything
        raise UserError(f"model: {shown} is damaged ({one_line(error)[:120]}); download it again") from error
    if not counts:
        raise UserError(f"model: {shown} holds no tensors; download it again")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return GgufFile(path, sha256, ", ".join(f"{count} {name}" for name, count in counts.most_common()))


def _forget_quantisation(network: Any) -> None:
    """Make the network one that was never quantised, as its weights are now: it can be trained and saved."""
    with suppress(AttributeError):
        del network.config.quantization_config
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        with suppress(AttributeError):
            delattr(network, name)
