"""The location of a model's files: a local folder as it stands, or a hub repository's snapshot at one commit.

The only module beside ``tasks.hub`` that may use the network, and only for a name that is no folder.
Everything after it reads local files. Pickles are not even downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.system.library_bars import without_bars

WANTED = (
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
    "*.codes",
    "model*.safetensors",
    "adapter_model.safetensors",
)
# folders of other formats; copies in other precisions, such as model.fp16.safetensors
UNWANTED = ("*/*", "model.*.safetensors")


@dataclass(frozen=True)
class Location:
    """A folder with a model's files; ``revision`` is their hub commit, None for a folder of the user's."""

    folder: Path
    revision: str | None

    def has(self, file: str) -> bool:
        """Return whether the folder holds the file."""
        return (self.folder / file).is_file()


def looks_local(name: str) -> bool:
    """Return whether a name is a folder's: it exists, or cannot be a hub name's ``owner/model``."""
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~")) or name.count("/") > 1


def locate(
    name: str,
    revision: str | None = None,
    shown: str | None = None,
    also: str | None = None,
    weights: bool = True,
) -> Location:
    """Return the location of a folder or, downloaded or from the cache, of a hub repository.

    Args:
        name: a folder, or a hub name when there is no such folder.
        revision: a branch, tag or commit of the hub repository; by default its main branch.
        shown: what an error calls it, by default ``model: 'name'``.
        also: one more file of the repository that is wanted, by its name.
        weights: False downloads the small files alone.

    Raises:
        UserError: no such name or revision, the hub is out of reach, or it needs a log-in.
    """
    shown = f"model: {name!r}" if shown is None else shown
    if looks_local(name):
        if revision is not None:
            raise UserError(
                f"{shown} is a folder, which has no revision {revision!r}; "
                "leave the revision out, or give a hub name"
            )
        return Location(Path(name).expanduser(), None)
    from huggingface_hub import snapshot_download

    wanted = [pattern for pattern in WANTED if weights or not pattern.endswith(".safetensors")]
    fetch = partial(
        snapshot_download,
        name,
        revision=revision,
        allow_patterns=[*wanted, *([] if also is None else [also])],
        ignore_patterns=[*UNWANTED, *([] if weights else ["*.index.json"])],  # which names what is not there
    )
    try:
        with without_bars():
            folder = Path(fetch())
    except Exception as error:  # the library raises its own, the transport's and the system's
        cached = None
        # the library looks into its cache where nothing answers, but not where an answer breaks off
        if _is_out_of_reach(error):
            with suppress(Exception):
                cached = Path(fetch(local_files_only=True))
        if cached is None:
            raise UserError(f"{shown} {_reason(error, revision)}") from error
        folder = cached
    return Location(folder, folder.name)


def _reason(error: BaseException, revision: str | None) -> str:
    """Return why the hub gave no files, and what to do: one line without addresses."""
    from huggingface_hub import constants

    names = _names(error)
    if "HFValidationError" in names:
        return "is neither a folder here nor a hub name; check the path, or the spelling of the name"
    if "GatedRepoError" in names:
        return "is gated on the hub: accept its terms on its page there, then log in with hf auth login"
    if "RevisionNotFoundError" in names:
        return f"has no revision {revision!r} on the hub; give a branch, tag or commit that its page lists"
    if "RepositoryNotFoundError" in names:
        return (
            "does not exist on the hub, or is private there, and is no folder here; "
            "check the spelling, or log in with hf auth login"
        )
    wanted = "" if revision is None else f" at revision {revision!r}"
    if constants.HF_HUB_OFFLINE:
        return (
            f"is no folder here and not in the cache{wanted}, and offline mode is on; "
            "unset HF_HUB_OFFLINE once, or give a folder"
        )
    response = _response(error)
    if response is not None:
        return (
            f"cannot be had from the hub, which answered {response.status_code}; "
            "try again later, or give a folder"
        )
    if _is_out_of_reach(error):
        return (
            f"is no folder here and not in the cache{wanted}, and the hub cannot be reached; "
            "check the network, or give a folder"
        )
    return f"cannot be had from the hub: {' '.join(str(error).split())[:200]}"


def _is_out_of_reach(error: BaseException) -> bool:
    """Return whether the hub gave no answer, or none that ended."""
    return _response(error) is None and bool(
        _names(error) & {"HTTPError", "ConnectionError", "TimeoutError", "LocalEntryNotFoundError"}
    )


def _names(error: BaseException) -> set[str]:
    """Return the names of all kinds that an error and its causes are of."""
    return {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}


def _response(error: BaseException) -> Any:
    """Return the hub's answer in an error or its causes, if there is one."""
    return next(
        (response for link in _chain(error) if (response := getattr(link, "response", None)) is not None),
        None,
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
