"""The settings of a run as the TOML file that ``lmntk run`` reads, and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tomli_w

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
    "chat",
)


def as_toml(settings: Mapping[str, Any]) -> str:
    """Return plain data as TOML, without what is None; empty lists stay, for a default may be another."""
    return tomli_w.dumps(_without_none(_in_order(settings)))


def _in_order(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with those at the front that a reader looks for first."""
    return {name: settings[name] for name in dict.fromkeys([*FIRST, *settings]) if name in settings}


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(member) for name, member in value.items() if member is not None}
    return [_without_none(member) for member in value] if isinstance(value, list | tuple) else value


def changes(settings: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """Return as TOML in what other settings differ from these; what they do not set is a comment."""
    left_out = []
    changed: dict[str, Any] = {}
    for name in dict.fromkeys([*settings, *others]):
        own, other = settings.get(name), others.get(name)
        if _switched_on(own) == _switched_on(other):
            continue
        if isinstance(own, dict) and isinstance(other, dict):
            parts = {
                part: other.get(part)
                for part in dict.fromkeys([*own, *other])
                if own.get(part) != other.get(part)
            }
            left_out += [f"# without {name}.{part}" for part, value in parts.items() if value is None]
            other = {part: value for part, value in parts.items() if value is not None}
        elif other is None:
            left_out.append(f"# without {name}")
        if other not in (None, {}):
            changed[name] = other
    return "".join(f"{line}\n" for line in left_out) + (as_toml(changed) if changed else "")


def _switched_on(value: Any) -> Any:
    """Return a setting, or list of tables, without a later version's switches that are off: an earlier one did not have them."""
    if isinstance(value, list):
        return [_switched_on(member) for member in value]
    if isinstance(value, dict):
        return {name: member for name, member in value.items() if member is not None and member is not False}
    return None if value is False else value


def is_default(value: Any) -> bool:
    """Return whether a setting says nothing: none, off, or an empty list."""
    return value is None or value is False or value == []


def settings_rows(
    settings: Mapping[str, Any],
) -> tuple[list[tuple[str, str]], list[tuple[str, list[tuple[str, str]]]], list[str]]:
    """Return the settings for a table, in the order in which a reader looks for them.

    Returns:
        Names with values, the user's own tasks with theirs, and the names of settings that are left off.
    """
    settings = _in_order(settings)
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
    if isinstance(value, str):
        return value.replace("\n", "\\n")  # of a template: as it is typed
    return json.dumps(value, ensure_ascii=False)
