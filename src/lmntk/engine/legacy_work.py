"""Four files that commit 60f2df1 wrote in place of ``work.json``: read where that is missing, then removed."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

SCHEDULE, PIECES, INDEX, OWNER = "schedule.json", "pieces.json", "factors.json", "owner.json"


def read(folder: Path) -> dict[str, Any]:
    """Return the parts of a record that the files of a folder hold, as plain data.

    Raises:
        ValueError: a file holds something else.
    """
    schedule, pieces, index, owner = (_json(folder / name) for name in (SCHEDULE, PIECES, INDEX, OWNER))
    record: dict[str, Any] = {"schedule": schedule}
    try:
        if owner is not None:
            record["claim"] = {"identity": owner["out"], "path": owner["at"], "purposes": owner["of"]}
        if pieces is not None:
            record["pieces"] = [
                {"splits": piece["cells"], "formulas": piece["formulas"], "work": piece["work"]}
                for piece in pieces
            ]
        if index is not None:
            orders = {group: facts["order"] for group, facts in index.pop("groups").items()}
            record["factors"] = index | {"orders": orders}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} holds no record of work") from error
    return record


def remove(folder: Path) -> None:
    """Remove the files."""
    for name in (SCHEDULE, PIECES, INDEX, OWNER):
        (folder / name).unlink(missing_ok=True)


def _json(path: Path) -> Any:
    with suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf8"))
    return None
