"""The parts that configurations share: the model, its parameters, the kernels and the machine.

Beside pydantic's own, a field says in ``json_schema_extra`` how the command line shows it:

    unset      what holds where nothing is given and the default is None
    metavar    the name of its value
    flag, help the flag and its help, where they are not the field's name and description
    no_option  why it has none
    repeated   True where it may be given several times
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lmntk.errors import UserError
from lmntk.system.memory import parse_bytes
from lmntk.tasks.class_words import BY_CLASS, class_entries

Value = TypeVar("Value")
MOST_RANK = 65536  # of LoRA: more than any layer is wide
Kind = Literal["auto", "masked", "causal", "seq2seq", "classifier"]
Rank = Annotated[int, Field(gt=0, le=MOST_RANK)]
Formula = Literal["sgd", "signgd", "asigngd"]

MEAN = "; given several times, their mean"
TEMPLATE = (
    'the prompt: "{a} It was {mask}.", for causal models "Review: {a}\\nSentiment:", or LM-BFF\'s' + MEAN
)
LABEL_WORDS = f"{BY_CLASS}; several words for a class as bad|awful"
TEXT_COLUMN = "column of the text; if it is missing, text_a and text_b are read"
TEXT_B_COLUMN = "column of the second text"
LABEL_COLUMN = "column of the label"
LABELS = "label values in the order of the label words"
CHAT = "put the prompt into the tokenizer's chat template; the label word begins the answer"
LABEL_WORDS_REDUCE = "what to do with label words of several tokens: first (token), or mean"
MAX_LENGTH = "longest prompted text in tokens"


def parts_of(value: Any) -> Any:
    """Return the parts of a text with commas; any other value as it is."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def several(value: Any) -> Any:
    """Return the values of a list: commas separate, ``none`` is an empty list, a number is a list of one."""
    if isinstance(value, str) and value.strip() == "none":
        return ()
    return (value,) if isinstance(value, int) else parts_of(value)


def _entries(value: Any) -> Any:
    """Return ``class=word`` for each class of a table; a text with commas and a list as their parts."""
    return class_entries(value) if isinstance(value, dict) else parts_of(value)


Several = Annotated[tuple[Value, ...], BeforeValidator(several)]
Words = Annotated[tuple[str, ...], BeforeValidator(parts_of)]
ClassWords = Annotated[tuple[str, ...], BeforeValidator(_entries)]
"""Label words as ``lmntk.tasks.class_words`` takes them: by class or in order; a text, a list or a table."""


def _sets_of_entries(value: Any) -> Any:
    """Return several sets of label words; texts without a comma are the words of a single one."""
    if isinstance(value, str | dict):
        return (_entries(value),)
    if isinstance(value, list | tuple) and all(isinstance(each, str) and "," not in each for each in value):
        return (tuple(value),)
    return tuple(map(_entries, value)) if isinstance(value, list | tuple) else value


WordSets = Annotated[tuple[tuple[str, ...], ...], BeforeValidator(_sets_of_entries)]
"""Label words once, or several times beside each other: ``great,terrible`` and ``good=fine,bad=poor``."""


def _types_in(annotation: Any) -> set[Any]:
    """Return the types that an annotation mentions."""
    return {annotation} | {kind for part in get_args(annotation) for kind in _types_in(part)}


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values in lists and tables, or the one that is neither."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    if parts is None:
        yield value
    for part in parts or ():
        yield from _leaves(part)


