"""Freeze what a commit's code writes: small runs, whole and killed in the middle, as an archive that tests compare and resume.

    git worktree add ../frozen 60f2df1
    OMP_NUM_THREADS=1 PYTHONPATH=../frozen/src python tools/freeze.py tests/experiment/frozen/60f2df1.tar.xz

The runs are in ``tests/experiment/frozen_runs.py``. Beside the output folders the archive has ``facts.json``: the rows of each run, the
work that the frozen code itself has left where it resumes a killed one, and the machine that it was made on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "experiment")]

import frozen_runs  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from tiny import SPECIALS, WORDS, write_model, write_rows  # noqa: E402

import lmntk  # noqa: E402

EXAMPLES = Path(lmntk.__file__).parent / "bundled" / "examples"
LEFT_OUT = ("report.html", "machine.json", ".lmntk-lock")  # large, of one machine, or of one process
WIDTH = 8  # of the tiny model


def main() -> None:
    """Freeze into the archive that is named, or be one of the processes that it takes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("--killed", help=argparse.SUPPRESS)  # a child: the run to begin, and to be killed in
    parser.add_argument("--resumed", help=argparse.SUPPRESS)  # a child: the run to go on with
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.killed:
        begin_and_die(arguments.killed)
    elif arguments.resumed:
        settings, _, _ = frozen_runs.CUT[arguments.resumed]
        rows, counts = frozen_runs.counts_of(settings, arguments.resumed)
        print(json.dumps({"rows": rows, "counts": counts}))
    else:
        target = arguments.archive.resolve()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            freeze(Path(folder), target)


def freeze(folder: Path, archive: Path) -> None:
    """Writes the archive of everything, made in a folder that is empty and the current one."""
    write_inputs(folder)
    facts: dict[str, Any] = {"machine": frozen_runs.machine(), "rows": {}, "counts": {}}
    for name, settings in frozen_runs.WHOLE.items():
        facts["rows"][name] = json.loads(json.dumps(lmntk.run(frozen_runs.experiment_of(settings, name))))
        print(f"{name}: {len(facts['rows'][name])} rows")
    for name, (settings, _, _) in frozen_runs.CUT.items():
        facts["rows"][name], whole = frozen_runs.counts_of(settings, name)
        shutil.rmtree(name)
        child("--killed", name)
        shutil.copytree(name, f"{name}-as-killed")
        resumed = json.loads(child("--resumed", name).splitlines()[-1])
        shutil.rmtree(name)
        os.rename(f"{name}-as-killed", name)
        assert resumed["rows"] == facts["rows"][name]
        assert any(resumed["counts"].get(what, 0) < count for what, count in whole.items())
        facts["counts"][name] = resumed["counts"]
        print(f"{name}: of {whole} are left {resumed['counts']}")
    for written, command in frozen_runs.COMMANDS.items():
        subprocess.run(
            [sys.executable, "-m", "lmntk", *command, written], check=True, stdout=subprocess.DEVNULL
        )
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    make_relocatable(folder)
    check_names_no_place(folder)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in packed_files(folder):
            packed.add(path, path.relative_to(folder), filter=anonymous)
    print(f"{archive.name}: {archive.stat().st_size / 2**20:.2f} MiB")


def write_inputs(folder: Path) -> None:
    """Writes the model and the texts that the runs name, in paths that are relative to the folder."""
    (folder / "bundled").symlink_to(frozen_runs.BUNDLED)
    tokenizer = transformers.AutoTokenizer.from_pretrained(write_model(folder / "tiny"))
    assert len(tokenizer) >= len(SPECIALS) + len(WORDS)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=2 * WIDTH,
        max_position_embeddings=64,
    )  # fmt: skip
    network = transformers.BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder / "tiny")
    write_rows(folder / "films-train.jsonl", 40)
    write_rows(folder / "films-test.jsonl", 20, offset=1)
    write_rows(folder / "few-train.jsonl", 6)
    write_rows(folder / "few-test.jsonl", 4, offset=1)
    for task in ("reviews", "topics"):
        for side, count in (("train", 40), ("test", 12)):
            lines = (EXAMPLES / task / f"{side}.jsonl").read_text().splitlines()
            (folder / f"{task}-{side}.jsonl").write_text("\n".join(lines[:count]) + "\n")


def child(option: str, name: str) -> str:
    """Returns what a process of this file printed; it may be killed if it was to be."""
    command = [sys.executable, __file__, "-", option, name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if option == "--killed" else 0), (command, done.returncode)
    return done.stdout


def begin_and_die(name: str) -> None:
    """Runs until a certain write, and kills this process there, its temporary file still lying about."""
    settings, pattern, moment = frozen_runs.CUT[name]
    replace, seen = os.replace, 0

    def replacing(source: Any, target: Any, **named: Any) -> None:
        nonlocal seen
        if re.search(pattern, str(target)):
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
        replace(source, target, **named)

    os.replace = replacing
    lmntk.run(frozen_runs.experiment_of(settings, name))
    sys.exit(f"{name}: it ended after {seen} such writes")


def make_relocatable(folder: Path) -> None:
    """Takes this machine's folder out of the files that say where an output folder is."""
    for path in folder.rglob("owner.json"):
        path.write_text(path.read_text().replace(str(folder.resolve()), frozen_runs.OUT))


def check_names_no_place(folder: Path) -> None:
    """Refuses files that name a place of this machine: they would be wrong on every other."""
    places = [str(folder.resolve()), str(Path.home()), str(TESTS.parent), str(Path(lmntk.__file__).parent)]
    for path in packed_files(folder):
        named = [place for place in places if place.encode() in path.read_bytes()]
        assert not named, (path, named)


def packed_files(folder: Path) -> list[Path]:
    """Returns the files that go into the archive; the package's model, to which there is a link, is not copied."""
    paths = (path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != "bundled")
    return sorted(path for path in paths if path.is_file() and path.name not in LEFT_OUT)


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Returns an archive's entry without its user; the time stays, for files are told apart by it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
