"""Tokenizers alone, from a folder, a hub name or a GGUF file, without the weights of their model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.models.checkpoint import loading
from lmntk.models.configuration import setting
from lmntk.models.gguf import ENDING, GgufFile, parsed_once, read_gguf
from lmntk.models.hub import Location, locate
from lmntk.models.kinds import kind_of, kinds_of, reading_of
from lmntk.models.named_files import check_named_files
from lmntk.models.no_pickle import without_pickles
from lmntk.system.library_bars import without_bars


def load_tokenizer(name: str, revision: str | None = None, gguf: str | None = None) -> tuple[Any, str]:
    """Return a model's tokenizer, and its kind by its configuration, without its weights.

    Raises:
        UserError: no such model, or one whose tokenizer cannot be read.
    """
    with quiet(), without_pickles():
        if gguf is not None or name.endswith(ENDING):
            with parsed_once():
                file, _ = gguf_file(name, gguf, revision)
                return file.tokenizer(), kind_of(file.configuration(), name)
        tokenizer, config = _with_configuration(name, revision)
        return tokenizer, kind_of(config, name)


@dataclass(frozen=True)
class TokenizerAlone:
    """A model's tokenizer and what is known of the model without its weights.

    Attributes:
        tokenizer: as it is in its folder; that of a loaded network may take fewer tokens.
        kind: of the model.
        is_decoder_only: whether the network predicts the next token.
        decoder_start: of an encoder-decoder, in place of the id that its decoder starts with.
    """

    tokenizer: Any
    kind: str
    is_decoder_only: bool
    decoder_start: int | None

    def reading(self, mode: str) -> str:
        """Return the token that a mode, prompt or head, reads; see ``reading_of``."""
        return reading_of(self.kind, mode, self.is_decoder_only)


def tokenizer_alone(name: str, kind: str = "auto", revision: str | None = None) -> TokenizerAlone | None:
    """Return a model's tokenizer before its weights are loaded, to try a prompt on.

    Of an adapter, a GGUF file and whatever cannot be read it is None: loading the model says what is wrong.
    """
    if name.endswith(ENDING):
        return None
    try:
        with quiet(), without_pickles():
            tokenizer, config = _with_configuration(name, revision)
            return TokenizerAlone(
                tokenizer,
                kind_of(config, name, kind),
                "causal" in kinds_of(config),
                0 if setting(config, "is_encoder_decoder", False) else None,
            )
    except UserError:
        return None


def _with_configuration(name: str, revision: str | None) -> tuple[Any, Any]:
    from transformers import AutoConfig

    location = locate(name, revision, weights=False)
    if not location.has("config.json"):
        raise UserError(
            f"model: {name!r} has no config.json; give a Hugging Face model folder, or for an adapter the folder of its base"
        )
    tokenizer = read_tokenizer(name, location)
    with loading(f"model: cannot load the configuration of {name!r}"):
        config = AutoConfig.from_pretrained(
            str(location.folder), local_files_only=True, trust_remote_code=False
        )
    return tokenizer, config


def read_tokenizer(name: str, location: Location) -> Any:
    """Return the tokenizer in a folder.

    Raises:
        UserError: it names what is not read, or cannot be loaded.
    """
    from transformers import AutoTokenizer

    check_named_files(name, location)
    with loading(f"model: cannot load the tokenizer of {name!r}"):
        return AutoTokenizer.from_pretrained(
            str(location.folder), local_files_only=True, trust_remote_code=False
        )


def gguf_file(name: str, file: str | None, revision: str | None) -> tuple[GgufFile, str | None]:
    """Return the GGUF file at a path or in a folder or repository, and the hub commit that it is of.

    Raises:
        UserError: no such file, or one that cannot be read.
    """
    if file is None:
        return read_gguf(Path(name).expanduser()), None
    if Path(file).name != file or not file.endswith(ENDING):
        raise UserError(
            f"gguf: {file!r} is not the name of a GGUF file in {name!r}; give one such as model.gguf"
        )
    location = locate(name, revision, also=file)
    return read_gguf(location.folder / file), location.revision


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing while the body runs: what matters is raised."""
    from transformers.utils import logging

    shown = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_bars():
            yield
    finally:
        logging.set_verbosity(shown)
