"""Change the code in one small place at a time, and see which changes the tests of its folder notice.

    make mutants                                       # the whole sample, resumable: hours of one processor
    python tools/mutants.py --folders solvers --each 5 # five places in one folder
    python tools/mutants.py --report                   # what is there so far, survivors with their lines

The changes are cosmic-ray's (pip install cosmic-ray). Places are drawn by a seed: a place of each folder is as likely as any other, and
one of the changes that fit there is drawn in turn. Left out are places that no run reaches by their nature: annotations
and docstrings. A change is caught where a quick test in the folder's tests fails, or does not end in three times the time that all take.

Tests run in a copy of the repository. Each change gets a process of its own, forked from one that has PyTorch loaded already.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("diagnosis", "solvers", "kernels", "engine", "runs", "tasks", "reports")
TESTS = {"engine": ("kernels",), "runs": ("experiment",)}  # tests that stand in a folder of another name
EACH = 25
SEED = 13
SPARE = 60  # seconds, beside three times what the tests take unchanged


@dataclass(frozen=True)
class Mutant:
    """A change of one place: cosmic-ray's operator, and which of the places in the module that it fits."""

    module: str
    operator: str
    occurrence: int
    line: int


def main() -> None:
    """Run what the command line asks for, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folders", nargs="+", default=FOLDERS, choices=FOLDERS)
    parser.add_argument("--each", type=int, default=EACH, help="places in each folder")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/mutants.jsonl", help="a row for each change"
    )
    parser.add_argument("--report", action="store_true", help="print what is there, and run nothing")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if not options.report:
        for folder in options.folders:
            run_folder(folder, options.each, options.seed, options.out)
    print(report(rows_of(options.out)))


def run_folder(folder: str, each: int, seed: int, out: Path) -> None:
    """Try the changes of one folder that have no row yet."""
    sample = drawn(folder, each, seed)
    done = {tuple(row[name] for name in ("module", "operator", "occurrence")) for row in rows_of(out)}
    waiting = [mutant for mutant in sample if (mutant.module, mutant.operator, mutant.occurrence) not in done]
    if not waiting:
        return
    copy = ROOT / f"build/mutants-{folder}"
    shutil.rmtree(copy, ignore_errors=True)
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    warm()
    seconds, failed = tested(copy, folder, "", 3600)
    if failed:
        sys.exit(f"{folder}: its tests fail on the code as it is; mend that first")
    print(f"{folder}: {len(waiting)} changes; its tests take {seconds:.0f} s", file=sys.stderr)
    for mutant in waiting:
        path = copy / mutant.module
        code = path.read_text()
        changed = mutated(code, mutant)
        path.write_text(changed)
        taken, caught = tested(copy, folder, mutant.module, 3 * seconds + SPARE)
        path.write_text(code)
        now = changed.splitlines()[mutant.line - 1].strip()
        row = {
            **asdict(mutant),
            "folder": folder,
            "caught": caught,
            "seconds": round(taken, 1),
            "commit": commit(),
            "now": now,
        }
        with out.open("a") as file:
            file.write(json.dumps(row | {"was": code.splitlines()[mutant.line - 1].strip()}) + "\n")
        print(
            f"{'caught' if caught else 'SURVIVED'}  {mutant.module}:{mutant.line}  {now}  ({taken:.0f} s)",
            file=sys.stderr,
        )


def drawn(folder: str, each: int, seed: int) -> list[Mutant]:
    """Return the changes of a folder that a seed draws."""
    generator = random.Random(f"{seed} {folder}")
    places: dict[tuple[str, int, int], list[Mutant]] = {}
    for path in sorted((ROOT / "src/lmntk" / folder).rglob("*.py")):
        for place, mutant in mutants_of(path):
            places.setdefault((mutant.module, *place), []).append(mutant)
    order = sorted(places)
    generator.shuffle(order)
    sample: list[Mutant] = []
    for place in order:
        candidates = places[place]
        generator.shuffle(candidates)
        mutant = next((mutant for mutant in candidates if matters(mutant)), None)
        if mutant is not None:
            sample.append(mutant)
        if len(sample) == each:
            break
    return sample


def mutants_of(path: Path) -> Iterator[tuple[tuple[int, int], Mutant]]:
    """Yield each change that fits into a module, with the line and column of its place."""
    import cosmic_ray.plugins
    from cosmic_ray.ast import ast_nodes, get_ast_from_path

    nodes = list(ast_nodes(get_ast_from_path(path)))
    for name in cosmic_ray.plugins.operator_names():
        operator_class = cosmic_ray.plugins.get_operator(name)
        if operator_class.arguments():  # of names in the code, which must be given
            continue
        operator = operator_class()
        starts = (start for node in nodes for start, _ in operator.mutation_positions(node))
        for occurrence, start in enumerate(starts):
            yield start, Mutant(str(path.relative_to(ROOT)), name, occurrence, start[0])


def matters(mutant: Mutant) -> bool:
    """Return whether a change is in the program: it parses, and is not in an annotation or a docstring alone."""
    code = (ROOT / mutant.module).read_text()
    try:
        changed = program(mutated(code, mutant))
    except SyntaxError:
        return False
    return changed != program(code)


def program(code: str) -> str:
    """Return a module's tree without annotations and docstrings."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = None if isinstance(node, ast.arg) else ast.Constant(None)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value = ast.Constant(None)
    return ast.dump(tree)


