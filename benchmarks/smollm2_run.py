"""The long run of docs/results/smollm2.md: kernels and fine-tuning of SmolLM2-135M-Instruct, task by task.

    make smollm2
    python benchmarks/smollm2_run.py --data DATA --out build/smollm2/runs --tasks sst-2 subj

Each step is a command of lmntk, printed before it runs, and each finds what it has left: stopped and begun again, the run goes on.
Rates are chosen on the dev texts of split 13, from grids that were fixed before the run; where the best of a grid lies at its edge, the
grid is extended once, on that side. The chosen rate then trains on all five splits.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

MODEL = Path(__file__).resolve().parents[1] / "build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = ("sst-2", "subj", "trec", "mr", "cr", "ag_news", "mnli", "qnli", "mrpc")
SIGNS = ("sst-2", "subj", "mr")
LINEARIZED = ("sst-2", "subj", "trec")
CHOSEN_ON = "13"
GRIDS = {
    "sgd fine-tuning": ("sgd", (3e-4, 1e-3, 3e-3, 1e-2), ()),
    "adamw fine-tuning": ("adamw", (1e-5, 3e-5, 1e-4), ()),
    "adamw fine-tuning (lora r=8)": ("adamw", (1e-4, 3e-4, 1e-3), ("--lora-rank", "8")),
}
TRAINING = ("--batch-sizes", "8", "--steps", "64", "--eval-every", "16")


def main() -> None:
    """Run the steps of every task that is asked for, in order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks' texts")
    parser.add_argument("--out", type=Path, required=True, help="a folder for each task comes here")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--memory", default="6GiB", help="of each command that computes kernels")
    options = parser.parse_args()
    if not options.model.exists():
        sys.exit(f"{options.model} is not there: run `make smollm2` first")
    for task in options.tasks:
        run_task(task, options)


def run_task(task: str, options: argparse.Namespace) -> None:
    """Run the kernels of one task, the search for rates, the trainings and their diagnosis."""
    out = options.out / task
    common = ("--model", options.model, "--data", options.data, "--tasks", task, "--test-limit", "300")
    common = (*common, "--out", out)
    kernels = (*common, "--memory", options.memory)
    lmntk(out, "run", *kernels, "--formulas", "sgd")
    rates: dict[str, float] = {}
    whole = [method for method, (_, _, more) in GRIDS.items() if not more]
    for method in whole:
        rates[method] = trained(out, common, method)
    for method in whole:  # the verdicts are of training all parameters
        training = ("--optimizers", GRIDS[method][0], *TRAINING)
        lmntk(out, "diagnose", *kernels, *training, "--learning-rates", rates[method])
    for method in GRIDS.keys() - set(whole):
        rates[method] = trained(out, common, method)
    write_rates(out, rates)
    if task in LINEARIZED:
        training = ("--optimizers", "sgd", *TRAINING, "--learning-rates", rates["sgd fine-tuning"])
        lmntk(out, "finetune", *common, *training, "--linearized")
    if task in SIGNS:
        lmntk(out, "run", *kernels, "--formulas", "sgd,signgd,asigngd")


def trained(out: Path, common: tuple[object, ...], method: str) -> float:
    """Search a method's rate, train with it on all splits, and return it."""
    optimizer, grid, more = GRIDS[method]
    training = ("--optimizers", optimizer, *TRAINING, *more)
    rate = chosen(out, common, training, method, grid)
    lmntk(out, "finetune", *common, *training, "--learning-rates", rate)
    return rate


def chosen(
    out: Path, common: tuple[object, ...], training: tuple[str, ...], row: str, grid: tuple[float, ...]
) -> float:
    """Return the rate that is best on the dev texts of split 13, of a grid that is extended once where its edge is best."""
    best = best_of(out, common, training, row, grid)
    if best == grid[0]:
        grid = (extended(grid[1], grid[0]), *grid)
    elif best == grid[-1]:
        grid = (*grid, extended(grid[-2], grid[-1]))
    else:
        return best
    return best_of(out, common, training, row, grid)


def best_of(
    out: Path, common: tuple[object, ...], training: tuple[str, ...], row: str, grid: tuple[float, ...]
) -> float:
    """Return the rate that lmntk chooses of a grid, from the row of that training in results.csv."""
    rates = ",".join(f"{rate:g}" for rate in grid)
    lmntk(out, "finetune", *common, "--seeds", CHOSEN_ON, *training, "--learning-rates", rates)
    with (out / "results.csv").open(encoding="utf8") as file:
        settings = [
            json.loads(line["setting"])
            for line in csv.DictReader(file)
            if line["seed"] == CHOSEN_ON and line["method"] == row
        ]
    if len(settings) != 1:
        raise SystemExit(f"{out}/results.csv has {len(settings)} rows of {row}, not one")
    return float(settings[0]["learning_rate"])


def extended(inner: float, edge: float) -> float:
    """Return the rate as far beyond ``edge`` as that is from ``inner``, to one digit."""
    return float(f"{edge * edge / inner:.0e}")


def write_rates(out: Path, rates: dict[str, float]) -> None:
    """Keep the chosen rates beside the results."""
    (out / "rates.json").write_text(json.dumps(rates) + "\n", encoding="utf8")


def lmntk(out: Path, *arguments: object) -> None:
    """Run a command of lmntk, and keep how long it took."""
    words = [f"{word:g}" if isinstance(word, float) else str(word) for word in arguments]
    print(f"$ lmntk {shlex.join(words)}", flush=True)
    start = time.time()
    code = subprocess.run([sys.executable, "-m", "lmntk", *words], check=False).returncode
    out.mkdir(parents=True, exist_ok=True)
    with (out / "commands.tsv").open("a", encoding="utf8") as file:
        file.write(f"{time.time() - start:.0f}\t{code}\tlmntk {shlex.join(words)}\n")
    if code:
        sys.exit(f"lmntk {words[0]} ended with exit code {code}")


if __name__ == "__main__":
    main()
