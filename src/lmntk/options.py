"""Options that several commands have, in one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[str | None, typer.Option("--model", help="a Hugging Face model folder, or a hub name")]
KindOption = Annotated[str | None, typer.Option(help="masked, causal, seq2seq or classifier  [default: by the checkpoint]")]
RevisionOption = Annotated[str | None, typer.Option(help="branch, tag or commit of a hub name")]
BaseOption = Annotated[str | None, typer.Option(help="the base model of an adapter, in place of the one it names")]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(help='the prompt: "{a} It was {mask}.", for causal models "{a} It was", or LM-BFF\'s; given several times, their mean'),
]
LabelWordsOption = Annotated[str | None, typer.Option(help="the words of each class, in order: terrible,great, or bad|awful,great|good")]
ReduceOption = Annotated[str | None, typer.Option(help="label words of several tokens: first token, or mean  [default: an error]")]
FeaturesOption = Annotated[str | None, typer.Option(help="head mode: read (first token, or a decoder's last), mean  [default: read]")]
FormulasOption = Annotated[str | None, typer.Option(help="of sgd, signgd, asigngd  [default: all three]")]
DtypeOption = Annotated[str | None, typer.Option(help="float32 or float64  [default: float32]")]
BatchOption = Annotated[int | None, typer.Option(help="texts in one forward pass  [default: 32]")]
MemoryOption = Annotated[str | None, typer.Option(help="of the whole process, such as 4GiB  [default: half of the machine's]")]
ScratchOption = Annotated[Path | None, typer.Option(help="folder for finished tiles and what memory does not hold  [default: OUT/scratch]")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda:1, cuda for all cards, cuda:0,cuda:2  [default: a card if there is one]")]
DeviceMemoryOption = Annotated[str | None, typer.Option(help="of each card, such as 60GiB  [default: nine tenths of what is free]")]
PrecisionOption = Annotated[
    str | None, typer.Option(help="of passes and products: float32, tf32, bfloat16, whose error is measured  [default: float32]")
]
EngineOption = Annotated[str | None, typer.Option(help="local, or ray for a cluster  [default: local]")]
AddressOption = Annotated[str | None, typer.Option(help="of a running Ray cluster, such as auto  [default: one on this machine]")]
WorkersOption = Annotated[int | None, typer.Option(help="processes on the Ray cluster, each with the model", min=1)]
KeepFactorsOption = Annotated[bool, typer.Option("--keep-factors", help="leave all texts' factors in the scratch folder")]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
AllLogitsOption = Annotated[bool, typer.Option("--all-logits", help="keep both logits of two classes, not their difference")]
UntieOption = Annotated[bool, typer.Option("--untie-head", help="give the decoder its own copy of a tied weight")]
EmbeddingsOption = Annotated[bool, typer.Option("--without-embeddings", help="leave the lookup tables out")]
HeadOption = Annotated[bool, typer.Option("--without-head", help="leave out what is not the base model's")]
BiasesOption = Annotated[bool, typer.Option("--biases-only", help="biases alone (BitFit)")]
IncludeOption = Annotated[str | None, typer.Option(help='only parameters that match, such as "*.layer.11.*"')]
ExcludeOption = Annotated[str | None, typer.Option(help="not parameters that match")]
GroupsOption = Annotated[bool, typer.Option("--groups", help="also keep each layer's part of the kernels")]
NoiseOption = Annotated[bool, typer.Option("--keep-noise", help="let coordinates that are rounding noise vote in the sign kernels")]
