"""lmntk beside kronfluence and bergson, as real packages in an environment of their own, on the same texts and weights.

    python benchmarks/peers.py --make build/peers/venv                        # the peers' environment, 2 GB
    OMP_NUM_THREADS=2 python benchmarks/peers.py --peers build/peers/venv     # 32 x 300 texts, both models; needs `make smollm2`
    python benchmarks/peers.py --peers build/peers/venv --train 4 --evaluation 8 --layers 2    # minutes: does it run?

*smollm2*: SmolLM2-135M-Instruct (build/smollm2), *roberta*: RoBERTa-base's shape with random weights. Texts are random common tokens, as
many as SST-2's prompted texts have. Ways, each a process of its own, in turn:

*lmntk sgd*, *lmntk all formulas*: the `stream_kernels` call for every parameter, start-up check included; its parts are clocked.
*lmntk linear layers*: the parameters that kronfluence tracks; the two must agree, or the exit status is 1.
*kronfluence*: `fit_all_factors` and `compute_pairwise_scores` with strategy identity, loading not counted; linear layers alone.
*bergson*: `build` and `score` without projection, whole processes, for that is how it is used; the gradient is of the text's loss,
   so its values are other ones; causal models alone; index files are counted.

Rows are kept in a CSV and not computed twice: a run that was stopped goes on. Wall time; peak memory is the system's count.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from measuring import describe_machine, machine, print_table

PINS = ("torch==2.13.0", "kronfluence==1.0.1", "bergson==2.5.1")
UNFIT = ("torchvision", "torchaudio")  # come with bergson, do not fit this torch, and nothing here needs them
ROOT = Path(__file__).resolve().parents[1]
GGUF = ROOT / "build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FIELDS = (
    "model",
    "layers",
    "train",
    "evaluation",
    "threads",
    "repeat",
    "way",
    "seconds",
    "check",
    "capture",
    "gram",
)
FIELDS += ("peak_mib", "files_mib", "tokens", "load", "commit")
FORMULAS = {
    "lmntk sgd": ["sgd"],
    "lmntk all formulas": ["sgd", "signgd", "asigngd"],
    "lmntk linear layers": ["sgd"],
}
LENGTHS = (8, 11, 14, 17, 20, 23, 26, 30, 35, 45, 60)  # tokens of SST-2's prompted test texts: its tenths
AGREEMENT = 1e-3


def prepare(folder: Path, name: str, train: int, evaluation: int, depth: int) -> None:
    """Make a folder with a model and texts for every way; ``depth`` 0 leaves the model its layers."""
    import torch
    import transformers as hf

    from lmntk.models.loading import load_pretrained

    tokenizer, pad_id, label_ids = None, 1, [6587, 372]
    if name == "smollm2":
        if not GGUF.exists():
            sys.exit(f"{GGUF} is not there: run `make smollm2` first, or give --models roberta")
        pretrained = load_pretrained(str(GGUF))
        network, tokenizer, pad_id = pretrained.network, pretrained.tokenizer, pretrained.pad_id
        if depth:
            network.model.layers = network.model.layers[:depth]
            network.config.num_hidden_layers = depth
    else:
        torch.manual_seed(0)
        layers = {"num_hidden_layers": depth} if depth else {}
        config = hf.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, **layers)
        network = hf.RobertaForMaskedLM(config)
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder / "model")
    words = range(1000, 20000)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "model")
        words = [
            word for word in words if (shown := tokenizer.decode([word]))[0] == " " and shown[1:].isalpha()
        ]
    chance = random.Random(0)
    texts: dict[str, Any] = {
        "kind": "causal" if tokenizer else "masked",
        "pad_id": pad_id,
        "label_ids": label_ids,
    }
    for side, count in (("train", train), ("eval", evaluation)):
        drawn = []
        while len(drawn) < count:
            place = chance.randrange(len(LENGTHS) - 1)
            ids = [chance.choice(words) for _ in range(chance.randint(*LENGTHS[place : place + 2]))]
            if tokenizer is None or tokenizer(tokenizer.decode(ids))["input_ids"] == ids:
                drawn.append({"ids": ids, "read": len(ids) - (1 if tokenizer else 2)})
        texts[side] = drawn
        if tokenizer is not None:
            lines = (json.dumps({"text": tokenizer.decode(text["ids"])}) for text in drawn)
            (folder / f"{side}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "texts.json").write_text(json.dumps(texts))


def lmntk(folder: Path, way: str, scores: str) -> None:
    """Print the seconds of one way of lmntk in this process, and write down the `sgd` kernel."""
    import torch
    import transformers as hf

    from lmntk.engine import batches, tile_maker
    from lmntk.engine.kernel_work import KernelWork
    from lmntk.engine.settings import Settings
    from lmntk.engine.stream import stream_kernels, whole
    from lmntk.models.logit_model import PromptModel
    from lmntk.prompts.encoding import EncodedText
    from lmntk.tangents.coverage import Coverage

    told = json.loads((folder / "texts.json").read_text())
    auto = hf.AutoModelForMaskedLM if told["kind"] == "masked" else hf.AutoModelForCausalLM
    network = auto.from_pretrained(folder / "model", dtype=torch.float32).eval()
    model = PromptModel(network, told["label_ids"], difference=True)
    trainable = dict(model.named_parameters())
    if way == "lmntk linear layers":
        head = network.get_output_embeddings()
        layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        linear = {parameter for layer in layers for parameter in layer.parameters()}
        trainable = {name: parameter for name, parameter in trainable.items() if parameter in linear}
    texts = {
        side: [EncodedText(tuple(text["ids"]), text["read"], None) for text in told[side]]
        for side in ("train", "eval")
    }
    work = KernelWork(model, texts, [("train", "eval")], FORMULAS[way], trainable, told["pad_id"])
    spent = dict.fromkeys(("check", "capture", "gram"), 0.0)

    def clocked(part: str, function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            start, inside = time.perf_counter(), spent["capture"]
            result = function(*arguments, **keywords)
            spent[part] += time.perf_counter() - start
            if part == "check":
                spent["capture"] = inside
            return result

        return call

    with ExitStack() as stack:
        parts = {
            "check": (batches, "check_texts"),
            "capture": (Coverage, "capture"),
            "gram": (tile_maker, "gram"),
        }
        for part, (owner, name) in parts.items():
            stack.enter_context(patch.object(owner, name, clocked(part, getattr(owner, name))))
        start = time.perf_counter()
        streamed = stream_kernels(work, Settings())
        taken = time.perf_counter() - start
    torch.save(whole(streamed.kernels["train", "eval"]["sgd"])[:, 0, :, 0].float(), scores)
    print(json.dumps({"seconds": taken, **spent}))


def commands_of(way: str, folder: Path, scratch: Path, given: argparse.Namespace) -> list[list[str]]:
    """Return the processes of one way."""
    if way.startswith("lmntk"):
        return [[sys.executable, __file__, "--worker", way, str(folder), str(scores_of(way, folder))]]
    bin_folder = given.peers / "bin"
    if way == "kronfluence":
        script = str(Path(__file__).with_name("peers_kronfluence.py"))
        batches = [str(given.query_batch), str(given.train_batch)]
        return [[str(bin_folder / "python"), script, str(folder), str(scores_of(way, folder)), *batches]]
    rest = ["--model", str(folder / "model"), "--prompt_column", "text", "--projection_dim", "0"]
    rest += ["--token_batch_size", "512", "--nproc_per_node", "1"]
    bergson, query = str(bin_folder / "bergson"), str(scratch / "query")
    in_full = ["--index_cfg.precision", "fp32"]
    train, evaluation = (["--dataset", str(folder / f"{side}.jsonl")] for side in ("train", "eval"))
    return [
        [bergson, "build", query, *train, *rest, "--precision", "fp32"],
        [bergson, "score", str(scratch / "scores"), "--query_path", query, *evaluation, *rest, *in_full],
    ]


def scores_of(way: str, folder: Path) -> Path:
    """Return the file of a way's kernel."""
    return folder / f"{way.replace(' ', '-')}.pt"


