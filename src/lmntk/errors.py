"""The exceptions that are told in one line: what the user can mend, and what a model cannot do."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """Return an error's text in one line of at most 300 characters; its kind if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class UserError(ValueError):
    """A mistake in the user's input, in one line: the thing, the reason and the next step.

    The command line prints it without a traceback and exits with code 2.
    """


class ModelError(RuntimeError):
    """A model that cannot be computed with as it is: logits or gradients that are no numbers, a rule that does not fit its module.

    The command line prints it without a traceback and exits with code 2; ``lmntk check`` says more.
    """
