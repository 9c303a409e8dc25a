"""Fits that are asked about: each is made once for a module of tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from kept_fits import FITS, messages, write_table


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked model."""
    return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def fits(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A fit's folder by its name; each is made once."""
    from lmntk.estimator.fit import fit_file
    from lmntk.estimator.given import read_input
    from lmntk.experiment.configuration import Fit, from_flags
    from lmntk.system.progress import Silent

    root = tmp_path_factory.mktemp("fits")

    def made(name: str) -> Path:
        folder = root / name
        if not folder.is_dir():
            each, classes, options = FITS[name]
            table = write_table(root / f"{name}.tsv", messages(each, classes))
            given = dict(zip((o[2:].replace("-", "_") for o in options[::2]), options[1::2], strict=True))
            fields = {"text_column": "message", "label_column": "category", "dtype": "float64"}
            fit = from_flags(
                Fit, {"model": str(model), "file": str(table), "out": str(folder), **fields, **given}
            )
            fit_file(fit, read_input(fit), Silent())
        return folder

    return made
