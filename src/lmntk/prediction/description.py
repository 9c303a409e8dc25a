"""The description of a predictor, ``predictor.json``, and the choice of one in a run's folder; read before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lmntk.errors import UserError
from lmntk.system.kept import or_none, read_form, read_record
from lmntk.tasks.rows import missing

FORMAT = "lmntk predictor 2"
DESCRIPTION = "predictor.json"


@dataclass(frozen=True)
class WantedPredictor:
    """Which of a run's predictors is wanted; by default the best on dev.

    Attributes:
        split: the split that it was solved on.
        method: its method, such as ``sgd ridge``.
        model: where its pre-trained model is now, if that has moved.
    """

    split: str | None = None
    method: str | None = None
    model: str | None = None


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class _ModelFacts(_Part):
    name: str
    fingerprint: str
    kind: str
    base: str | None
    revision: str | None
    gguf: str | None = None
    dtype: str
    attention: str | None
    untied: bool
    difference: bool
    centred: bool = False
    features: str


class _PromptFacts(_Part):
    templates: Any
    label_words: Any
    reduce: Any
    max_length: int
    text_a_limit: int | None
    chat: bool = False


class _SolutionFacts(_Part):
    """The decision rule; ``rough`` probabilities rest on few texts, and those below ``look_below`` want a look."""

    method: str
    intercept: float | list[float]
    f0_scale: float
    sharpness: float
    look_below: Annotated[float, Field(ge=0, le=1)] | None = None
    rough: bool = False


class _Columns(_Part):
    """The columns of the table that the predictor was made from."""

    text: str
    text_b: str | None = None


class Description(_Part):
    """The entries of ``predictor.json`` that are read; others go along. A predictor of no run has no split."""

    split: str = ""
    dev: float = 0.0
    mode: Literal["prompt", "head"]
    labels: list[str]
    model: _ModelFacts
    prompt: _PromptFacts
    solution: _SolutionFacts
    columns: _Columns | None = None
    counts: list[Annotated[int, Field(ge=1)]] | None = None  # labelled texts of each class, of a fit
    decided: list[Annotated[int, Field(ge=0)]] | None = (
        None  # of these, held out, how many were decided to be of each
    )


def read_description(folder: Path) -> dict[str, Any]:
    """Return what a folder's predictor is of.

    Raises:
        DamagedError: it is not what was written.
        UserError: there is none.
    """
    try:
        _check_format(folder)
        description: Description = read_form(folder / DESCRIPTION, Description)
    except FileNotFoundError:
        raise _no_predictor(folder) from None
    return description.model_dump()


def find_predictor(folder: Path, wanted: WantedPredictor) -> tuple[Path, list[str]]:
    """Return the wanted predictor's folder under a run's, or the folder itself, and the names of the others.

    Of several the one with the best dev metric is taken, the first by name of equals.

    Raises:
        UserError: none is there, or none of this split and method.
    """
    if not folder.is_dir():
        if folder.exists():
            raise UserError(
                f"predict: {str(folder)!r} is not the folder of a predictor; the order is `lmntk predict DIR FILE`"
            )
        raise UserError(f"predict: {missing(folder)}")
    candidates: Mapping[Path, dict[str, Any]]
    if (folder / DESCRIPTION).is_file():
        candidates = {folder: read_description(folder)}
    else:
        paths = sorted(folder.glob(f"models/*/{DESCRIPTION}"))
        described = {path.parent: or_none(partial(read_description, path.parent)) for path in paths}
        candidates = {path: facts for path, facts in described.items() if facts is not None}
    if not candidates:
        raise _no_predictor(folder)
    chosen = {
        path: facts
        for path, facts in candidates.items()
        if wanted.split in (None, facts["split"]) and wanted.method in (None, facts["solution"]["method"])
    }
    if not chosen:
        asked = " and ".join(
            f"{name} {value!r}"
            for name, value in (("split", wanted.split), ("method", wanted.method))
            if value is not None
        )
        there = ", ".join(
            path.name if path != folder else f"{facts['split']} {facts['solution']['method']}".strip()
            for path, facts in candidates.items()
        )
        raise UserError(f"predict: {str(folder)!r} has no predictor of {asked}; it has {there}")
    best = max(chosen, key=lambda path: chosen[path]["dev"])
    return best, [path.name for path in chosen if path != best]


def _no_predictor(folder: Path) -> UserError:
    return UserError(
        f"predict: {str(folder)!r} holds no predictor; make one with `lmntk fit FILE`, or with `lmntk run ... --save-models`"
    )


def _check_format(folder: Path) -> None:
    """Refuse a predictor of another version.

    Raises:
        UserError: it is one.
    """
    written = read_record(folder / DESCRIPTION).get("format")
    if written != FORMAT and str(written).startswith(FORMAT[:-1]):
        raise UserError(
            f"predict: {str(folder)!r} has the format {written!r}, and this version reads {FORMAT!r}; "
            "make it again"
        )
