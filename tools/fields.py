"""Write the fields of a configuration's file into docs/files.md, made from the configuration itself.

    python tools/fields.py            # writes the tables anew
    python tools/fields.py --check    # exit code 1 where the page says something else

A test does the same check.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from lmntk.experiment.configuration.parts import Part

PAGE = Path(__file__).resolve().parents[1] / "docs" / "files.md"
MARKED = re.compile(r"(<!-- fields of (\w+) -->\n).*?(<!-- end of fields -->)", re.DOTALL)
KINDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    type(None): "",
}


def page_with_fields(text: str) -> str:
    """Return the page with each marked table made anew."""
    from lmntk.experiment.configuration import Experiment, FineTuning, OwnTask
    from lmntk.experiment.configuration.fine_tuning import Arm

    parts = {part.__name__: part for part in (Experiment, OwnTask, FineTuning, Arm)}
    without = {"FineTuning": set(Arm.model_fields)}
    return MARKED.sub(
        lambda match: f"{match[1]}{table_of(parts[match[2]], without.get(match[2], set()))}{match[3]}", text
    )


def table_of(part: type[Part], without: set[str]) -> str:
    """Return a table of a part's fields, grouped as the command line groups its options."""
    groups: dict[str, list[str]] = {}
    for name, field in part.model_fields.items():
        if name not in without:
            groups.setdefault(_group(part, name), []).append(_row(name, field))
    lines = []
    for group, rows in groups.items():
        heading = [f"\n**{group}**\n"] if len(groups) > 1 else []
        lines += [*heading, "| field | value | default | what it is |", "|---|---|---|---|", *rows]
    return "\n".join(lines).lstrip("\n") + "\n"


def _group(part: type[Part], name: str) -> str:
    """Return the heading of the part that a field was written in."""
    owner = next(each for each in reversed(part.__mro__) if name in getattr(each, "model_fields", {}))
    return str(owner.GROUP)


def _row(name: str, field: FieldInfo) -> str:
    """Return a field's row."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    if field.is_required():
        default = "needed"
    elif "unset" in extra:
        default = str(extra["unset"])
    else:
        default = _written(field.get_default(call_default_factory=True))
    cells = (f"`{name}`", kind_of(field.annotation), default, field.description or "")
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(cell: str) -> str:
    """Return a cell whose bars and angles are only these."""
    return cell.replace("|", chr(92) + "|").replace("<", "&lt;")


def _written(value: Any) -> str:
    """Return a default as TOML has it, or nothing where there is none."""
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(_written(item).strip('`') for item in value)}]`"
    if isinstance(value, str | Path):
        return f'`"{value}"`'
    return "a table" if hasattr(value, "model_fields_set") else f"`{value}`"


def kind_of(annotation: Any) -> str:
    """Return what kind of value a field takes, in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in parts)
    if origin is tuple:
        return f"list of {kind_of(parts[0])}"
    if origin is dict:
        return "table"
    if origin is not None and origin is not Union and not str(origin).startswith("<class 'types.Union"):
        return kind_of(parts[0])
    if parts:
        return " or ".join(dict.fromkeys(kind for kind in map(kind_of, parts) if kind))
    return KINDS.get(annotation, "table")


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf8")
    after = page_with_fields(before)
    if "--check" in sys.argv:
        sys.exit(
            "docs/files.md is not what the configuration says: python tools/fields.py"
            if after != before
            else 0
        )
    PAGE.write_text(after, encoding="utf8")
