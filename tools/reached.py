"""Run tests in a forked process, and tell which of them reach a line: those alone can notice a change of it.

The code is run once unchanged, under coverage.py, which writes down each line that a test reaches. What a fixture reaches counts for all
tests of its file.
"""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

FACTOR, SPARE = 5, 15  # a test that takes so many times its processor seconds, and so many more, hangs
PATIENCE = 900  # seconds by the clock, for a test that waits forever


@dataclass(frozen=True)
class Unchanged:
    """The tests of the code as it is.

    Attributes:
        seconds: of the processor that each takes.
        lines: by module and line, the numbers of the tests that reach it.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[str, list[int]]]

    @classmethod
    def of_files(cls, files: Iterable[Mapping[str, Any]]) -> Unchanged:
        """Return the tests of several files, each as plain data."""
        every = cls({}, {})
        for file in files:
            before = len(every.seconds)
            every.seconds.update(file["seconds"])
            for module, lines in file["lines"].items():
                for line, numbers in lines.items():
                    every.lines.setdefault(module, {}).setdefault(line, []).extend(
                        before + at for at in numbers
                    )
        return every

    def of_file(self, file: str) -> Unchanged:
        """Return the tests of one file."""
        numbers = [number for number, name in enumerate(self.seconds) if _file(name) == file]
        new = {number: at for at, number in enumerate(numbers)}
        names = list(self.seconds)
        lines = {
            module: {line: [new[n] for n in reaching if n in new] for line, reaching in of_module.items()}
            for module, of_module in self.lines.items()
        }
        return Unchanged({names[number]: self.seconds[names[number]] for number in numbers}, lines)

    def order(self, copy: Path, module: str, line: int) -> list[str]:
        """Return the tests that can notice a change, file by file, the quickest first.

        What runs as a module is imported is noticed where its name is used, be it in a test's file. What no test reaches in its own
        process may be noticed by any.
        """
        names = list(self.seconds)
        first, last = statement((copy / module).read_text(), line)
        places, known = [(module, at) for at in range(first, last + 1)], set[str]()
        if not first:
            places, known = users(copy, list(self.lines), module, line)
        reaching = {number for file, at in places for number in self.lines.get(file, {}).get(str(at), ())}
        naming = {
            file
            for file in {_file(name) for name in names}
            if known & set(re.findall(r"\w+", (copy / file).read_text()))
        }
        reaching |= {number for number, name in enumerate(names) if _file(name) in naming}
        chosen = [
            (_file(names[number]), self.seconds[names[number]], names[number])
            for number in reaching or range(len(names))
        ]
        cost = {of: statistics.fmean(s for file, s, _ in chosen if file == of) for of, *_ in chosen}
        return [name for *_, name in sorted(chosen, key=lambda row: (cost[row[0]], row))]


def users(
    copy: Path, modules: Sequence[str], module: str, line: int
) -> tuple[list[tuple[str, int]], set[str]]:
    """Return the lines that name what the statement at a module's line makes, and so on; of a class its own lines too; and the names."""
    codes = {name: (copy / name).read_text() for name in {*modules, module} if name.endswith(".py")}
    outer = {name: ast.parse(code).body for name, code in codes.items()}
    changed = next(node for node in outer[module] if line <= (node.end_lineno or 0))
    places = [(module, at) for at in range(changed.lineno, (changed.end_lineno or 0) + 1)]
    waiting, known = _names(changed), set[str]()
    while waiting:
        known.add(name := waiting.pop())
        word = re.compile(rf"\b{name}\b")
        for file, code in codes.items():
            found = [at for at, text in enumerate(code.splitlines(), 1) if word.search(text)]
            places += [(file, at) for at in found]
            makers = [
                node
                for node in outer[file]
                if any(node.lineno <= at <= (node.end_lineno or 0) for at in found)
            ]
            makers = [node for node in makers if isinstance(node, ast.Assign | ast.AnnAssign)]
            waiting |= {made for node in makers for made in _names(node)} - known
    return places, known


