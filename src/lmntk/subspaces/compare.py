"""From one labelled file to a comparison of what might train."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from lmntk.engine.settings import Settings
from lmntk.engine.work import WorkOwner
from lmntk.engine.work_folder import WorkFolder
from lmntk.estimator.encoders import Prompt, encoder_of
from lmntk.estimator.given import FitInput
from lmntk.estimator.ways import way_of
from lmntk.experiment.configuration import Subspace
from lmntk.experiment.start import filter_of, load, settings_of
from lmntk.kernels.lora import LoraStart
from lmntk.models.parts import parts_of
from lmntk.models.targets import takes_any
from lmntk.reports.subspace_page import write_subspace_page
from lmntk.subspaces.adapter import target_modules
from lmntk.subspaces.candidates import Grid, contest_of
from lmntk.subspaces.record import SubspaceRecord, record_of, write_survey
from lmntk.subspaces.survey import kernels_of, survey, survey_key
from lmntk.system.files import alone_in
from lmntk.system.progress import Progress
from lmntk.tasks.class_words import class_line

INITS = {"kaiming": "kaiming", "gaussian": "gaussian-peft"}


def compare_file(options: Subspace, given: FitInput, progress: Progress) -> SubspaceRecord:
    """Return what each candidate comes to on a labelled file, and write it to a folder.

    With label words the texts are put to the model by the prompt, without them by a new head that trains beside every candidate.

    Raises:
        UserError: a mistake in the targets, the prompt or the model.
    """
    texts, words = given.texts, given.words
    progress.note(class_line(texts.labels, words))
    prompt = Prompt(options.template, words, options.label_words_reduce, options.max_length, options.chat)
    mode = prompt.modes(options.mode)[0]
    owner = WorkOwner(options.out, ("subspace",))
    settings: Settings = settings_of(options, options.out, owner)
    pretrained = load(options, [mode])
    encoder = encoder_of(pretrained, mode, prompt)
    way = way_of(
        pretrained, mode, encoder, texts.labels, filter_of(options), seed=options.seed, sharing="full"
    )
    start = LoraStart(INITS[options.init], options.scaling, options.alpha)  # type: ignore[arg-type]
    others = options.others
    if "others" not in options.model_fields_set:  # a Llama has no biases, which nobody asked for
        parts = parts_of(way.model, tuple(way.trainable))
        others = tuple(target for target in others if takes_any(target, parts))
    grid = Grid(options.targets, options.ranks, options.draws, others, start)
    contest = contest_of(way.model, tuple(way.trainable), grid, trains_head=not way.has_logits)
    texts = texts.as_tokens(way.encoded(texts.examples))
    lengths = [text.length for text in way.encoded(texts.examples)]
    per_text, per_pair = 6.0 * way.model.outputs * sum(lengths) / len(lengths), 2.0 * way.model.outputs**2
    progress.work(
        f"{mode}: {len(lengths)} texts, {len(contest.subspaces.candidates)} kernels",
        per_text * len(lengths) + per_pair * len(lengths) ** 2,
    )
    with alone_in(options.out):
        kernels = kernels_of(
            way,
            texts,
            contest,
            settings,
            options.out,
            adam=options.adam,
            announce=lambda estimate: progress.note(f"{mode}: {estimate.describe()}"),
            report=lambda captured, contracted: progress.advance(per_text * captured + per_pair * contracted),
        )
        linear = [
            name for name, module in way.model.named_modules() if isinstance(module, nn.Linear | Conv1D)
        ]
        record = record_of(
            survey(way, texts, contest, kernels, options.seed),
            tolerance=options.tolerance,
            start=start,
            modules={
                target: target_modules([name.rpartition(".")[0] for name in names], linear)
                for target, names in contest.modules.items()
            },
            about={
                "file": options.file,
                "mode": mode,
                "counts": texts.counts,
                "draws": options.draws,
                "model": {"name": options.model, "fingerprint": pretrained.fingerprint},
            },
        )
        write_survey(options.out, record)
        why_not = write_subspace_page(options.out, record.model_dump())
        if why_not:
            progress.note(why_not)
        WorkFolder.finish(settings, survey_key(way, texts, contest, adam=options.adam).digest)
        WorkFolder.sweep(owner, settings.scratch)
    return record
