"""The chosen solution as a classifier of new texts: a direction of the weights, or of a shared kernel the texts themselves."""

from __future__ import annotations

from typing import Any

from lmntk.engine.batches import Capturer
from lmntk.engine.settings import Settings
from lmntk.estimator.choice import Choice
from lmntk.prediction.by_kernel import KernelPredictor, SharedSolution
from lmntk.prediction.direction_memory import DirectionMemory
from lmntk.prediction.directions import directions_of
from lmntk.prediction.predictor import DecisionRule, Predictor


def predictor_of(choice: Choice, settings: Settings) -> Predictor:
    """Return what decides new texts by the chosen solution: in one pass a text, or of a shared kernel by products with all N."""
    way = choice.measured.way
    rule = DecisionRule(choice.intercepts, choice.f0_scale, choice.sharpness)
    shared = shared_solution(choice)
    if shared is not None:
        return KernelPredictor(way.deciding, shared, way.pad_id, rule)
    return Predictor(way.deciding, directions_in(choice, settings), way.pad_id, rule)


def directions_in(choice: Choice, settings: Settings) -> list[dict[str, Any]]:
    """Return the direction sum_n alpha_n grad f(x_n) of the chosen solution; none of no training, nor of a shared kernel."""
    if not choice.has_direction:
        return []
    assert choice.form is not None
    way, texts = choice.measured.way, choice.measured.texts
    capturer = Capturer(way.model, way.trainable, way.pad_id, texts, settings.batch_size, gpu=settings.gpu)
    cut = DirectionMemory(capturer, settings).cut(1, settings.batch_size, signs=False)
    capturer.batch_size = cut.batch_size
    (direction,) = directions_of(capturer, texts, choice.form, "sgd", at_once=cut.at_once)
    return [dict(way.motion(direction))]


def shared_solution(choice: Choice) -> SharedSolution | None:
    """Return the chosen solution of a shared kernel, if it is one."""
    way = choice.measured.way
    if choice.form is None or way.combinations is None:
        return None
    return SharedSolution(choice.measured.texts, choice.coefficients, way.combinations, way.trainable)
