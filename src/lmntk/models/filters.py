"""A choice of the parameters that count: the whole network, or a part of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

from torch import nn

from lmntk.errors import UserError
from lmntk.models.logit_model import HeadModel, LogitModel
from lmntk.models.parts import is_bias


def has_adapter(model: nn.Module) -> bool:
    """Return whether a module of peft's is among the modules; its methods share no base class."""
    return any(
        base.__module__.partition(".")[0] == "peft"
        for module in model.modules()
        for base in type(module).__mro__
    )


@dataclass(frozen=True)
class ParameterFilter:
    """A choice of parameters.

    ``embeddings=False`` leaves out the lookup tables (a decoder that is tied to one goes with it: untie it to
    keep it); ``head=False`` leaves out what is not the base model's; ``biases_only`` keeps what is called
    bias (BitFit); ``include`` and ``exclude`` are glob patterns of full names, such as ``*.layer.11.*``.
    """

    embeddings: bool = True
    head: bool = True
    biases_only: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def select(self, model: LogitModel) -> dict[str, nn.Parameter]:
        """Return the chosen parameters by name, a tied one once.

        What is frozen does not count: of a network with an adapter only what the adapter trains is there to
        choose from. A network that is frozen whole, and has no adapter, is taken as if nothing were.

        Raises:
            UserError: a pattern that matches nothing, nothing left, or an adapter that is frozen whole.
        """
        everything = dict(model.named_parameters())
        head = set(model.head.parameters()) if isinstance(model, HeadModel) else set()
        trained = {name: p for name, p in everything.items() if p.requires_grad or p in head}
        is_frozen = all(parameter in head for parameter in trained.values())
        if has_adapter(model):
            if any(getattr(module, "merged", False) is True for module in model.modules()):
                raise UserError(
                    "parameters: the adapter is merged, so its own weights do nothing; "
                    "call unmerge_adapter() first"
                )
            if is_frozen:
                raise UserError(
                    "parameters: the adapter is frozen, nothing is trained; load it with is_trainable=True"
                )
        if not is_frozen:
            everything = trained
        for pattern in (*self.include, *self.exclude):
            if not any(fnmatchcase(name, pattern) for name in everything):
                raise UserError(
                    f"parameters: no name matches {pattern!r}; names look like {next(iter(everything))!r}"
                )
        tables = {
            p
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            for p in module.parameters(recurse=False)
        }
        body = {parameter for module in model.body() for parameter in module.parameters()}
        chosen = {
            name: parameter
            for name, parameter in everything.items()
            if (self.embeddings or parameter not in tables)
            and (self.head or parameter in body)
            and (not self.biases_only or is_bias(name))
            and (not self.include or any(fnmatchcase(name, pattern) for pattern in self.include))
            and not any(fnmatchcase(name, pattern) for pattern in self.exclude)
        }
        if not chosen:
            raise UserError(f"parameters: nothing is left after {self.describe()}; loosen the filter")
        return chosen

    def describe(self) -> str:
        """Return the choice in words."""
        parts = [
            "" if self.embeddings else "without embeddings",
            "" if self.head else "without head",
            "biases only" if self.biases_only else "",
            f"only {', '.join(self.include)}" if self.include else "",
            f"not {', '.join(self.exclude)}" if self.exclude else "",
        ]
        return "; ".join(part for part in parts if part) or "all parameters"

    def as_dict(self) -> dict[str, object]:
        """Return the choice as plain data, for provenance."""
        return asdict(self)
