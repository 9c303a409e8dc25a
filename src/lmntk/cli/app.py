"""The command line of lmntk: a module of ``lmntk.cli.commands`` for each command.

Results go to stdout, progress to stderr. A mistake of the user's is one line and exit code 2. Heavy libraries are imported by
the command that needs them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from lmntk import __version__
from lmntk.cli.commands.check import check
from lmntk.cli.commands.demo import demo
from lmntk.cli.commands.diagnose import diagnose
from lmntk.cli.commands.finetune import finetune
from lmntk.cli.commands.kernel import kernel
from lmntk.cli.commands.predict import predict
from lmntk.cli.commands.report import report
from lmntk.cli.commands.reproduce import reproduce
from lmntk.cli.commands.run import plan, run
from lmntk.cli.commands.solve import solve
from lmntk.cli.commands.split import split
from lmntk.errors import ModelError, UserError

INTERRUPTED = 130

app = typer.Typer(
    name="lmntk",
    help="Tangent kernels of pre-trained language models under fine-tuning: computed, solved, explained.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(f"lmntk {__version__}")
        raise typer.Exit


app.command()(run)
app.command()(plan)
app.command()(finetune)
app.command()(diagnose)
app.command()(reproduce)
app.command()(kernel)
app.command()(solve)
app.command()(predict)
app.command()(check)
app.command()(split)
app.command()(report)
app.command()(demo)


def main() -> None:
    """Runs the command line: exit code 2 and one line for the user's mistakes, 130 after Ctrl-C."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        print(f"lmntk: {error}", file=sys.stderr)
        sys.exit(2)
    except ModelError as error:
        print(f"lmntk: model: {error}; `lmntk check` says more", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            "lmntk: the disk is full; make room and run the same command again: what is finished is kept",
            file=sys.stderr,
        )
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("lmntk: interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(
            error, "show"
        ):  # a usage error of the command line's parser
            error.show()
            sys.exit(error.exit_code)
        raise
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
