"""Run tests in a forked process, and tell which of them reach a line: those alone can notice a change of it.

The code is run once unchanged, under coverage.py, which writes down each line that a test reaches. A test of the same file that does not
reach a line may still look at what another one left (a fixture, a cache), so it counts too, but later.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
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

    def order(self, module: str, code: str, line: int) -> list[str]:
        """Return the tests that can notice a change, the quickest that reach it first.

        What runs when a module is imported is noticed by any test. So may be what no test reaches in its own process.
        """
        names = list(self.seconds)
        lines = self.lines.get(module, {})
        of_module = {number for numbers in lines.values() for number in numbers}
        first, last = statement(code, line)
        reaching = {number for at in range(first, last + 1) for number in lines.get(str(at), ())}
        if not first or not reaching:
            reaching, files = of_module, {_file(name) for name in names}
        else:
            files = {_file(names[number]) for number in reaching}
        chosen = [
            (_file(name), number not in reaching, self.seconds[name], name)
            for number, name in enumerate(names)
        ]
        cost = {
            file: sum(s for of, later, s, _ in chosen if of == file and not later) or 1e9 for file in files
        }
        kept = sorted(row for row in chosen if row[0] in files)
        return [name for *_, name in sorted(kept, key=lambda row: (cost[row[0]], row))]


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
        """Begin with a test."""
        self.coverage.switch_context(nodeid)
        self.begun = time.process_time()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """End with it."""
        self.seconds[nodeid] = round(time.process_time() - self.begun, 3)
        self.coverage.switch_context("")

    def unchanged(self) -> Unchanged:
        """Return what was written down."""
        self.coverage.stop()
        data, number = self.coverage.get_data(), {name: at for at, name in enumerate(self.seconds)}
        lines = {
            str(Path(file).relative_to(self.copy)): {
                str(line): sorted(number[name] for name in names if name in number)
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
