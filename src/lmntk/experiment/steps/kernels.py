"""The kernels of splits that share a model: read where they are kept, computed where they are not.

What is missing is computed in *pieces*: splits that lack the same formulas go together. Pieces are written down
before they begin, so that a run that goes on follows them, finds their tiles, and ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lmntk.engine.kernel_work import KernelWork, groups_of
from lmntk.engine.phases import result_bytes
from lmntk.engine.progress import Listener
from lmntk.engine.settings import NOT_KEPT
from lmntk.engine.stream import Streamed, stream_kernels, whole
from lmntk.engine.work import Piece, WorkOwner
from lmntk.engine.work_folder import WorkFolder
from lmntk.experiment.session import Session
from lmntk.experiment.shared_model import SharedModel
from lmntk.experiment.steps.scratch import scratch_folder
from lmntk.finetuning.logits import logits_of
from lmntk.kernels.formulas import FORMULAS, kernel_names
from lmntk.kernels.kernel import Kernel
from lmntk.prompts.encoding import EncodedText
from lmntk.runs.split import SIDES, Split
from lmntk.solvers.shared import DRAWN, in_classes, single_kernel
from lmntk.system.hashing import content_key, versions

Kernels = dict[tuple[str, str], Kernel]  # by side and formula
Logits = dict[str, np.ndarray]  # by side


def kernels_of(
    shared: SharedModel, splits: Sequence[Split], sides: Sequence[str] = SIDES
) -> dict[str, tuple[Kernels, Logits]]:
    """Return the kernels of some splits against the sides, and their pre-trained logits, by the splits' names.

    Kernels that are kept are read. The others are computed, and kept if the experiment keeps any; if not,
    ``forget_kernels`` removes their scratch files once the splits are solved.
    """
    session = shared.session
    known = {split.name: _kept(shared, split, session.experiment.formulas, sides) for split in splits}
    begun = _begun(shared, sides)
    unfinished = _unfinished(shared, begun.record().pieces, known, sides)
    missing = _missing(shared, known, unfinished, sides)
    if missing:
        owner = _owner(session, [split.name for split in shared.splits])
        begun.write_down(owner, pieces=[*unfinished, *missing])
    if session.settings.keep_factors and not unfinished and not missing:
        session.progress.note(NOT_KEPT)
    for piece in (*unfinished, *missing):
        for name, (kernels, logits) in _computed(shared, piece, sides).items():
            if name in known:
                known[name] = known[name][0] | kernels, logits
    if session.experiment.keep_kernels:  # else the tiles are all there is of them until the splits are solved
        _forget(session, begun, (*unfinished, *missing))
    return {name: (kernels, logits or {}) for name, (kernels, logits) in known.items()}


def forget_kernels(shared: SharedModel) -> None:
    """Remove what is left in the scratch folder of splits that are all finished, begun under other settings too."""
    session = shared.session
    if session.settings.scratch is None:
        return
    for sides in (SIDES, SIDES[:2]):
        begun = _begun(shared, sides)
        _forget(session, begun, begun.record().pieces)
    owner = _owner(session, [split.name for split in shared.splits])
    WorkFolder.sweep(owner, session.settings.scratch)


def groups_and_pairs(
    shared: SharedModel, splits: Sequence[Split], sides: Sequence[str]
) -> tuple[dict[str, Sequence[EncodedText]], list[tuple[str, str]], dict[tuple[str, str], str]]:
    """Return the groups of texts, the pairs of groups whose kernels are wanted, and each split's and side's group.

    Test texts that all splits share are one group.
    """
    texts = {split.name: shared.texts(split) for split in splits}
    first = splits[0]
    groups: dict[str, Sequence[EncodedText]] = {"test": texts[first.name]["test"]}
    same_test = all(
        split.test == first.test and texts[split.name]["test"] == groups["test"] for split in splits
    )
    pairs = []
    group_of: dict[tuple[str, str], str] = {}
    for split in splits:
        for side in sides:
            group = "test" if side == "test" and same_test else f"{split.name}/{side}"
            groups[group] = texts[split.name][side]
            group_of[split.name, side] = group
            pairs.append((f"{split.name}/train", group))
    used = {name for pair in pairs for name in pair}
    return {name: part for name, part in groups.items() if name in used}, pairs, group_of


def _forget(session: Session, begun: WorkFolder, pieces: Sequence[Piece]) -> None:
    """Remove the scratch files of work that is done, and last of all the word of it."""
    for piece in pieces:
        WorkFolder.finish(session.settings, piece.work)
    begun.remove()


def _kept(
    shared: SharedModel, split: Split, formulas: Sequence[str], sides: Sequence[str]
) -> tuple[Kernels, Logits | None]:
    """Return the kernels and logits of a split that are on disk."""
    store, key = shared.session.store, shared.session.keys(shared.task, split).kernels
    wanted = [(side, formula) for side in sides for formula in formulas]
    kernels = {pair: kernel for pair in wanted if (kernel := store.kernel(split, *pair, key)) is not None}
    return kernels, store.logits(split, key)


def _digests(shared: SharedModel, splits: Iterable[Split]) -> dict[str, str]:
    return {split.name: shared.session.keys(shared.task, split).kernels.digest for split in splits}


def _begun(shared: SharedModel, sides: Sequence[str]) -> WorkFolder:
    """Return where the pieces of the work on all splits of a model are written down."""
    session = shared.session
    digests = _digests(shared, shared.splits)
    key = content_key(splits=digests, formulas=session.experiment.formulas, sides=sides)
    return WorkFolder(scratch_folder(session), key)


def _owner(session: Session, names: Iterable[str]) -> WorkOwner:
    """Return whose the work on these splits' kernels is; a diagnosis's kernels do not end with those that are solved."""
    ending = "" if session.methods else " unsolved"
    return WorkOwner(session.store.folder, tuple(f"{name}{ending}" for name in names))


def _splits_of(shared: SharedModel, piece: Piece) -> list[Split]:
    return [split for split in shared.splits if split.name in piece.splits]


def _unfinished(
    shared: SharedModel, begun: Sequence[Piece], wanted: Iterable[str], sides: Sequence[str]
) -> list[Piece]:
    """Return what an earlier run began and did not save to the end; remove the scratch files of the rest."""
    settings, pieces = shared.session.settings, []
    for piece in begun:
        kept = [_kept(shared, split, piece.formulas, sides) for split in _splits_of(shared, piece)]
        whole_number = len(sides) * len(piece.formulas)
        is_saved = all(len(kernels) == whole_number and logits is not None for kernels, logits in kept)
        if is_saved or not any(name in wanted for name in piece.splits):
            WorkFolder.finish(settings, piece.work)
        elif piece.work != _work_key(shared, piece.splits, piece.formulas, sides):
            WorkFolder.finish(replace(settings, keep_factors=False), piece.work)
            line = f"{shared.title}: unfinished work of another batch size is dropped"
            shared.session.progress.note(line)
        else:
            pieces.append(piece)
    return pieces


def _missing(
    shared: SharedModel,
    known: Mapping[str, tuple[Kernels, Logits | None]],
    begun: Sequence[Piece],
    sides: Sequence[str],
) -> list[Piece]:
    """Return what is missing beside what is begun, splits that lack the same formulas together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for name, (kernels, logits) in known.items():
        coming = {formula for piece in begun if name in piece.splits for formula in piece.formulas}
        asked = shared.session.experiment.formulas
        lacking = {f for f in asked if any((side, f) not in kernels for side in sides)} - coming
        if logits is None and not coming and not lacking:
            lacking = {"sgd"}
        if lacking:
            together.setdefault(tuple(f for f in FORMULAS if f in lacking), []).append(name)
    return [
        Piece(tuple(names), formulas, _work_key(shared, names, formulas, sides))
        for formulas, names in together.items()
    ]


