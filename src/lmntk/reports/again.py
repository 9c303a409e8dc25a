"""How to run it again: the settings as the TOML file that ``lmntk run`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FIRST = (
    "model",
    "kind",
    "revision",
    "base",
    "data",
    "tasks",
    "k",
    "seeds",
    "modes",
    "formulas",
    "solvers",
    "template",
    "label_words",
)


def as_toml(settings: Mapping[str, Any]) -> str:
    """Returns plain data as TOML: what is None is left out, tables and lists of tables come last.

    Lists that are empty stay, as they may differ from a default.
    """
    lines, tables = [], []
    for name, value in settings.items():
        if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
            for part in value:
                tables += ["", f"[[{name}]]", *_pairs(part)]
        elif isinstance(value, dict):
            tables += ["", f"[{name}]", *_pairs(value)]
        elif value is not None:
            lines += _pairs({name: value})
    return "\n".join([*lines, *tables]) + "\n"


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_value(value)}" for name, value in table.items() if value is not None]


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(_pairs(value))} }}"
    # JSON's strings are TOML's, but for one control character and pairs of surrogates
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def changes(settings: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """Returns as TOML in what other settings differ from these; what they do not set is a comment."""
    left_out = []
    found: dict[str, Any] = {}
    for name in dict.fromkeys([*settings, *others]):
        own, other = settings.get(name), others.get(name)
        if own == other:
            continue
        if isinstance(own, dict) and isinstance(other, dict):
            changed = {
                part: other.get(part)
                for part in dict.fromkeys([*own, *other])
                if own.get(part) != other.get(part)
            }
            left_out += [f"# without {name}.{part}" for part, value in changed.items() if value is None]
            other = {part: value for part, value in changed.items() if value is not None}
        elif other is None:
            left_out.append(f"# without {name}")
        if other not in (None, {}):
            found[name] = other
    return "".join(f"{line}\n" for line in left_out) + (as_toml(found).strip("\n") + "\n" if found else "")


def is_default(value: Any) -> bool:
    """True for a setting that says nothing: none, off, or an empty list."""
    return value is None or value is False or value == []


def settings_rows(
    settings: Mapping[str, Any],
) -> tuple[list[tuple[str, str]], list[tuple[str, list[tuple[str, str]]]], list[str]]:
    """Returns the settings for a table: names with values, the user's own tasks with theirs, and the names of those left off."""
    first = [name for name in FIRST if name in settings]
    settings = {name: settings[name] for name in [*first, *(name for name in settings if name not in first)]}
    flat = {
        name if part is None else f"{name}: {part}": own
        for name, value in settings.items()
        for part, own in (value.items() if isinstance(value, dict) else [(None, value)])
    }
    plain = [
        (name, _shown(value)) for name, value in flat.items() if not is_default(value) and name != "own_tasks"
    ]
    own = [
        (
            str(task.get("name", "")),
            [
                (name, _shown(value))
                for name, value in task.items()
                if not is_default(value) and name != "name"
            ],
        )
        for task in settings.get("own_tasks") or ()
    ]
    return plain, own, [name for name, value in flat.items() if is_default(value)]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
