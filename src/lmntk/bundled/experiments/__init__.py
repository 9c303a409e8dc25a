"""The paper's experiments as configurations: a TOML file each, whose first line is its title."""

from __future__ import annotations

from pathlib import Path

from lmntk.errors import UserError

FOLDER = Path(__file__).parent


def titles() -> dict[str, str]:
    """Return the experiments' titles by name, the main ones first."""
    by_name = {
        path.stem: path.read_text(encoding="utf8").split("\n", 1)[0].removeprefix("# ")
        for path in FOLDER.glob("*.toml")
    }
    return dict(sorted(by_name.items(), key=lambda item: (not item[0].startswith("main"), item[0])))


def path_of(name: str) -> Path:
    """Return an experiment's file.

    Raises:
        UserError: there is none of this name.
    """
    if name not in titles():
        raise UserError(
            f"reproduce: {name!r} is not one of {', '.join(titles())}; `lmntk reproduce --list` says what they are"
        )
    return FOLDER / f"{name}.toml"
