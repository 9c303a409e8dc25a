"""From a configuration to the objects that compute: the model, the choice of parameters, the settings of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmntk.engine.stream import MACHINE, SCRATCH, Settings
from lmntk.engine.work import Owner
from lmntk.experiment.configuration.parts import Computation
from lmntk.kernels.groups import group_of_layer
from lmntk.models.build import untie
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import Pretrained, load_pretrained
from lmntk.system.devices import chosen_devices, place
from lmntk.system.executors.choose import chosen_executor
from lmntk.system.memory import default_memory, parse_bytes
from lmntk.system.precision import check_precision


def load(computation: Computation, modes: Sequence[str]) -> Pretrained:
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
    )
    place(pretrained, computation.device)
    for mode in modes:
        pretrained.reading(mode)
    if computation.untie_head:
        untie(pretrained)
    return pretrained


def settings_of(computation: Computation, out: Path, owner: Owner | None = None) -> Settings:
    """Return the engine's settings of a computation whose results go to a folder.

    Raises:
        UserError: a device, precision, engine or amount of memory that is not to be had.
    """
    devices = chosen_devices(computation.device)
    memory, device_memory = computation.memory, computation.device_memory
    return Settings(
        batch_size=computation.batch_size,
        memory=default_memory() if memory is None else parse_bytes(memory),
        drop_noise=not computation.keep_noise,
        grouping=group_of_layer if computation.groups else None,
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


def filter_of(computation: Computation) -> ParameterFilter:
    """Return the choice of parameters."""
    return ParameterFilter(
        embeddings=not computation.without_embeddings,
        head=not computation.without_head,
        biases_only=computation.biases_only,
        include=computation.include,
        exclude=computation.exclude,
    )
