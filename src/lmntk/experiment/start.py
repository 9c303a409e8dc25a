"""From an experiment's configuration to a session: the model, the texts and the settings, checked before any work."""

from __future__ import annotations

from torch import nn

from lmntk.engine.settings import MACHINE, SCRATCH, Settings
from lmntk.experiment.configuration import Experiment
from lmntk.experiment.preparation import prepare_tasks
from lmntk.experiment.session import Session
from lmntk.experiment.steps.diagnose import given_checkpoint
from lmntk.experiment.steps.finetune import check_finetuning
from lmntk.kernels.groups import group_of_layer
from lmntk.models.build import logit_model, untie
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import Pretrained, load_pretrained
from lmntk.runs.store import Store
from lmntk.solvers.outcome import methods_of
from lmntk.system.devices import chosen_devices, place
from lmntk.system.executors.choose import chosen_executor
from lmntk.system.memory import default_memory, parse_bytes
from lmntk.system.precision import check_precision
from lmntk.system.progress import Progress


def open_session(experiment: Experiment, progress: Progress) -> Session:
    """Return the session of an experiment, after a look at everything that can be wrong with it.

    Raises:
        UserError: a mistake in the configuration, the data, the prompts or the model.
    """
    methods = methods_of(experiment.formulas, experiment.solvers)
    settings = settings_of(experiment)
    pretrained = load(experiment)
    tasks = prepare_tasks(experiment, pretrained)
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
    return session


def load(experiment: Experiment) -> Pretrained:
    """Return the experiment's model, on its device.

    Raises:
        UserError: no such model, or one without a head that the modes need.
    """
    pretrained = load_pretrained(
        experiment.model,
        experiment.dtype,
        experiment.attention,
        kind=experiment.kind,
        revision=experiment.revision,
        base=experiment.base,
        needs_head=True if "prompt" in experiment.modes else None,
    )
    place(pretrained, experiment.device)
    for mode in experiment.modes:
        pretrained.reading(mode)
    if experiment.untie_head:
        untie(pretrained)
    return pretrained


def settings_of(experiment: Experiment) -> Settings:
    """Return how the experiment's kernels are computed.

    Raises:
        UserError: a device that is not there, a precision that it has not, or a memory that is no size.
    """
    devices = chosen_devices(experiment.device)
    precision = check_precision(experiment.precision, experiment.dtype, devices)
    device_memory = experiment.device_memory
    return Settings(
        batch_size=experiment.batch_size,
        memory=default_memory() if experiment.memory is None else parse_bytes(experiment.memory),
        drop_noise=not experiment.keep_noise,
        grouping=group_of_layer if experiment.groups else None,
        scratch=(experiment.scratch or experiment.out / SCRATCH).resolve(),
        keep_factors=experiment.keep_factors,
        executor=chosen_executor(
            experiment.engine, experiment.address, experiment.workers, devices, experiment.device
        ),
        rates=experiment.out / MACHINE,
        precision=precision,
        device_memory=None if device_memory is None else parse_bytes(device_memory, "device-memory"),
    )


def filter_of(experiment: Experiment) -> ParameterFilter:
    """Return which parameters count."""
    return ParameterFilter(
        not experiment.without_embeddings,
        not experiment.without_head,
        experiment.biases_only,
        experiment.include,
        experiment.exclude,
    )
