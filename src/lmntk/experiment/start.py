"""From a configuration to what computes: a session with its model, texts and settings, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from lmntk.engine.settings import MACHINE, SCRATCH, Settings
from lmntk.engine.work import WorkOwner
from lmntk.experiment.configuration import Experiment
from lmntk.experiment.configuration.parts import Kernels, OnMachine, Parameters, Source
from lmntk.experiment.preparation import PreparedTask, prepare_tasks
from lmntk.experiment.reading import ReadTask, read_tasks
from lmntk.experiment.session import Session
from lmntk.experiment.steps.diagnose import given_checkpoint
from lmntk.experiment.steps.finetune import check_finetuning
from lmntk.kernels.groups import group_of_layer
from lmntk.models.build import logit_model, untie
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import Pretrained, load_pretrained
from lmntk.models.tokenizer import TokenizerAlone, tokenizer_alone
from lmntk.runs.store import Store
from lmntk.solvers.outcome import methods_of
from lmntk.system.devices import chosen_devices, move_to
from lmntk.system.executors.choose import chosen_executor
from lmntk.system.memory import default_memory, parse_bytes
from lmntk.system.notices import say
from lmntk.system.precision import check_precision
from lmntk.system.progress import Progress
from lmntk.tasks.class_words import class_line


def open_session(
    experiment: Experiment, progress: Progress, read: Sequence[ReadTask] | None = None
) -> Session:
    """Return the session of an experiment, after a look at everything that can be wrong with it.

    Args:
        experiment: what is asked for.
        progress: whom it tells what it looks at; the first line is which word stands for which class.
        read: the experiment's tasks, where they are read already.

    Raises:
        UserError: a mistake in the configuration, the data, the prompts or the model.
    """
    methods = methods_of(experiment.formulas, experiment.solvers)
    check_precision(experiment.precision, experiment.dtype, chosen_devices(experiment.device))
    if read is None:
        progress.phase("reading the texts")
        read = read_tasks(experiment)
    alone = reader_alone(experiment)
    if alone is not None:  # a prompt that does not fit is known before the weights are
        tried = prepare_tasks(experiment, read, alone)
        for task in tried:
            for mode in experiment.modes:
                task.encoder(alone, mode, experiment.label_words_reduce)
    progress.phase("loading the model")
    pretrained = load(experiment, experiment.modes)
    tasks = prepare_tasks(experiment, read, pretrained)
    settings = settings_of(experiment, experiment.out, kernels=experiment)
    given = None if experiment.finetuned is None else given_checkpoint(experiment.finetuned)
    chosen = filter_of(experiment)
    store = Store(experiment.out)
    session = Session(experiment, pretrained, store, progress, settings, chosen, methods, given, tasks)
    for task in tasks:  # a prompt that does not fit, or a text without a label, shows now
        for split in task.splits:
            session.labels(task, split)
            session.texts(task, split)
    for mode in experiment.modes:  # so does a filter that matches nothing
        trial_head = nn.Linear(1, 2)
        for task in tasks if pretrained.kind == "classifier" else tasks[:1]:
            model = logit_model(
                pretrained,
                session.encoder(task, mode),
                session.folds(task),
                labels=task.labels,
                features=experiment.features,
                head=trial_head,
            )
        chosen.select(model)
        check_finetuning(session, model)
    note_classes(experiment, tasks, progress)  # after all that can be wrong: a mistake is one line
    for task in tasks:
        if "prompt" in experiment.modes and len(task.templates) > 1:
            say(f"{task.name}: the mean of the logits of {len(task.templates)} templates is taken (ensemble)")
        for line in session.remarks(task):
            say(line)
    return session


def reader_alone(source: Source) -> TokenizerAlone | None:
    """Return a model's tokenizer, to try prompts on before the weights are loaded; None where only loading tells."""
    if source.base is not None or source.gguf is not None:
        return None
    return tokenizer_alone(source.model, source.kind, source.revision)


def note_classes(experiment: Experiment, tasks: Sequence[PreparedTask], progress: Progress) -> None:
    """Tell which word stands for which class, in a line a task; in head mode the classes alone."""
    for task in tasks:
        words = task.words(experiment.modes)
        progress.note(class_line(task.labels, words, task.name if len(tasks) > 1 else ""))


def load(computation: OnMachine, modes: Sequence[str]) -> Pretrained:
    """Return the model on its device, with the head that the modes need, untied if so asked.

    Raises:
        UserError: a model that cannot be read, or that cannot be put to use in one of the modes.
    """
    pretrained = load_pretrained(
        computation.model,
        computation.dtype,
        computation.attention,
        kind=computation.kind,
        revision=computation.revision,
        base=computation.base,
        needs_head=True if "prompt" in modes else None,
        gguf=computation.gguf,
    )
    move_to(pretrained, computation.device)
    for mode in modes:
        pretrained.reading(mode)
    if computation.untie_head:
        untie(pretrained)
    return pretrained


def settings_of(
    computation: OnMachine, out: Path, owner: WorkOwner | None = None, kernels: Kernels | None = None
) -> Settings:
    """Return the engine's settings of a computation whose results go to a folder; by default of plain ``sgd`` kernels.

    Raises:
        UserError: a device, precision, engine or amount of memory that is not to be had.
    """
    devices = chosen_devices(computation.device)
    memory, device_memory = computation.memory, computation.device_memory
    return Settings(
        batch_size=computation.batch_size,
        memory=default_memory() if memory is None else parse_bytes(memory),
        drop_noise=kernels is None or not kernels.keep_noise,
        grouping=group_of_layer if kernels is not None and kernels.groups else None,
        scratch=(computation.scratch or out / SCRATCH).resolve(),
        keep_factors=computation.keep_factors,
        executor=chosen_executor(
            computation.engine, computation.address, computation.workers, devices, computation.device
        ),
        rates=out / MACHINE,
        precision=check_precision(computation.precision, computation.dtype, devices),
        device_memory=None if device_memory is None else parse_bytes(device_memory, "device-memory"),
        owner=owner,
    )


def filter_of(computation: Parameters) -> ParameterFilter:
    """Return the choice of parameters."""
    return ParameterFilter(
        embeddings=not computation.without_embeddings,
        head=not computation.without_head,
        biases_only=computation.biases_only,
        include=computation.include,
        exclude=computation.exclude,
    )
