"""Change the code in one small place at a time, and see which changes the tests of its folder notice.

    make mutants                                       # the whole sample, resumable: hours of one processor
    python tools/mutants.py --folders solvers --each 5 # five places in one folder
    python tools/mutants.py --report                   # what is there so far, survivors with their lines

The changes are cosmic-ray's (pip install cosmic-ray). Places are drawn by a seed: a place of each folder is as likely as any other, and
one of the changes that fit there is drawn in turn. Left out are places that no run reaches by their nature: annotations
and docstrings. A change is caught where a quick test in the folder's tests fails, or hangs. Tests that cannot reach it are left out
(tools/reached.py).

Tests run in a copy of the repository. Each change gets a process of its own, forked from one that has PyTorch loaded already.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import reached

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("diagnosis", "solvers", "kernels", "engine", "runs", "tasks", "reports")
# tests that stand in a folder of another name
TESTS = {
    "engine": ("kernels",),
    "runs": (
        "reports",
        *(
            f"experiment/test_{name}.py"
            for name in ("found_by_key", "side_by_side", "solve_command", "earlier_format")
        ),
    ),
}
# Left out: they start processes of their own, for seconds each, and what these reach is not seen.
ELSEWHERE = ("*ray*", "*cli*", "*faults*", "*cut_short*", "*frozen*", "*browser*")
EACH = 25
SEED = 13


@dataclass(frozen=True)
class Mutant:
    """A change of one place: cosmic-ray's operator, and which of the places in the module that it fits."""

    module: str
    operator: str
    occurrence: int
    line: int
    name: str = ""  # that it was given when it was drawn


def main() -> None:
    """Run what the command line asks for, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folders", nargs="+", default=FOLDERS, choices=FOLDERS)
    parser.add_argument("--each", type=int, default=EACH, help="places in each folder")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/results/mutants.jsonl", help="a row for each change"
    )
    parser.add_argument("--again", action="store_true", help="try those that survived once more")
    parser.add_argument("--report", action="store_true", help="print what is there, and run nothing")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if not options.report:
        for folder in options.folders:
            drawing = (
                again(folder, options.out)
                if options.again
                else new(folder, options.each, options.seed, options.out)
            )
            run_folder(folder, drawing, options.out)
    print(report(rows_of(options.out)))


def run_folder(folder: str, waiting: Sequence[Mutant], out: Path) -> None:
    """Try changes of one folder, and write a row for each."""
    if not waiting:
        return
    tests = TESTS.get(folder, (folder,))
    copy = ROOT / "build/mutants" / tests[0]
    shutil.rmtree(copy, ignore_errors=True)
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    warm()
    unchanged = unchanged_tests(copy, tests)
    seconds = sum(unchanged.seconds.values())
    print(f"{folder}: {len(waiting)} changes; its tests take {seconds:.0f} s of a processor", file=sys.stderr)
    for mutant in waiting:
        row = tried(copy, unchanged, mutant) | {"folder": folder, "commit": commit()}
        write(row, out)
        word = "caught" if row["caught"] else "SURVIVED"
        print(f"{word}  {mutant.module}:{mutant.line}  {row['now']}  ({row['seconds']} s)", file=sys.stderr)


def new(folder: str, each: int, seed: int, out: Path) -> list[Mutant]:
    """Return the changes that a seed draws and that have no row yet."""
    done = {identity(row) for row in rows_of(out)}
    return [mutant for mutant in drawn(folder, each, seed) if identity(asdict(mutant)) not in done]


def again(folder: str, out: Path) -> list[Mutant]:
    """Return the changes that survived; of one whose code is no more, a row says so.

    A change keeps its name, but its module may have got other lines since: it is found by its line's text, the nearest of several.
    """
    waiting = []
    for row in last_rows(out):
        if row["folder"] != folder or row["caught"] or row.get("gone"):
            continue
        path = ROOT / str(row["module"])
        code = path.read_text().splitlines()
        same = [mutant for _, mutant in mutants_of(path) if mutant.operator == row["operator"]]
        same = [mutant for mutant in same if code[mutant.line - 1].strip() == row["was"]]
        same = [mutant for mutant in same if line_of(mutated(path.read_text(), mutant), mutant) == row["now"]]
        if same:
            nearest = min(same, key=lambda mutant: abs(mutant.line - int(str(row["line"]))))
            waiting.append(replace(nearest, name=identity(row)))
        else:
            write(row | {"gone": True, "commit": commit()}, out)
    return waiting


def tried(copy: Path, unchanged: reached.Unchanged, mutant: Mutant) -> dict[str, object]:
    """Return the row of a change: whether a test caught it, how many can notice it, and its line before and after."""
    path = copy / mutant.module
    code = path.read_text()
    changed = mutated(code, mutant)
    names = unchanged.order(copy, mutant.module, mutant.line)
    begun = reached.processor_seconds()
    path.write_text(changed)
    caught = reached.failing(copy, unchanged, names)
    path.write_text(code)
    return {
        **asdict(mutant),
        "caught": caught,
        "tests": len(names),
        "seconds": round(reached.processor_seconds() - begun, 1),
        "was": line_of(code, mutant),
        "now": line_of(changed, mutant),
    }


def line_of(code: str, mutant: Mutant) -> str:
    """Return the line of a change in a module's code."""
    return code.splitlines()[mutant.line - 1].strip()