def _work_key(
    shared: SharedModel, names: Sequence[str], formulas: Sequence[str], sides: Sequence[str]
) -> str:
    """Return the name under which the work on these splits' kernels is found again."""
    splits = [split for split in shared.splits if split.name in names]
    pairs = groups_and_pairs(shared, splits, sides)[1]
    cut = shared.session.settings.cut()
    return content_key(cells=_digests(shared, splits), formulas=formulas, pairs=pairs, settings=cut)


def _computed(shared: SharedModel, piece: Piece, sides: Sequence[str]) -> dict[str, tuple[Kernels, Logits]]:
    """Compute and keep the kernels of a piece; return them with the logits."""
    session, splits = shared.session, _splits_of(shared, piece)
    groups, pairs, group_of = groups_and_pairs(shared, splits, sides)
    model = shared.kernel_model
    c = model.outputs
    tokens = float(np.mean([text.length for part in groups.values() for text in part]))
    # operations a parameter: six a token and logit to capture, two a pair of logits and kernel to contract
    capture_cost = 6 * tokens * c
    pair_cost = 2.0 * c * c * len(kernel_names(piece.formulas))
    total = capture_cost * sum(map(len, groups.values()))
    total += pair_cost * sum(len(groups[row]) * len(groups[column]) for row, column in pairs)
    ks = ",".join(str(k) for k in dict.fromkeys(split.k for split in splits))
    seed = f" seed {splits[0].seed}" if len(splits) == 1 else ""
    session.progress.work(f"{shared.task.title} k={ks} {shared.mode}{seed}", total)
    trainable, pad_id = session.chosen.select(shared.model), session.pretrained.pad_id
    listener = Listener(
        report=lambda captured, contracted: session.progress.advance(
            capture_cost * captured + pair_cost * contracted
        ),
        announce=lambda estimate: session.progress.note(f"{shared.title}: {estimate.describe()}"),
        note=lambda line: session.progress.note(f"{shared.title}: {line}"),
    )
    settings = replace(session.settings, owner=_owner(session, piece.splits))
    if session.contrasts(shared.task) is not None:
        # beside their kernels there will be those of all logits
        held = groups_of(settings.grouping, trainable, alone=0)
        text_pairs = sum(len(groups[row]) * len(groups[column]) for row, column in pairs)
        later = result_bytes(text_pairs, shared.model.outputs, piece.formulas, held)
        settings = replace(settings, memory=max(1, settings.memory - later * settings.processes))
    streamed = stream_kernels(
        KernelWork(model, groups, pairs, piece.formulas, trainable, pad_id),
        settings,
        listener,
        key=piece.work,
    )
    session.progress.note(f"{shared.title}: {streamed.coverage.describe()}")
    if streamed.precision_loss is not None:
        session.progress.note(f"{shared.title}: {streamed.precision_loss.describe()}")
    results: dict[str, tuple[Kernels, Logits]] = {}
    before = streamed.logits
    if model is not shared.model:  # what was streamed are combinations
        before = {
            name: logits_of(shared.model, part, pad_id, session.settings.batch_size)
            for name, part in groups.items()
        }
    for split in splits:
        logits = {side: before[group_of[split.name, side]].numpy() for side in sides}
        kernels = _split_kernels(shared, split, streamed, piece.formulas, group_of)
        if session.experiment.keep_kernels:
            key = session.keys(shared.task, split).kernels
            session.store.keep_kernels(split, key, kernels, logits)
        results[split.name] = kernels, logits
    return results


