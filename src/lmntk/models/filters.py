"""Which parameters count: the whole network, or a part of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

from torch import nn

from lmntk.errors import UserError
from lmntk.models.logit_model import HeadModel, LogitModel


@dataclass(frozen=True)
class ParameterFilter:
    """A choice of parameters.

    ``embeddings=False`` leaves out the lookup tables (a decoder that is tied to one goes with it: untie it to keep it);
    ``head=False`` leaves out what is not the base model's; ``biases_only`` keeps what is called bias (BitFit);
    ``include`` and ``exclude`` are glob patterns of full names, such as ``*.layer.11.*``.
    """

    embeddings: bool = True
    head: bool = True
    biases_only: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def select(self, model: LogitModel) -> dict[str, nn.Parameter]:
        """Returns the chosen parameters by name, a tied one once.

        Raises:
            UserError: a pattern that matches nothing, or nothing left.
        """
        everything = dict(model.named_parameters())
        for pattern in (*self.include, *self.exclude):
            if not any(fnmatchcase(name, pattern) for name in everything):
                raise UserError(f"parameters: no name matches {pattern!r}; names look like {next(iter(everything))!r}")
        tables = {p for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters(recurse=False)}
        base = model.network if isinstance(model, HeadModel) else getattr(model.network, "base_model", model.network)
        encoder = set(base.parameters())
        chosen = {
            name: parameter
            for name, parameter in everything.items()
            if (self.embeddings or parameter not in tables)
            and (self.head or parameter in encoder)
            and (not self.biases_only or name.rsplit(".", 1)[-1] == "bias")
            and (not self.include or any(fnmatchcase(name, pattern) for pattern in self.include))
            and not any(fnmatchcase(name, pattern) for pattern in self.exclude)
        }
        if not chosen:
            raise UserError(f"parameters: nothing is left after {self.describe()}; loosen the filter")
        return chosen

    def describe(self) -> str:
        """Returns the choice in words."""
        parts = [
            "" if self.embeddings else "without embeddings",
            "" if self.head else "without head",
            "biases only" if self.biases_only else "",
            f"only {', '.join(self.include)}" if self.include else "",
            f"not {', '.join(self.exclude)}" if self.exclude else "",
        ]
        return "; ".join(part for part in parts if part) or "all parameters"

    def as_dict(self) -> dict[str, object]:
        """Returns the choice as plain data, for provenance."""
        return asdict(self)
