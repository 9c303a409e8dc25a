"""``lmntk run``, from texts to accuracies, and ``lmntk plan``, what it would take."""

from __future__ import annotations

import json

import typer

from lmntk.cli.configured import ConfigurationArgument, experiment_of
from lmntk.cli.options import JsonOption
from lmntk.cli.printing import print_summary, print_verdicts, print_written
from lmntk.cli.running import plan_experiment, run_experiment


def run(
    context: typer.Context, configuration: ConfigurationArgument = None, as_json: JsonOption = False
) -> None:
    """Compute kernels of texts and solve them.

    It solves every task, k, seed, mode and formula, beside zero-shot and a linear probe. Writes report.html,
    results.csv, summary.md, kernels, logits and predictions to --out. Started again, it resumes.

    Example: lmntk run --model roberta-base --data data --tasks sst-2 --k 16 --modes prompt,head --out
    runs/sst-2
    """
    experiment = experiment_of(context.obj, configuration)
    rows = run_experiment(experiment)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_summary(rows)
    print()
    if experiment.diagnose:
        from lmntk.experiment.report import verdicts_of

        print_verdicts(verdicts_of(experiment.out))
    print_written(experiment.out)


def plan(
    context: typer.Context, configuration: ConfigurationArgument = None, as_json: JsonOption = False
) -> None:
    """Say what a run would take, in memory, disk and time.

    Says operations, memory, disk, and time on this machine. Takes the options of run. A few batches are
    computed to measure this machine's speed; nothing else is written to --out.

    Example: lmntk plan --model roberta-base --data data --tasks sst-2 --k 16 --memory 4GiB
    """
    experiment = experiment_of(context.obj, configuration)
    estimates = plan_experiment(experiment)
    if as_json:
        print(json.dumps({name: estimate.as_dict() for name, estimate in estimates}, indent=1))
    elif not estimates:
        print(f"nothing is left to compute in {experiment.out}")
    else:
        for name, estimate in estimates:
            print(f"{name}: {estimate.describe()}")
        if len(estimates) > 1:
            total = estimates[0][1]
            for _, estimate in estimates[1:]:
                total = total + estimate
            print(f"all: {total.describe()}")
