"""Measure how the code is laid out, beside an earlier revision of it, and fail where a limit is broken.

    python tools/structure.py                      # the figures of today
    python tools/structure.py --against 60f2df1    # before and after, side by side
    python tools/structure.py --check              # exit code 1 where a limit is broken

Circles are counted twice: among modules, and among the folders and modules that lie side by side in one folder, where a
folder stands for all that is in it. Imports for type checkers alone count too. Import-linter's contract forbids the same
circles; here they are counted, so that revisions can be compared.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grimp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {
    "loose modules at the root": 3,  # but for __init__ and __main__
    "circles among modules": 0,
    "circles among folders": 0,
    "lines of the longest module": 400,
    "functions with more than 8 parameters": 0,  # but for those that options and settings make: commands, estimators
}
MOST_PARAMETERS = 8
COMMAND_LINE = {"cli", "commands", "cli.py"}  # the last two are those of earlier revisions


@dataclass(frozen=True)
class Structure:
    """What was counted (by its name), and the cases behind each count, one a line."""

    counts: dict[str, int]
    cases: dict[str, list[str]]

    def broken(self) -> list[str]:
        """Return the names of the limits that are broken."""
        return [name for name, limit in LIMITS.items() if self.counts[name] > limit]


def measure(checkout: Path, package: str = "lmntk") -> Structure:
    """Return the structure of the package in ``src`` of a checkout, with the lines of its ``tests``."""
    folder = checkout / "src" / package
    texts = {
        path.relative_to(folder): path.read_text(encoding="utf8") for path in sorted(folder.rglob("*.py"))
    }
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lengths = {path: text.count("\n") for path, text in texts.items()}
    most = max(lengths.values())
    among_modules, among_folders = circles(checkout / "src", package)
    cases = {
        "loose modules at the root": [
            path.name for path in texts if len(path.parts) == 1 and path.stem not in ("__init__", "__main__")
        ],
        "circles among modules": among_modules,
        "circles among folders": among_folders,
        "lines of the longest module": [
            f"{path}: {length}"
            for path, length in lengths.items()
            if length == most or length > LIMITS["lines of the longest module"]
        ],
        "functions with more than 8 parameters": [
            f"{path}: {function}"
            for path, tree in trees.items()
            if path.parts[0] not in COMMAND_LINE
            for function in long_signatures(tree)
        ],
        "file names in several folders": shared_names(texts),
    }
    counts = {name: len(shown) for name, shown in cases.items()}
    counts["lines of the longest module"] = most
    counts["modules"] = len(texts)
    counts["lines of src"] = sum(lengths.values())
    # Statements say what lines do not where two revisions are formatted to other widths.
    counts["statements of src"] = sum(
        isinstance(n, ast.stmt) for tree in trees.values() for n in ast.walk(tree)
    )
    tests = (path.read_text(encoding="utf8") for path in (checkout / "tests").rglob("*.py"))
    counts["lines of tests"] = sum(text.count("\n") for text in tests)
    return Structure(counts, cases)


def long_signatures(tree: ast.AST, owner: str = "") -> Iterator[str]:
    """Yield the functions of a module that have too many parameters, without what a method is called on."""
    for node in ast.iter_child_nodes(tree):
        name = owner
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = f"{owner}.{node.name}".lstrip(".")
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = node.args
            count = len([*given.posonlyargs, *given.args, *given.kwonlyargs])
            count += (given.vararg is not None) + (given.kwarg is not None)
            static = any(
                isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in node.decorator_list
            )
            count -= isinstance(tree, ast.ClassDef) and not static
            if count > MOST_PARAMETERS and not (node.name == "__init__" and is_estimator(tree)):
                yield f"{name} ({count})"
        yield from long_signatures(node, name)


def is_estimator(node: ast.AST) -> bool:
    """Return whether a class is scikit-learn's kind, whose settings are the parameters of its constructor."""
    return isinstance(node, ast.ClassDef) and any(
        isinstance(base, ast.Name) and base.id == "BaseEstimator" for base in node.bases
    )


def shared_names(files: Iterable[Path]) -> list[str]:
    """Return the file names that stand in several folders, with the folders."""
    folders = defaultdict(list)
    for path in files:
        if path.stem != "__init__":
            folders[path.name].append(str(path.parent))
    return [f"{name}: {', '.join(holders)}" for name, holders in sorted(folders.items()) if len(holders) > 1]


def circles(source: Path, package: str) -> tuple[list[str], list[str]]:
    """Return the circles among modules, and those among what lies side by side in a folder."""
    sys.path.insert(0, str(source))
    try:
        graph = grimp.build_graph(package, cache_dir=None)
    finally:
        sys.path.remove(str(source))
    arrows = {
        (module, known)
        for module in graph.modules
        for known in graph.find_modules_directly_imported_by(module)
    }
    beside = defaultdict(set)
    for module, known in arrows:
        ours, theirs = module.split("."), known.split(".")
        shared = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        if shared is not None:  # else one of the two holds the other
            parent = ".".join(ours[:shared])
            beside[parent].add((".".join(ours[: shared + 1]), ".".join(theirs[: shared + 1])))
    folders = [members for parent in sorted(beside) for members in rings(beside[parent])]
    return [" <-> ".join(ring) for ring in rings(arrows)], [" <-> ".join(ring) for ring in folders]


def rings(arrows: set[tuple[str, str]]) -> list[list[str]]:
    """Return the groups of names of which each reaches every other along the arrows."""
    names = sorted({name for arrow in arrows for name in arrow})
    if not names:
        return []
    index = {name: i for i, name in enumerate(names)}
    ends = [[index[name] for name in side] for side in zip(*arrows, strict=True)]
    matrix = coo_array(([1] * len(arrows), (ends[0], ends[1])), shape=(len(names), len(names)))
    count, groups = connected_components(matrix, directed=True, connection="strong")
    members = [[name for name, group in zip(names, groups, strict=True) if group == i] for i in range(count)]
    return [ring for ring in members if len(ring) > 1]


def measure_revision(revision: str) -> Structure:
    """Return the structure of a revision, from its files in a folder that is removed again."""
    command = ["git", "-C", str(ROOT), "archive", revision, "src", "tests"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        return measure(Path(folder))


def table(structures: dict[str, Structure]) -> str:
    """Return the counts as a table, a column for each structure, the limits last."""
    rows = [["", *structures, "limit"]]
    for name in next(iter(structures.values())).counts:
        counts = [f"{structure.counts[name]:,}" for structure in structures.values()]
        rows.append([name, *counts, f"<= {LIMITS[name]}" if name in LIMITS else ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main() -> None:
    """Print the figures and the cases behind them; exit with 1 where a limit is broken and that was asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", metavar="REVISION", help="show the figures of this revision too")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a limit is broken")
    chosen = parser.parse_args()
    today = measure(ROOT)
    before = {chosen.against: measure_revision(chosen.against)} if chosen.against else {}
    print(table(before | {"today": today}))
    for name, shown in today.cases.items():
        print(f"\n{name}:", *shown or ["none"], sep="\n  ")
    if chosen.check and today.broken():
        sys.exit(f"\nbroken: {', '.join(today.broken())}")


if __name__ == "__main__":
    main()