class Part(BaseModel):
    """Fields of a configuration that belong together, and the heading that their options stand under."""

    GROUP: ClassVar[str] = ""

    # built when it is first used: --help asks for the fields alone
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _are_of_their_kind(cls, values: Any) -> Any:
        """Refuse what pydantic would take for something else: true for 1, an empty path for the folder that one is in."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            kinds = set() if field is None else _types_in(field.annotation)
            if not kinds or any(isinstance(kind, type) and issubclass(kind, Part) for kind in kinds):
                continue  # a table of its own looks into itself
            if not kinds & {bool, Any} and any(isinstance(leaf, bool) for leaf in _leaves(value)):
                raise UserError(f"{name}: true and false are no values of it (given: {value!r})")
            if Path in kinds and isinstance(value, str) and not value.strip():
                raise UserError(f"{name}: the path is empty; name a folder or a file")
        return values


class FileColumns(Part):
    """The columns of a table of texts, and its labels."""

    GROUP: ClassVar[str] = "Data"

    text_column: str = Field(default="text", description=TEXT_COLUMN)
    text_b_column: str | None = Field(default=None, description=TEXT_B_COLUMN)
    label_column: str = Field(default="label", description=LABEL_COLUMN)
    labels: Words | None = Field(default=None, description=LABELS)


class Source(Part):
    """Where the model comes from."""

    GROUP: ClassVar[str] = "Model"

    model: str = Field(description="a Hugging Face model folder, a GGUF file, or a hub name")
    kind: Kind = Field(
        default="auto",
        description="kind of model: masked, causal, seq2seq or classifier",
        json_schema_extra={"unset": "by the checkpoint"},
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub name")
    gguf: str | None = Field(
        default=None,
        description="the name of a GGUF file in the model's folder or repository",
        json_schema_extra={"metavar": "NAME"},
    )
    base: str | None = Field(
        default=None, description="the base model of an adapter, in place of the one it names"
    )
    untie_head: bool = Field(default=False, description="give the decoder its own copy of a tied weight")


class NamedParameters(Part):
    """A choice of parameters by their names."""

    GROUP: ClassVar[str] = "Model"

    biases_only: bool = Field(default=False, description="only biases (BitFit)")
    include: Several[str] = Field(
        default=(), description='only parameters that match, such as "*.layer.11.*"'
    )
    exclude: Several[str] = Field(default=(), description="leave out parameters that match")


class Parameters(NamedParameters):
    """A choice of parameters; ``lmntk.models.filters`` applies it."""

    without_embeddings: bool = Field(default=False, description="leave the lookup tables out")
    without_head: bool = Field(default=False, description="leave out what is not part of the base model")


class Kernels(Part):
    """Which kernels there are to be."""

    GROUP: ClassVar[str] = "Kernels"

    formulas: Several[Formula] = Field(
        default=("sgd", "signgd", "asigngd"), description="kernel formulas: sgd, signgd, asigngd, or none"
    )
    groups: bool = Field(default=False, description="also keep each layer's part of the kernels")
    keep_noise: bool = Field(
        default=False, description="keep coordinates that are rounding noise in the sign kernels"
    )


class Classes(Part):
    """A choice between a kernel for each pair of classes, for each pair of contrasts that a softmax sees, and one that all share."""

    GROUP: ClassVar[str] = "Kernels"

    classes: Literal["auto", "full", "contrasts", "shared"] = Field(
        default="full",
        description="full, contrasts (one logit less), shared (one kernel for all classes), or auto (shared for more than 6)",
    )


class Machine(Part):
    """The machine that the kernels are computed on; none of it changes them beyond rounding."""

    GROUP: ClassVar[str] = "Machine"

    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="type of the weights: float32 or float64"
    )
    attention: str | None = Field(default=None, description="attention implementation: sdpa, eager")
    batch_size: int = Field(default=32, gt=0, description="texts in one forward pass")
    memory: str | None = Field(
        default=None,
        description="memory of the process, or of a Ray machine: 4GiB",
        json_schema_extra={"unset": "half of the machine's", "metavar": "SIZE"},
    )
    scratch: Path | None = Field(
        default=None,
        description="folder for finished tiles and what memory does not hold",
        json_schema_extra={"unset": "OUT/scratch"},
    )
    keep_factors: bool = Field(default=False, description="leave all texts' factors in the scratch folder")
    device: str = Field(
        default="auto",
        description="where to compute: cpu, cuda:1, cuda for all GPUs, cuda:0,cuda:2",
        json_schema_extra={"unset": "a GPU if there is one"},
    )
    device_memory: str | None = Field(
        default=None,
        description="memory of each GPU, such as 60GiB",
        json_schema_extra={"unset": "nine tenths of what is free", "metavar": "SIZE"},
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        default="float32",
        description="precision of passes and products: float32, tf32, bfloat16; its error is measured",
    )
    engine: Literal["local", "ray"] = Field(
        default="local", description="where the work runs: local, or ray for a cluster"
    )
    address: str | None = Field(
        default=None,
        description="address of a running Ray cluster, such as auto",
        json_schema_extra={"unset": "one on this machine"},
    )
    workers: int | None = Field(
        default=None, gt=0, description="processes on the Ray cluster, each with the model"
    )

    @model_validator(mode="after")
    def _are_sizes(self) -> Machine:
        if self.memory is not None:
            parse_bytes(self.memory)
        if self.device_memory is not None:
            parse_bytes(self.device_memory, "device-memory")
        return self


class OnMachine(Machine, Source):
    """A model, and the machine that it is put to use on."""


class Computation(Kernels, Parameters, OnMachine):
    """A computation of kernels: of which model and parameters, by which formulas, on which machine."""

    GROUP: ClassVar[str] = "Kernels"

    all_logits: bool = Field(
        default=False, description="keep both logits of two classes, not their difference"
    )
