"""The one exception that means: the user can mend this."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the user's input, in one line: the thing, the reason and the next step.

    The command line prints it without a traceback and exits with code 2.
    """
