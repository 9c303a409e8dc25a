"""The memory that directions of solutions may take beside what is held when they are summed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

from lmntk.engine.batches import Capturer
from lmntk.engine.budget import Budget
from lmntk.engine.phases import MARGIN, Trial
from lmntk.engine.settings import Settings
from lmntk.prediction.directions import DirectionCut, cut_directions, most_directions
from lmntk.system.device_memory import device_budget


class DirectionMemory:
    """Cuts of directions to the memory that is left.

    Args:
        capturer: of the pre-trained model, with the training texts.
        settings: the memory that the process may hold, and a device.
    """

    def __init__(self, capturer: Capturer, settings: Settings) -> None:
        self.capturer, self.settings = capturer, settings

    @cached_property
    def trial(self) -> Trial:
        """The memory that a few of the longest training texts take."""
        return self.capturer.try_out()

    def trial_beside(self, coming: int) -> Trial:
        """Return the trial with what is held now, and so many bytes more."""
        now = self.capturer.held_now(self.trial)
        return replace(now, resident=now.resident + coming)

    def cut(self, directions: int, batch_size: int, signs: bool, coming: int = 0) -> DirectionCut:
        """Return how directions are summed beside what is held now and ``coming`` bytes; see ``cut_directions``."""
        budget, trainable = direction_budget(self.capturer, self.settings), self.capturer.trainable
        return cut_directions(self.trial_beside(coming), trainable, directions, batch_size, budget, signs)

    def check(self, methods: Iterable[tuple[str, str]], outputs: int, coming: int) -> None:
        """Refuse directions of solutions that would not fit, before the kernels are computed that they are made from.

        Args:
            methods: formulas and solvers.
            outputs: logits a text.
            coming: bytes that the kernels will take.

        Raises:
            UserError: it cannot be done in so little; says the least that works.
        """
        methods = list(methods)
        # signs take more, of which sgd has no need
        signs = any(formula == "asigngd" for formula, _ in methods)
        most = max([1, *(most_directions(*method, outputs) for method in methods)])
        # what the margin is for is held by then, and counted once more
        self.cut(most, 1, signs, coming + MARGIN)


def direction_budget(capturer: Capturer, settings: Settings) -> Budget:
    """Return what may be held while directions are summed."""
    device_memory = device_budget(capturer.device, capturer.gpu, settings.device_memory)
    return Budget(settings.memory, device_memory)
