"""Configurations from flags and TOML files, checked: what is wrong is one line that names the field."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lmntk.errors import UserError
from lmntk.experiment.configuration.experiment import Experiment
from lmntk.experiment.configuration.parts import Part

Configured = TypeVar("Configured", bound=Part)


def make_experiment(values: dict[str, Any], origin: str = "") -> Experiment:
    """Return the checked configuration of an experiment.

    Raises:
        UserError: one line that names the first wrong field, its value and what is allowed.
    """
    try:
        return Experiment(**values)
    except ValidationError as error:
        raise UserError(origin + _first_mistake(error)) from None


def from_flags(kind: type[Configured], values: Mapping[str, Any]) -> Configured:
    """Return a checked configuration of some kind, of flags alone.

    Raises:
        UserError: one line that names the first wrong flag.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise UserError(_first_wrong_flag(error)) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a configuration's file says, unchecked.

    Raises:
        UserError: no such file, or broken TOML (with its line).
    """
    if not path.is_file():
        raise UserError(f"configuration: no file {str(path)!r}; give a TOML file, or flags")
    try:
        return tomllib.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise UserError(
            f"configuration: cannot read {str(path)!r} ({error.strerror}); name another file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"configuration: {path} is not valid TOML: {error}") from None


def load_experiment(
    path: Path, overrides: dict[str, Any], defaults: dict[str, Any] | None = None
) -> Experiment:
    """Return the configuration in a TOML file, with flags put over it and defaults under it.

    Raises:
        UserError: no such file, broken TOML (with its line), or a wrong field.
    """
    values = read_toml(path)
    # what is wrong with a flag is no mistake of the file's
    flags = [name for name in overrides if name != "finetuning"] + [
        f"finetuning.{name}" for name in overrides.get("finetuning") or ()
    ]
    if "finetuning" in overrides and isinstance(values.get("finetuning"), dict):  # single fields of the table
        overrides = overrides | {"finetuning": values["finetuning"] | overrides["finetuning"]}
    try:
        return make_experiment((defaults or {}) | values | overrides, f"{path}: ")
    except UserError as error:
        wrong = str(error).removeprefix(f"{path}: ")
        is_flag = any(wrong.startswith((f"{name}:", f"{name}.")) for name in flags)
        raise (UserError(wrong.removeprefix("finetuning.")) if is_flag else error) from None


def _first_mistake(error: ValidationError) -> str:
    """Return a line on the first wrong field: its name, what is allowed, and what was given."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):  # which says it all
        return str(cause)
    named = [
        part for part in first["loc"] if isinstance(part, int) or str(part).isidentifier()
    ]  # not pydantic's own, such as tuple[float]
    field = ".".join(str(part) for part in named)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, Experiment.model_fields, n=1)
        message = "no such field" + (f"; did you mean {near[0]!r}?" if near else "")
    without_value = not field or first["type"] in ("missing", "extra_forbidden")
    given = "" if without_value else f" (given: {first['input']!r})"
    return f"{field + ': ' if field else ''}{message}{given}"


def _first_wrong_flag(error: ValidationError) -> str:
    """Return a line on the first wrong flag of a command that has no file."""
    first = error.errors()[0]
    if not first["loc"]:
        return _first_mistake(error)
    flag = str(first["loc"][0]).replace("_", "-")
    if first["type"] == "literal_error":
        allowed = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{flag}: {first['input']!r} is not one of {allowed}"
    if first["type"] == "greater_than":
        return f"{flag}: must be at least 1"
    return f"{flag}: {first['msg'].removeprefix('Value error, ')}"