def _split_kernels(
    shared: SharedModel,
    split: Split,
    streamed: Streamed,
    formulas: Sequence[str],
    group_of: Mapping[tuple[str, str], str],
) -> Kernels:
    """Return one split's kernels with their provenance."""
    session, task = shared.session, shared.task
    keys, basis = session.keys(task, split), session.contrasts(task)
    provenance = {
        "key": keys.kernels.digest,
        "examples": keys.content["examples"],  # by side, so that a reader knows the texts again
        "model": session.pretrained.fingerprint,
        "model_name": session.pretrained.name,
        **({} if session.pretrained.gguf is None else {"gguf": session.pretrained.gguf.as_dict()}),
        "task": task.name,
        "split": split.name,
        "templates": task.templates if split.mode == "prompt" else None,
        "label_words": task.label_words if split.mode == "prompt" else None,
        "chat": task.chat and split.mode == "prompt",
        "parameters": session.chosen.as_dict(),
        "dtype": session.experiment.dtype,
        "precision": session.settings.precision,
        **({"shared": {"classes": task.classes, **DRAWN}} if session.shares(task) else {}),
        **({} if basis is None else {"contrasts": True}),
        **({} if streamed.precision_loss is None else {"precision_loss": streamed.precision_loss.as_dict()}),
        "noise_coordinates_left_out": streamed.noise.get(f"{split.name}/train", 0),
        "versions": versions(),
    }
    kernels: Kernels = {}

    def kept_of(values: np.ndarray) -> np.ndarray:
        return single_kernel(values, task.classes) if session.shares(task) else in_classes(values, basis)

    for (name, side), group in group_of.items():
        if name != split.name:
            continue
        values = streamed.kernels[f"{name}/train", group]
        for formula in formulas:
            flipped = values.get(f"{formula}_flipped")
            groups = values[formula].items() if session.settings.grouping else ()
            kernels[side, formula] = Kernel(
                formula,
                kept_of(whole(values[formula]).numpy()),
                None if flipped is None else whole(flipped).numpy(),
                {group: kept_of(part.numpy()) for group, part in groups},
                provenance,
            )
    return kernels
