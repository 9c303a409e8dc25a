"""Tokenizers alone, from a folder, a hub name or a GGUF file, without the weights of their model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.models.checkpoint import loading
from lmntk.models.gguf import ENDING, GgufFile, parsed_once, read_gguf
from lmntk.models.hub import Location, locate
from lmntk.models.kinds import kind_of
from lmntk.models.named_files import check_named_files
from lmntk.models.no_pickle import without_pickles
from lmntk.system.library_bars import without_bars


def load_tokenizer(name: str, revision: str | None = None, gguf: str | None = None) -> tuple[Any, str]:
    """Return a model's tokenizer, and its kind by its configuration, without its weights.

    Raises:
        UserError: no such model, or one whose tokenizer cannot be read.
    """
    from transformers import AutoConfig

    with quiet(), without_pickles():
        if gguf is not None or name.endswith(ENDING):
            with parsed_once():
                file, _ = gguf_file(name, gguf, revision)
                return file.tokenizer(), kind_of(file.configuration(), name)
        location = locate(name, revision, weights=False)
        if not location.has("config.json"):
            raise UserError(
                f"model: {name!r} has no config.json; give a Hugging Face model folder, of an adapter that of its base"
            )
        tokenizer = read_tokenizer(name, location)
        with loading(f"model: cannot load the configuration of {name!r}"):
            config = AutoConfig.from_pretrained(
                str(location.folder), local_files_only=True, trust_remote_code=False
            )
        return tokenizer, kind_of(config, name)


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
        raise UserError(f"gguf: {file!r} is no name of a GGUF file in {name!r}; give one such as model.gguf")
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