def write(row: Mapping[str, object], out: Path) -> None:
    """Add a row."""
    with out.open("a") as file:
        file.write(json.dumps(row) + "\n")


def unchanged_tests(copy: Path, tests: Sequence[str]) -> reached.Unchanged:
    """Return what tests reach as the code is; what is known of a file of them already is read from ``build/mutants``."""
    common = hashlib.sha256()
    for path in sorted([*(copy / "src").rglob("*.py"), *(copy / "tests").rglob("*.py")]):
        if not path.name.startswith("test_"):
            common.update(path.read_bytes())
    kept: dict[str, Path] = {}
    for name in tests:
        place = copy / "tests" / name
        for path in [place] if place.suffix else sorted(place.glob("test_*.py")):
            if path.exists() and not any(path.match(pattern) for pattern in ELSEWHERE):
                digest = hashlib.sha256(common.digest() + path.read_bytes()).hexdigest()[:8]
                kept[str(path.relative_to(copy))] = copy.parent / f"{path.stem}-{digest}.json"
    unknown = [file for file, path in kept.items() if not path.exists()]
    if unknown:
        found = reached.measured(copy, unknown, [f"src/lmntk/{name}" for name in FOLDERS])
        for file in unknown:
            kept[file].write_text(json.dumps(asdict(found.of_file(file))))
    return reached.Unchanged.of_files(json.loads(path.read_text()) for path in kept.values())


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
    """Load what tests need, once: each process is forked from this one."""
    for name in (
        "torch",
        "transformers",
        "peft",
        "sklearn.svm",
        "scipy.optimize",
        "pandas",
        "hypothesis",
        "matplotlib.pyplot",
        "jinja2",
    ):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def identity(row: Mapping[str, object]) -> str:
    """Return the name of the change that a row is of: that which it has, or had when it was drawn."""
    return str(row.get("name") or " ".join(str(row[name]) for name in ("module", "operator", "occurrence")))


def last_rows(out: Path) -> list[dict[str, object]]:
    """Return the last row of each change."""
    return list({identity(row): row for row in rows_of(out)}.values())


def rows_of(out: Path) -> list[dict[str, object]]:
    """Return the rows that are there."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def commit() -> str:
    """Return the commit that is tried."""
    return subprocess.run(
        ["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def report(rows: Sequence[Mapping[str, object]]) -> str:
    """Return a table of the folders, and the changes that no test noticed: at first, and after tests were added."""
    first = {identity(row): row for row in reversed(rows)}
    last = {identity(row): row for row in rows}
    lines = ["folder      tried  caught at first  caught  gone"]
    for folder in (*dict.fromkeys(str(row["folder"]) for row in rows), "together"):
        names = [name for name, row in last.items() if folder in (row["folder"], "together")]
        caught = [sum(bool(table[name]["caught"]) for name in names) for table in (first, last)]
        gone = sum(bool(last[name].get("gone")) for name in names)
        lines.append(f"{folder:<12}{len(names):>5}{caught[0]:>17}{caught[1]:>8}{gone:>6}")
    for name, row in first.items():
        if not row["caught"]:
            word = (
                "caught since" if last[name]["caught"] else "gone" if last[name].get("gone") else "survived"
            )
            lines.append(f"{word}: {row['module']}:{row['line']}\n    - {row['was']}\n    + {row['now']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
