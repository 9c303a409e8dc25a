"""The folders that can be asked about: of a fit, or of a run."""

from __future__ import annotations

from typing import Protocol

from lmntk.diagnosis.regime import Regime
from lmntk.errors import UserError
from lmntk.estimator.record import NAME as FIT
from lmntk.explanation.asked import Question
from lmntk.explanation.blocks import NewTexts
from lmntk.explanation.trained import Trained
from lmntk.runs.records import SplitResults
from lmntk.system.progress import Progress


class Source(Protocol):
    """A folder's training, its new texts, and what is known of the regime."""

    @property
    def trained(self) -> Trained:
        """The training."""
        ...

    def new_texts(self) -> tuple[NewTexts | None, int]:
        """Return the texts that are asked about, and how many there are; none where it is the training texts."""
        ...

    def regime(self) -> Regime:
        """Return whether the kernel regime holds."""
        ...


def open_source(question: Question, progress: Progress) -> Source:
    """Return what the folder of a question holds.

    Raises:
        UserError: neither a fit nor a run, or one without what is asked for.
    """
    from lmntk.explanation.of_fit import FitSource

    if (question.folder / FIT).is_file():
        return FitSource(question, progress)
    if (question.folder / SplitResults.FOLDER).is_dir():
        from lmntk.explanation.of_run import RunSource

        return RunSource(question, progress)
    raise UserError(
        f"explain: {str(question.folder)!r} holds no fit and no run; make one with `lmntk fit FILE --out {question.folder}`"
    )
