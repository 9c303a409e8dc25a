"""The paper's experiments as configurations: a TOML file each, whose first line says what it is."""

from __future__ import annotations

from pathlib import Path

from lmntk.errors import UserError

FOLDER = Path(__file__).parent


def names() -> dict[str, str]:
    """Returns the experiments' names and what each is."""
    found = {
        path.stem: path.read_text(encoding="utf8").split("\n", 1)[0].removeprefix("# ")
        for path in sorted(FOLDER.glob("*.toml"))
    }
    return dict(sorted(found.items(), key=lambda item: (not item[0].startswith("main"), item[0])))


def place_of(name: str) -> Path:
    """Returns an experiment's file.

    Raises:
        UserError: there is none of this name.
    """
    if name not in names():
        raise UserError(
            f"reproduce: {name!r} is not one of {', '.join(names())}; `lmntk reproduce --list` says what they are"
        )
    return FOLDER / f"{name}.toml"
