"""For tests of the front door: a tiny model, nothing shared between tests, and pages whose plots tests of reports look at."""

from __future__ import annotations

import pytest
import tiny

from lmntk.estimator import seen_texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny masked model's folder."""
    return str(tiny.write_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def _nothing_shared() -> None:
    """Let go of the models and gradients that estimators share."""
    seen_texts.forget()


@pytest.fixture(autouse=True)
def quick_plots(empty_plots: None) -> None:
    """Leave plots undrawn."""