def _names(node: ast.stmt) -> set[str]:
    """Return the names that a statement makes."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    return {
        part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }


def statement(code: str, line: int) -> tuple[int, int]:
    """Return the first and last line of a statement in a function's body; 0 and 0 where it runs as the module is imported."""
    best = (0, 0)
    for function in ast.walk(ast.parse(code)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in (child for part in function.body for child in ast.walk(part)):
            if not isinstance(node, ast.stmt) or not node.lineno <= line <= (node.end_lineno or 0):
                continue
            body = getattr(node, "body", None)
            last = min(
                (node.end_lineno or 0),
                body[0].lineno - 1 if body and body[0].lineno > node.lineno else 1 << 30,
            )
            if line <= last and (best == (0, 0) or node.lineno >= best[0]):
                best = (node.lineno, last)
    return best


def measured(copy: Path, tests: Sequence[str], modules: Sequence[str]) -> Unchanged:
    """Run quick tests once, as the code is, and return what they reach of modules; ``tests`` are as pytest takes them.

    Raises:
        SystemExit: a test fails.
    """
    answer = copy / "reached.json"

    def child() -> int:
        watch = Watch(copy, modules)
        code = pytest.main([*ARGUMENTS, *tests], plugins=[watch])
        answer.write_text(json.dumps(asdict(watch.unchanged())))
        return int(code)

    if code := forked(copy, child, 7200):
        sys.exit(f"{' '.join(tests)}: the tests fail on the code as it is ({code}); mend that first")
    return Unchanged(**json.loads(answer.read_text()))


def failing(copy: Path, unchanged: Unchanged, names: Sequence[str]) -> bool:
    """Run tests one after another until one fails, and return whether one did."""
    files = list(dict.fromkeys(_file(name) for name in names))
    return forked(
        copy,
        lambda: int(pytest.main([*ARGUMENTS, "-x", *files], plugins=[Chosen(names, unchanged)])),
        PATIENCE,
    ) not in (0, 5)


ARGUMENTS = ("-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly")


class Watch:
    """Writes down what each test reaches, and its seconds."""

    def __init__(self, copy: Path, modules: Sequence[str]) -> None:
        import coverage

        self.copy, self.begun = copy, 0.0
        self.seconds: dict[str, float] = {}
        self.coverage: Any = coverage.Coverage(
            None, config_file=False, messages=False, include=[f"{copy}/{part}/*" for part in modules]
        )
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Begin with a test; its fixtures may be those of all tests in the file."""
        self.coverage.switch_context(f"{_file(nodeid)}::")
        self.begun = time.process_time()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Begin with its body."""
        self.coverage.switch_context(item.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """End with it."""
        self.seconds[nodeid] = round(time.process_time() - self.begun, 3)
        self.coverage.switch_context("")

    def unchanged(self) -> Unchanged:
        """Return what was written down."""
        self.coverage.stop()
        data, number = self.coverage.get_data(), {name: [at] for at, name in enumerate(self.seconds)}
        for at, name in enumerate(self.seconds):
            number.setdefault(f"{_file(name)}::", []).append(at)
        lines = {
            str(Path(file).relative_to(self.copy)): {
                str(line): sorted({at for name in names for at in number.get(name, ())})
                for line, names in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        return Unchanged(self.seconds, lines)


class Chosen:
    """Leaves some tests in an order, and ends the process where one of them hangs."""

    def __init__(self, names: Sequence[str], unchanged: Unchanged) -> None:
        self.order = {name: at for at, name in enumerate(names)}
        self.seconds = unchanged.seconds

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave them."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order), key=lambda item: self.order[item.nodeid]
        )

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Set the signal that ends this process."""
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, FACTOR * self.seconds[nodeid] + SPARE)


def forked(copy: Path, work: Callable[[], int], limit: float) -> int:
    """Return the exit code of work done in a silent process of its own; that of a kill where it took longer."""
    begun = time.monotonic()
    child = os.fork()
    if not child:
        os.setsid()
        _alone(copy, work)
    try:
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() - begun > limit:
                return -signal.SIGKILL
            time.sleep(0.02)
        return os.waitstatus_to_exitcode(ended[1])
    finally:
        _end(child)


def processor_seconds() -> float:
    """Return what the processes that ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _alone(copy: Path, work: Callable[[], int]) -> None:
    """Do work in this process, and leave it."""
    code = 3
    try:
        os.chdir(copy)
        with open(copy / "output.txt", "wb") as output, open(os.devnull, "rb") as nothing:
            for stream, file in enumerate((nothing, output, output)):
                os.dup2(file.fileno(), stream)
        os.environ |= {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        sys.path[:0] = [str(copy / "src"), str(copy / "tests")]
        code = work()
    finally:
        os._exit(code)


def _end(child: int) -> None:
    """Kill what is left of a child and its own children."""
    try:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _file(name: str) -> str:
    return name.split("::", 1)[0]
