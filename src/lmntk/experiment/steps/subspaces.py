"""The step that solves kernels of parts of the model: LoRA on each target at each rank, and targets that train alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.progress import Listener
from lmntk.engine.stream import Streamed, stream_kernels
from lmntk.engine.work import WorkOwner
from lmntk.engine.work_folder import WorkFolder
from lmntk.errors import UserError
from lmntk.experiment.session import Session
from lmntk.experiment.shared_model import SharedModel
from lmntk.experiment.steps.base import Job
from lmntk.experiment.steps.kernels import Kernels, Logits
from lmntk.experiment.steps.solve import baselines_of, keep_results, results_of
from lmntk.finetuning.trained import own_head
from lmntk.kernels.formulas import kernel_names
from lmntk.kernels.kernel import Kernel
from lmntk.kernels.low_rank import HEAD, LORA, LowRank, TrainedPart
from lmntk.kernels.subspaces import Candidate, Subspaces
from lmntk.models.logit_model import LogitModel
from lmntk.runs.records import SplitResults
from lmntk.runs.split import SIDES, Split
from lmntk.solvers.outcome import solve_split
from lmntk.system.hashing import Key


class SolveSubspaces:
    """Solve the kernels of the parts that are asked for, of every split; they are computed together, and not kept.

    LoRA's A of a split is the one that fine-tuning of this split starts from. A head that was put on the network trains beside each part.
    """

    def of(self, shared: SharedModel) -> list[Job]:
        """Return one job a split."""
        return [Job(split) for split in shared.splits] if _parts(shared.session) else []

    def kept(self, shared: SharedModel, job: Job) -> SplitResults | None:
        """Return a split's results if all parts are among them."""
        results = results_of(shared.session, shared.task, job.split)
        wanted = {
            f"{formula} {solver} ({name})"
            for name in _parts(shared.session)
            for formula, solver in shared.session.methods
        }
        return results if results is not None and wanted <= results.predictions.keys() else None

    def do(self, shared: SharedModel, jobs: Sequence[Job]) -> Iterator[Job]:
        """Compute and solve the parts' kernels, split by split."""
        session = shared.session
        for job in jobs:
            split, labels = job.split, shared.labels(job.split)
            kernels, logits = _kernels(shared, split)
            outcomes = [
                replace(outcome, method=f"{outcome.method} ({name})", linear=None)
                for name, of_part in kernels.items()
                for method in session.methods
                for outcome in [solve_split(of_part, logits, labels, shared.task.metric, *method)]
            ]
            keep_results(shared, split, [*baselines_of(shared, split, logits), *outcomes], [])
            yield job

    def end(self, shared: SharedModel, was_done: bool) -> None:
        """Remove the scratch files of the kernels."""
        if self.of(shared):
            for split in shared.splits:
                WorkFolder.sweep(_owner(shared.session, split), shared.session.settings.scratch)


def check_parts(models: Sequence[SharedModel]) -> None:
    """Refuse parts that a run's model does not have, before anything is computed.

    Raises:
        UserError: a target that matches nothing, a rank larger than a layer, LoRA on an adapter, or a kernel that classes share.
    """
    for shared in models[:1]:
        if parts := _parts(shared.session):
            _members(shared.model, tuple(shared.session.chosen.select(shared.model)), parts, 0)
    for shared in models:
        if _parts(shared.session) and not shared.session.is_full(shared.task):
            raise UserError(
                f"targets: with --classes {shared.session.experiment.classes} the kernel is one of all parameters; "
                "give --classes full, or leave targets out"
            )


def _parts(session: Session) -> dict[str, TrainedPart]:
    """Return the parts that are asked for, by name, with no seed yet."""
    e = session.experiment
    alpha = e.finetuning.lora_alpha
    # beside a head the scale counts: results by another one have another name, so that none is taken for the other
    ending = "" if alpha == TrainedPart.lora_alpha else f" alpha={alpha:g}"
    low_rank = {
        f"{target} r={rank}{ending}": TrainedPart(rank, target, alpha)
        for target in e.targets
        for rank in e.ranks
    }
    return low_rank | {target: TrainedPart(train_only=target) for target in e.others}


def _owner(session: Session, split: Split) -> WorkOwner:
    return WorkOwner(session.store.folder, (f"{split.name} subspaces",))


def _kernels(shared: SharedModel, split: Split) -> tuple[dict[str, Kernels], Logits]:
    """Return a split's kernels by part, and its pre-trained logits."""
    session, e = shared.session, shared.session.experiment
    texts, model = shared.texts(split), shared.model
    trainable = session.chosen.select(model)
    members = _members(model, tuple(trainable), _parts(session), split.seed)
    subspaces = Subspaces(tuple({each.name: each for parts in members.values() for each in parts}.values()))
    pairs = [("train", side) for side in SIDES]
    work = KernelWork(model, texts, pairs, e.formulas, trainable, session.pretrained.pad_id, subspaces)
    key = Key(kernels=session.keys(shared.task, split).kernels.digest, subspaces=subspaces.as_dict()).digest
    tokens = float(np.mean([text.length for part in texts.values() for text in part]))
    capture_cost, pair_cost = (
        6 * tokens * model.outputs,
        2.0 * model.outputs**2 * len(kernel_names(e.formulas)),
    )
    session.progress.work(
        f"{split.name}: {len(members)} parts of the model",
        capture_cost * sum(map(len, texts.values())) + pair_cost * work.text_pairs(),
    )
    listener = Listener(
        report=lambda captured, contracted: session.progress.advance(
            capture_cost * captured + pair_cost * contracted
        ),
        note=lambda line: session.progress.note(f"{shared.title}: {line}"),
    )
    streamed = stream_kernels(work, replace(session.settings, owner=_owner(session, split)), listener, key)
    WorkFolder.finish(session.settings, key)
    kernels: dict[str, Kernels] = {
        name: {
            (side, formula): _kernel(streamed, side, formula, parts)
            for side in SIDES
            for formula in e.formulas
        }
        for name, parts in members.items()
    }
    return kernels, {side: streamed.logits[side].numpy() for side in SIDES}


def _members(
    model: LogitModel, names: tuple[str, ...], parts: dict[str, TrainedPart], seed: int
) -> dict[str, tuple[Candidate, ...]]:
    """Return the candidates whose kernels are added up, for each part."""
    members: dict[str, tuple[Candidate, ...]] = {}
    trains_head = bool(own_head(model))
    for name, trained in parts.items():
        part = replace(trained, seed=seed).on(model, names, trains_head)
        if isinstance(part, LowRank):
            renamed = {LORA: name, HEAD: "the head beside LoRA"}
            members[name] = tuple(
                replace(each, name=renamed[each.name]) for each in part.subspaces.candidates
            )
        else:
            members[name] = (Candidate(name, part),)
    return members


def _kernel(streamed: Streamed, side: str, formula: str, parts: tuple[Candidate, ...]) -> Kernel:
    of_all = streamed.subspaces["train", side]

    def summed(kernel_name: str) -> Any:
        return sum(of_all[part.name][kernel_name] for part in parts)

    is_two = f"{formula}_flipped" in of_all[parts[0].name]
    flipped = summed(f"{formula}_flipped").cpu().numpy() if is_two else None
    return Kernel(formula, summed(formula).cpu().numpy(), flipped)