def timed(way: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one way, run in processes of its own."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(given.threads),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    environment["PYTHONPATH"] = str(ROOT / "src") if way.startswith("lmntk") else ""
    scratch = Path(tempfile.mkdtemp(dir=given.out))
    taken, peak, told = 0.0, 0, {}
    try:
        for command in commands_of(way, folder, scratch, given):
            with (folder / "log.txt").open("w+") as log:
                start = time.perf_counter()
                process = subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=scratch
                )
                _, status, usage = os.wait4(process.pid, 0)
                taken, peak = taken + time.perf_counter() - start, max(peak, usage.ru_maxrss)
                process.returncode = os.waitstatus_to_exitcode(status)
                log.seek(0)
                lines = log.read().splitlines()
            if process.returncode:
                sys.exit(f"{way} ended with exit code {process.returncode}: " + "\n".join(lines[-15:]))
            told = next((json.loads(line) for line in reversed(lines) if line.startswith('{"seconds"')), told)
        files = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {"seconds": taken, "peak_mib": peak // 1024, "files_mib": files // 2**20} | told


def difference(left: Path, right: Path) -> float:
    """Return the largest difference of two kernels, of the largest entry."""
    import torch

    one, other = (torch.load(path, weights_only=True).double() for path in (left, right))
    return float((one - other).abs().max() / one.abs().max())


def make(folder: Path) -> None:
    """Make the peers' environment."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin/python"), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", *PINS], check=True)
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", *UNFIT], check=True)


def show(rows: list[Mapping[str, Any]], model: str) -> None:
    """Print medians and ratios of one model."""
    mine = [row for row in rows if row["model"] == model]
    ways = list(dict.fromkeys(row["way"] for row in mine))
    medians = {
        way: {
            key: statistics.median(
                float(row[key]) for row in mine if row["way"] == way and row.get(key, "") != ""
            )
            for key in ("seconds", "check", "capture", "gram", "peak_mib", "files_mib")
            if any(row["way"] == way and row.get(key, "") != "" for row in mine)
        }
        for way in ways
    }
    first = medians.get("lmntk sgd", next(iter(medians.values())))["seconds"]
    print(f"\n{model}, {mine[0]['train']} x {mine[0]['evaluation']} texts, {mine[0]['tokens']} tokens in all")
    table = []
    for way, figures in medians.items():
        parts = [f"{figures[part]:.1f}" if part in figures else "" for part in ("check", "capture", "gram")]
        shown = [f"{figures['seconds']:.1f}", f"{figures['seconds'] / first:.1f}", *parts]
        table.append([way, *shown, f"{figures['peak_mib']:.0f}", f"{figures['files_mib']:.0f}"])
    print_table(
        ["", "seconds", "times lmntk sgd", "check", "capture", "gram", "peak MiB", "files MiB"], table
    )


def main() -> int:
    """Run what is missing, and print all; return 1 if the kernels of the same parameters differ."""
    if sys.argv[1:2] == ["--worker"]:
        lmntk(Path(sys.argv[3]), sys.argv[2], sys.argv[4])
        return 0
    if sys.argv[1:2] == ["--prepare"]:
        prepare(Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--make", type=Path, help="make the peers' environment in this folder, and end")
    parser.add_argument("--peers", type=Path, help="the peers' environment; without one lmntk runs alone")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/peers/work", help="rows.csv, models and texts come here"
    )
    parser.add_argument("--models", nargs="+", default=["smollm2", "roberta"], choices=["smollm2", "roberta"])
    parser.add_argument("--train", type=int, default=32)
    parser.add_argument("--evaluation", type=int, default=300)
    parser.add_argument("--layers", type=int, help="cut the models to so many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    )
    parser.add_argument(
        "--query-batch", type=int, default=32, help="kronfluence's: each text holds a whole gradient"
    )
    parser.add_argument("--train-batch", type=int, default=8, help="kronfluence's")
    given = parser.parse_args()
    if given.make:
        make(given.make)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    given.out = given.out.resolve()
    if given.peers:
        given.peers = given.peers.absolute()
    print(describe_machine(machine() | {"threads": given.threads}))
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    path, worst = given.out / "rows.csv", 0.0
    sizes = {"layers": given.layers or "all", "train": given.train, "evaluation": given.evaluation}
    shown: list[Mapping[str, Any]] = []
    for model in given.models:
        folder = given.out / f"{model}-{given.layers or 'all'}-{given.train}x{given.evaluation}"
        if not (
            folder / "texts.json"
        ).exists():  # in a process of its own: what this one held would count as the ways' peak
            told = [str(folder), model, str(given.train), str(given.evaluation), str(given.layers or 0)]
            if subprocess.run([sys.executable, __file__, "--prepare", *told], check=False).returncode:
                return 1
        texts = json.loads((folder / "texts.json").read_text())
        tokens = sum(len(text["ids"]) for side in ("train", "eval") for text in texts[side])
        ways = [
            *FORMULAS,
            *(["kronfluence", *(["bergson"] if model == "smollm2" else [])] if given.peers else []),
        ]
        for repeat in range(given.repeats):
            for way in ways:
                key = {"model": model, **sizes, "threads": given.threads, "repeat": repeat, "way": way}
                row = kept(path, key)
                if row is None:
                    start = {"load": f"{os.getloadavg()[0]:.1f}", "commit": commit, "tokens": tokens}
                    row = key | start | timed(way, folder, given)
                    keep(path, row)
                    print(f"{model}, {way}: {float(row['seconds']):.1f} s", flush=True)
                shown.append(row)
        if given.peers:
            apart = difference(scores_of("lmntk linear layers", folder), scores_of("kronfluence", folder))
            print(f"{model}: kronfluence differs by {apart:.1e} of the largest entry")
            worst = max(worst, apart)
    for model in given.models:
        show(shown, model)
    return int(worst > AGREEMENT)


def kept(path: Path, key: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the row of a key, if there is one."""
    if not path.exists():
        return None
    with path.open(encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    return next((row for row in rows if all(row[name] == str(value) for name, value in key.items())), None)


def keep(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to the file."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, FIELDS, restval="")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    raise SystemExit(main())