def mutated(code: str, mutant: Mutant) -> str:
    """Return a module's code with the change."""
    import cosmic_ray.plugins
    from cosmic_ray.mutating import mutate_code

    changed = mutate_code(code, cosmic_ray.plugins.get_operator(mutant.operator)(), mutant.occurrence)
    if changed is None:
        sys.exit(f"{mutant}: there is no such place")
    return str(changed)


def warm() -> None:
    """Load what every test needs, once."""
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)


def tested(copy: Path, folder: str, module: str, limit: float) -> tuple[float, bool]:
    """Return the seconds that the tests of a folder took, and whether one failed; those that name the module come first."""
    files = [
        path
        for name in TESTS.get(folder, (folder,))
        for path in sorted((copy / "tests" / name).glob("test_*.py"))
    ]
    dotted = module.removeprefix("src/").removesuffix(".py").replace("/", ".")
    files.sort(key=lambda path: dotted not in path.read_text())
    begun = time.monotonic()
    child = os.fork()
    if not child:
        os.setsid()
        _run_tests(copy, files)
    try:
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() - begun > limit:
                return time.monotonic() - begun, True
            time.sleep(0.05)
        return time.monotonic() - begun, os.waitstatus_to_exitcode(ended[1]) != 0
    finally:
        _end(child)


def _run_tests(copy: Path, files: Sequence[Path]) -> None:
    """Run test files in this process, and leave it."""
    code = 3
    try:
        os.chdir(copy)
        with open(os.devnull, "r+b") as nowhere:
            for stream in range(3):
                os.dup2(nowhere.fileno(), stream)
        os.environ |= {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        sys.path[:0] = [str(copy / "src"), str(copy / "tests")]
        import pytest

        arguments = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist"]
        code = pytest.main([*arguments, *map(str, files)])
    finally:
        os._exit(int(code))


def _end(child: int) -> None:
    """Kill what is left of a child and its own children."""
    try:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def rows_of(out: Path) -> list[dict[str, object]]:
    """Return the rows that are there."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def commit() -> str:
    """Return the commit that is tried."""
    return subprocess.run(
        ["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def report(rows: Sequence[dict[str, object]]) -> str:
    """Return a table of the folders, and the changes that nobody noticed."""
    lines = ["folder      tried  caught"]
    for folder in sorted({str(row["folder"]) for row in rows}):
        of_folder = [bool(row["caught"]) for row in rows if row["folder"] == folder]
        lines.append(f"{folder:<12}{len(of_folder):>5}{sum(of_folder):>8}")
    lines.append(f"{'together':<12}{len(rows):>5}{sum(bool(row['caught']) for row in rows):>8}")
    survivors = [row for row in rows if not row["caught"]]
    lines += [
        f"survived: {row['module']}:{row['line']}\n    - {row['was']}\n    + {row['now']}"
        for row in survivors
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
