"""The command line of lmntk: a module of ``lmntk.cli.commands`` for each command.

Results go to stdout, progress to stderr. A mistake of the user's is one line and exit code 2. Heavy libraries are imported by
the command that needs them, and options are made for the command that is called, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from lmntk import __version__
from lmntk.cli.commands import (
    audit,
    check,
    demo,
    diagnose,
    explain,
    finetune,
    fit,
    kernel,
    next_texts,
    predict,
    prompts,
    report,
    reproduce,
    run,
    solve,
    split,
    subspace,
    tasks,
)
from lmntk.cli.configured import experiment_options, kernel_options
from lmntk.cli.options import EmptyPathError, taking
from lmntk.cli.printing import notices_on_stderr
from lmntk.errors import ModelError, UserError
from lmntk.system.files import FULL_DISK

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


app.command(cls=taking(experiment_options))(run.run)
app.command(cls=taking(experiment_options))(run.plan)
app.command(cls=taking(fit.fit_options))(fit.fit)
app.command(cls=taking(audit.audit_options))(audit.audit)
app.command(cls=taking(prompts.prompts_options))(prompts.prompts)
app.command(cls=taking(explain.OPTIONS))(explain.explain)
app.command("next", cls=taking(next_texts.OPTIONS))(next_texts.next_texts)
app.command(cls=taking(subspace.subspace_options))(subspace.subspace)
app.command(cls=taking(finetune.OPTIONS))(finetune.finetune)
app.command(cls=taking(diagnose.OPTIONS))(diagnose.diagnose)
app.command(cls=taking(reproduce.OPTIONS))(reproduce.reproduce)
app.command(cls=taking(kernel_options))(kernel.kernel)
app.command()(solve.solve)
app.command(cls=taking(predict.OPTIONS))(predict.predict)
app.command(cls=taking(check.OPTIONS))(check.check)
app.command()(tasks.tasks)
app.command()(split.split)
app.command()(report.report)
app.command()(demo.demo)


def _line_of(error: OSError) -> str | None:
    """Return a line on a file that cannot be read or written; None where the system says of none."""
    if error.errno in FULL_DISK:
        reason = "the disk is full" if error.errno != errno.EFBIG else "a file is too large for the disk"
        return f"{reason}; make room and run the same command again: what is finished is kept"
    if error.filename is None:
        return None
    path = error.filename if error.filename2 is None else error.filename2
    return f"cannot read or write {str(path)!r} ({error.strerror}); name another, or make room for it"


def main() -> None:
    """Run the command line: exit code 2 and one line for the user's mistakes, 130 after Ctrl-C."""
    try:
        with notices_on_stderr():
            code = app(standalone_mode=False)
    except (UserError, EmptyPathError) as error:
        print(f"lmntk: {error}", file=sys.stderr)
        sys.exit(2)
    except ModelError as error:
        print(f"lmntk: model: {error}; `lmntk check` says more", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        line = _line_of(error)
        if line is None:
            raise
        print(f"lmntk: {line}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):  # an Abort is a RuntimeError too
        print("lmntk: interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        print(
            "lmntk: there is not enough memory; ask for less, or take a smaller --batch-size", file=sys.stderr
        )
        sys.exit(2)
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
