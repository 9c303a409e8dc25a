"""Options that several commands have, in one wording, and how their values are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from lmntk.errors import UserError

Command = TypeVar("Command", bound=Callable[..., None])

ModelOption = Annotated[
    str | None, typer.Option("--model", help="a Hugging Face model folder, or a hub name")
]
KindOption = Annotated[
    str | None, typer.Option(help="masked, causal, seq2seq or classifier  [default: by the checkpoint]")
]
RevisionOption = Annotated[str | None, typer.Option(help="branch, tag or commit of a hub name")]
BaseOption = Annotated[
    str | None, typer.Option(help="the base model of an adapter, in place of the one it names")
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        help='the prompt: "{a} It was {mask}.", for causal models "{a} It was", or LM-BFF\'s; given several times, their mean'
    ),
]
LabelWordsOption = Annotated[
    str | None,
    typer.Option(help="the words of each class, in order: terrible,great, or bad|awful,great|good"),
]
ReduceOption = Annotated[
    str | None, typer.Option(help="label words of several tokens: first token, or mean  [default: an error]")
]
FeaturesOption = Annotated[
    str | None, typer.Option(help="head mode: read (first token, or a decoder's last), mean  [default: read]")
]
FormulasOption = Annotated[
    str | None, typer.Option(help="of sgd, signgd, asigngd, or none  [default: all three]")
]
DtypeOption = Annotated[str | None, typer.Option(help="float32 or float64  [default: float32]")]
AttentionOption = Annotated[str | None, typer.Option(help="attention implementation: sdpa, eager")]
BatchOption = Annotated[int | None, typer.Option(help="texts in one forward pass  [default: 32]")]
MemoryOption = Annotated[
    str | None,
    typer.Option(help="of the process, or a Ray machine's: 4GiB  [default: half of the machine's]"),
]
ScratchOption = Annotated[
    Path | None,
    typer.Option(help="folder for finished tiles and what memory does not hold  [default: OUT/scratch]"),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="cpu, cuda:1, cuda for all cards, cuda:0,cuda:2  [default: a card if there is one]"),
]
DeviceMemoryOption = Annotated[
    str | None, typer.Option(help="of each card, such as 60GiB  [default: nine tenths of what is free]")
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        help="of passes and products: float32, tf32, bfloat16, whose error is measured  [default: float32]"
    ),
]
EngineOption = Annotated[str | None, typer.Option(help="local, or ray for a cluster  [default: local]")]
AddressOption = Annotated[
    str | None, typer.Option(help="of a running Ray cluster, such as auto  [default: one on this machine]")
]
WorkersOption = Annotated[
    int | None, typer.Option(help="processes on the Ray cluster, each with the model", min=1)
]
KeepFactorsOption = Annotated[
    bool, typer.Option("--keep-factors", help="leave all texts' factors in the scratch folder")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
AllLogitsOption = Annotated[
    bool, typer.Option("--all-logits", help="keep both logits of two classes, not their difference")
]
UntieOption = Annotated[
    bool, typer.Option("--untie-head", help="give the decoder its own copy of a tied weight")
]
EmbeddingsOption = Annotated[bool, typer.Option("--without-embeddings", help="leave the lookup tables out")]
HeadOption = Annotated[bool, typer.Option("--without-head", help="leave out what is not the base model's")]
BiasesOption = Annotated[bool, typer.Option("--biases-only", help="biases alone (BitFit)")]
IncludeOption = Annotated[str | None, typer.Option(help='only parameters that match, such as "*.layer.11.*"')]
ExcludeOption = Annotated[str | None, typer.Option(help="not parameters that match")]
GroupsOption = Annotated[bool, typer.Option("--groups", help="also keep each layer's part of the kernels")]
NoiseOption = Annotated[
    bool,
    typer.Option("--keep-noise", help="let coordinates that are rounding noise vote in the sign kernels"),
]
RatesOption = Annotated[
    str | None, typer.Option(help="fine-tuning: of the grid, 1e-3,5e-3  [default: the paper's, by optimizer]")
]
SizesOption = Annotated[
    str | None, typer.Option("--batch-sizes", help="fine-tuning: of the grid  [default: 2,4,8]")
]
StepsOption = Annotated[int | None, typer.Option(help="fine-tuning: of each training  [default: 1000]")]
EveryOption = Annotated[
    int | None,
    typer.Option("--eval-every", help="fine-tuning: steps between two looks at dev  [default: 100]"),
]
LossOption = Annotated[
    str | None, typer.Option(help="fine-tuning: cross-entropy or squared  [default: cross-entropy]")
]
LinearizedOption = Annotated[
    bool, typer.Option("--linearized", help="fine-tuning: train the linearized model as well")
]
RankOption = Annotated[
    int | None, typer.Option("--lora-rank", help="fine-tuning: train a fresh LoRA of this rank")
]
FreezeOption = Annotated[
    int | None,
    typer.Option("--freeze-layers", help="fine-tuning: not the embeddings and so many bottom layers"),
]
WeightsOption = Annotated[bool, typer.Option("--save-weights", help="fine-tuning: keep the best weights")]


def training(
    learning_rates: RatesOption = None,
    batch_sizes: SizesOption = None,
    steps: StepsOption = None,
    eval_every: EveryOption = None,
    loss: LossOption = None,
    linearized: LinearizedOption = False,
    lora_rank: RankOption = None,
    freeze_layers: FreezeOption = None,
    save_weights: WeightsOption = False,
) -> None:
    """The options of every command that fine-tunes."""


def computing(
    attention: AttentionOption = None,
    batch_size: BatchOption = None,
    memory: MemoryOption = None,
    scratch: ScratchOption = None,
    keep_factors: KeepFactorsOption = False,
    device: DeviceOption = None,
    device_memory: DeviceMemoryOption = None,
    precision: PrecisionOption = None,
    engine: EngineOption = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    all_logits: AllLogitsOption = False,
    untie_head: UntieOption = False,
    without_embeddings: EmbeddingsOption = False,
    without_head: HeadOption = False,
    biases_only: BiasesOption = False,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    groups: GroupsOption = False,
    keep_noise: NoiseOption = False,
) -> None:
    """The options of every command that computes kernels."""


def with_computing(before: str) -> Callable[[Command], Command]:
    """Returns a decorator of a command that takes ``**computing``: in its signature, which typer reads, their options come in its place.

    Args:
        before: the command's own option that they stand before in its help.
    """
    return _with_options(computing, before)


def with_training(before: str) -> Callable[[Command], Command]:
    """Returns a decorator as ``with_computing``'s, of the options of fine-tuning."""
    return _with_options(training, before)


def _with_options(options: Callable[..., None], before: str) -> Callable[[Command], Command]:
    def decorated(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)  # typer takes a signature that is set as it is
        parameters = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        place = [p.name for p in parameters].index(before)
        parameters[place:place] = inspect.signature(options, eval_str=True).parameters.values()
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = command.__annotations__ | get_type_hints(options, include_extras=True)
        return command

    return decorated


def given(**values: Any) -> dict[str, Any]:
    """Returns the options that were given."""
    return {name: value for name, value in values.items() if value is not None and value is not False}


def listed(text: str) -> list[str]:
    """Returns the parts of a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(name: str, text: str | None) -> list[int] | None:
    """Returns the whole numbers of a list with commas.

    Raises:
        UserError: something else is in it.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in listed(text)]
    except ValueError:
        raise UserError(
            f"{name}: {text!r} is not a list of whole numbers; write {'16,64' if name == 'k' else '13,21'}"
        ) from None
