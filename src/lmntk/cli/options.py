"""Options of commands, made from the fields of the configurations; see ``lmntk.experiment.configuration.parts``.

A command names the fields that it takes. Its options are made when it is called, so that no other command waits for them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from lmntk.experiment.configuration.parts import Part

MOST_USED = "Most used"
GROUPS = (MOST_USED, "Data", "Prompt", "Model", "Kernels", "Fine-tuning", "Machine", "Output")
LIST = "A,B,..."
# What most people need, the first first: a command's first ten of them head its help, in this order.
OFTEN = (
    *("model", "train", "evaluate", "tasks", "task", "data", "texts", "text_column", "label_column"),
    *(
        "template",
        "label_words",
        "k",
        "out",
        "target",
        "mode",
        "formulas",
        "text_b_column",
        "memory",
        "device",
    ),
)
MOST_OPTIONS = 10

JsonOption = Annotated[
    bool, typer.Option("--json", help="print the result as JSON", rich_help_panel=GROUPS[-1])
]


TextColumnOfFit = Annotated[
    str | None, typer.Option(help="column of the text", show_default="the one DIR was made from")
]
TextBColumnOfFit = Annotated[
    str | None, typer.Option(help="column of the second text", show_default="the one DIR was made from")
]


class EmptyPathError(Exception):
    """A path that is empty. It is no ``UserError``: the command line's parser would make several lines of a ``ValueError``."""


def given_path(text: str) -> Path:
    """Return the path that was given; an empty one must not become the folder that one is in.

    Raises:
        EmptyPathError: it is.
    """
    if not str(text).strip():
        raise EmptyPathError("path: it is empty; name a file or a folder")
    return Path(text)


@dataclass(frozen=True)
class FieldOption:
    """A field of a configuration as an option.

    Attributes:
        name: the field's.
        field: the field as pydantic knows it.
        group: the heading that the option stands under.
        table: the table of a configuration's file that the field is in; empty for the file's own fields.
    """

    name: str
    field: FieldInfo
    group: str
    table: str = ""

    @property
    def extra(self) -> dict[str, Any]:
        """The field's words on its option."""
        extra = self.field.json_schema_extra
        return dict(extra) if isinstance(extra, dict) else {}

    @property
    def flag(self) -> str:
        """The flag, such as ``--batch-size``."""
        return str(self.extra.get("flag", f"--{self.name.replace('_', '-')}"))

    @property
    def help(self) -> str:
        """The line that says what the option is for."""
        return str(self.extra.get("help", self.field.description or ""))

    @property
    def is_switch(self) -> bool:
        """Return whether the flag takes no value; it turns the default round."""
        return isinstance(self.field.default, bool)

    def parameter(self) -> inspect.Parameter:
        """Return the parameter that typer reads as this option."""
        kinds = set(_kinds(self.field.annotation))
        takes_list = tuple in kinds and str not in kinds
        if self.is_switch:
            annotation: Any = bool
        elif kinds == {str, tuple} or self.extra.get("repeated"):
            annotation = list[str] | None  # given once or several times
        else:
            # the configuration makes the path: an empty one must not become the folder that one is in
            annotation = (str if tuple in kinds or Path in kinds else kinds.pop()) | None
        default = self._shown_default()
        option = typer.Option(
            self.flag,
            help=self.help,
            rich_help_panel=self.group,
            metavar=self.extra.get("metavar", LIST if takes_list else "PATH" if Path in kinds else None),
            show_default=self.extra.get("unset", default is not None and not self.is_switch),
        )
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[annotation, option],
        )

    def _shown_default(self) -> Any:
        """Return the default as the command line would say it, None where there is none to show."""
        if self.is_switch:
            return False
        if self.field.is_required() or "unset" in self.extra:
            return None
        default = self.field.get_default(call_default_factory=True)
        default = ",".join(map(str, default)) if isinstance(default, tuple) else default
        return None if default == "" else default


def options_of(part: type[Part], table: str = "") -> list[FieldOption]:
    """Return the fields of a configuration that are options, each in the group of the class that declares it."""
    options = []
    for name, field in part.model_fields.items():
        declaring: Any = next(
            base for base in reversed(part.__mro__) if name in getattr(base, "model_fields", ())
        )
        option = FieldOption(name, field, declaring.GROUP, table)
        if "no_option" not in option.extra:
            options.append(option)
    return options


def taking(fields: Callable[[], Sequence[FieldOption]]) -> type[TyperCommand]:
    """Return the class of a command that takes fields as options, in groups, beside options of its own.

    The command finds in ``context.obj`` the values of the fields that were given: by name, those of a table in a dict of its own.
    """

    class Taking(TyperCommand):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            lines_joined = re.sub(r"(?<!\n)\n(?!\n)", " ", named.pop("help") or "")
            super().__init__(*arguments, **named | {"help": lines_joined, "rich_markup_mode": "rich"})

        @cached_property
        def fields(self) -> Sequence[FieldOption]:
            made = fields()
            self.params = [*self.params, *_as_typer_does(made)]
            most = [parameter for name in OFTEN for parameter in self.params if parameter.name == name]
            for parameter in most[:MOST_OPTIONS]:
                if isinstance(parameter, typer.core.TyperOption):
                    parameter.rich_help_panel = MOST_USED
            self.params.sort(key=_place)
            for parameter in self.params:
                if getattr(parameter, "is_flag", False):
                    parameter.metavar = " "  # which takes no value; some versions of typer show <bool>
            return made

        def get_params(self, ctx: Any) -> Any:
            return super().get_params(ctx) if self.fields else []

        def invoke(self, ctx: Any) -> Any:
            values: dict[str, Any] = {}
            for option in self.fields:
                value = ctx.params.pop(option.name)
                if ctx.get_parameter_source(option.name).name == "COMMANDLINE":
                    table = values.setdefault(option.table, {}) if option.table else values
                    table[option.name] = not option.field.default if option.is_switch else value
            ctx.obj = values
            return super().invoke(ctx)

    return Taking


def _as_typer_does(fields: Iterable[FieldOption]) -> list[Any]:
    """Return the options that typer makes of a function with these parameters."""

    def function() -> None: ...

    parameters = [option.parameter() for option in fields]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return typer.main.get_command(app).params


def _place(parameter: Any) -> tuple[int, int]:
    """Return what sorts parameters: those without a group first, the most used by rank, and last in its group what every command has."""
    group = getattr(parameter, "rich_help_panel", None)
    within = OFTEN.index(parameter.name) if group == MOST_USED else int(parameter.name == "as_json")
    return GROUPS.index(group) if group in GROUPS else -1, within


def _kinds(annotation: Any) -> Iterable[type]:
    """Yield the types that values of a field may have, such as bool, int, str, Path, tuple or dict."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _kinds(member)
    elif origin is Literal:
        yield str
    elif annotation is not NoneType:
        yield origin or annotation
