"""A fit's folder as a training that is asked about, and new texts beside it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from lmntk.diagnosis.regime import Regime
from lmntk.diagnosis.spectrum import readable_groups
from lmntk.engine.settings import Settings
from lmntk.errors import UserError
from lmntk.estimator.new_texts import Differentiable, with_training_texts
from lmntk.estimator.record import FitRecord, read_fit
from lmntk.estimator.solved import Solved, plain_text
from lmntk.estimator.trust import ShortTraining, refuse_unmeasured, regime_in, trust_key
from lmntk.explanation.asked import Question
from lmntk.explanation.blocks import NewTexts
from lmntk.explanation.trained import Trained
from lmntk.kernels.gram import Grouping
from lmntk.kernels.low_rank import TrainedPart
from lmntk.prediction.files import LoadedPredictor, load_predictor
from lmntk.prompts.encoding import encode_whole
from lmntk.reports.fit_page import trained_words
from lmntk.solvers.shared import in_classes
from lmntk.system.memory import default_memory
from lmntk.system.progress import Progress


def trained_by_fit(folder: Path, record: FitRecord, solved: Solved) -> Trained:
    """Return the training of a fit, by its record and its solution."""
    settings: dict[str, Any] = {
        "model": record.model["name"],
        "mode": record.mode,
        "what trains": trained_words(record.parameters),
        **record.setting,
    }
    return Trained(
        folder=folder,
        name=repr(str(folder)),
        settings=settings,
        plain=solved.plain,
        rows=range(1, len(solved.plain) + 1),
        numbers=solved.record.numbers,
        same=solved.record.same,
        labels=solved.record.labels,
        intercept=solved.intercept,
        solution=solved,
    )


class FitSource:
    """A fit's folder.

    Args:
        question: what is asked.
        progress: told how far it is.

    Raises:
        UserError: there is no fit, or one that does not hold what it was trained on.
    """

    def __init__(self, question: Question, progress: Progress) -> None:
        for option, value in (("split", question.split), ("method", question.method)):
            if value is not None:
                raise UserError(
                    f"{option}: a fit has only one solution; --{option} works with the folder of a run"
                )
        self.question, self.progress = question, progress
        record = read_fit(question.folder)
        self.solved, self.columns = Solved.read(question.folder), record.columns
        self.trained = trained_by_fit(question.folder, record, self.solved)

    def new_texts(self) -> tuple[NewTexts | None, int]:
        """Return the texts that are asked about; none where it is the training texts."""
        examples, total = self.question.examples(self.columns)
        if not examples:
            return None, 0
        computed = with_training_texts(
            self.loaded, self.solved, examples, self.settings(readable_groups(self.loaded.predictor.model))
        )
        plain = [plain_text(example) for example in examples]
        groups = {name: in_classes(part, self.solved.basis) for name, part in computed.groups.items()}
        return NewTexts(plain, computed.cross, computed.logits, groups), total

    def regime(self) -> Regime:
        """Return whether the kernel regime holds: measured earlier, or now where that is asked for.

        Raises:
            UserError: it is asked for, and the kernel is LoRA's, or one that classes share.
        """
        record = self.solved.record
        key = trust_key(record.key, record.numbers)
        return regime_in(
            self.question.folder, key, self._training if self.question.trust else None, self.progress
        )

    def _training(self) -> ShortTraining:
        loaded, record = self.loaded, self.solved.record
        refuse_unmeasured(self.solved.is_shared, TrainedPart.of(loaded.description.get("trained", {})))
        return ShortTraining(
            loaded.predictor.model,
            Differentiable.of(loaded, self.solved).trainable,
            loaded.predictor.pad_id,
            [encode_whole(loaded.encoder, example) for example in self.solved.examples],
            record.numbers,
            in_classes(self.solved.kernel, self.solved.basis),
            self.solved.logits,
        )

    @cached_property
    def loaded(self) -> LoadedPredictor:
        """The model with its prompt.

        Raises:
            UserError: it is not there, or has other weights.
        """
        machine = self.question.machine
        self.progress.phase("loading the model")
        return load_predictor(self.question.folder, machine.model, machine.device)

    def settings(self, grouping: Grouping | None = None) -> Settings:
        """Return how kernels are computed."""
        machine = self.question.machine
        memory = default_memory() if machine.memory is None else machine.memory
        return Settings(machine.batch_size, memory, grouping=grouping)
