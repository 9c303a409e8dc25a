"""The plan of a run: operations, memory, disk and time of the kernels that are missing."""

from __future__ import annotations

from collections.abc import Sequence

from lmntk.engine.estimate import Estimate
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.plan import plan_kernels
from lmntk.errors import UserError
from lmntk.experiment.configuration import Experiment
from lmntk.experiment.reading import ReadTask
from lmntk.experiment.shared_model import SharedModel, shared_models
from lmntk.experiment.start import open_session
from lmntk.experiment.steps.base import missing
from lmntk.experiment.steps.kernels import groups_and_pairs
from lmntk.experiment.steps.solve import Solve, one_pass_is_cheaper
from lmntk.prediction.directions import most_directions
from lmntk.prediction.estimate import estimate_predictions
from lmntk.runs.split import SIDES, Split
from lmntk.system.progress import Progress, Silent


def plan(
    experiment: Experiment, progress: Progress | None = None, read: Sequence[ReadTask] | None = None
) -> list[tuple[str, Estimate]]:
    """Return what ``run`` would take, for each piece of work that is left: its name and an estimate.

    Cost: the start-up check and a few batches a task and mode. Nothing is computed, and but for this machine's
    speed nothing is written.

    Raises:
        UserError: as ``run``.
    """
    if not experiment.formulas:
        raise UserError(
            "plan: it plans kernels, and there are no formulas; fine-tuning takes learning rates x batch sizes x steps in each cell"
        )
    session = open_session(experiment, progress or Silent(), read)
    estimates: dict[str, Estimate] = {}
    for shared in shared_models(session):
        left = [job.split for job in missing(Solve(), shared)]
        if left:
            session.progress.phase(f"{shared.title}: trying a few batches")
            estimate = _plan(shared, left)
            known = estimates.get(shared.title)
            estimates[shared.title] = estimate if known is None else known + estimate
    return list(estimates.items())


def _plan(shared: SharedModel, splits: Sequence[Split]) -> Estimate:
    """Return what solving the splits would take, were all of their kernels missing."""
    session, settings, formulas = shared.session, shared.session.settings, shared.session.experiment.formulas
    in_one_pass = one_pass_is_cheaper(shared)
    sides = SIDES[:2] if in_one_pass else SIDES
    texts, pairs, _ = groups_and_pairs(shared, splits, sides)
    trainable = session.chosen.select(shared.model)
    work = KernelWork(shared.kernel_model, texts, pairs, formulas, trainable, session.pretrained.pad_id)
    estimate = plan_kernels(work, settings)
    solutions = [(method[0], most_directions(*method, shared.model.outputs)) for method in session.methods]
    solutions = [(formula, count) for formula, count in solutions if count]
    if session.methods and (in_one_pass or session.experiment.save_models):
        shared.check_directions(splits, sides)
        trial = shared.direction_memory.trial_beside(shared.kernel_bytes(splits, sides))
        for split in splits if solutions else ():
            train, tests = (shared.texts(split)[side] for side in ("train", "test"))
            estimate += estimate_predictions(
                shared.capturer, trial, train, tests if in_one_pass else [], solutions, settings
            )
    return estimate
