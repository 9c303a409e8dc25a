"""A machine's speed at what a Gram matrix is made of: measured in about a second, and kept beside the run."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from lmntk.engine.cost import Operations
from lmntk.kernels.inner import inner
from lmntk.kernels.materialised import Tile, tile_products
from lmntk.system.kept import or_none, read_form, write_record
from lmntk.system.precision import FULL, Precision, products
from lmntk.tangents.factors import OuterFactors

REPEATS = 5
WIDTH, TOKENS, ROWS, COLUMNS, SIDE = 768, 40, 64, 128, 128  # SIDE x SIDE: a block of a gradient


Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # operations a second


@dataclass(frozen=True)
class Rates:
    """Operations a second of each kind that ``cost.Operations`` has, and the machine they are of."""

    making: Rate
    products: Rate
    sign_products: Rate
    inner: Rate
    signed: Rate
    machine: str

    def seconds(self, operations: Operations) -> float:
        """Return the time that operations take."""
        rates = self.making, self.products, self.sign_products, self.inner, self.signed
        return sum(count / rate for count, rate in zip(operations.as_tuple(), rates, strict=True))


def machine_name(device: torch.device, precision: Precision = FULL) -> str:
    """Return the name of what the rates depend on, in a line."""
    if device.type == "cuda":
        products_in = "" if precision == FULL else ", tf32"
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}{products_in}"
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    return f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def measure_rates(device: torch.device) -> Rates:
    """Return this machine's rates, medians of a few repeats. Cost: about a second on two cores."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    factors = OuterFactors(normal(ROWS, TOKENS, WIDTH), normal(1, ROWS, TOKENS, WIDTH))
    left = OuterFactors(normal(ROWS, 1, WIDTH), normal(1, ROWS, 1, WIDTH))
    right = OuterFactors(normal(COLUMNS, 1, WIDTH), normal(1, COLUMNS, 1, WIDTH))
    out, block = normal(1, ROWS, SIDE * SIDE), (slice(0, SIDE), slice(0, SIDE))
    rows, columns = (Tile.of(normal(count, SIDE * SIDE), ["signgd"]) for count in (ROWS, COLUMNS))
    product = 2.0 * ROWS * COLUMNS * SIDE * SIDE
    return Rates(
        making=2.0 * ROWS * TOKENS * SIDE * SIDE / _seconds(lambda: factors.materialise(block, out), device),
        products=product / _seconds(lambda: tile_products(rows, columns, ["sgd"]), device),
        sign_products=product / _seconds(lambda: tile_products(rows, columns, ["signgd"]), device),
        inner=2.0 * ROWS * COLUMNS * 2 * WIDTH / _seconds(lambda: inner(left, right, ["sgd"]), device),
        signed=float(rows.values.numel()) / _seconds(lambda: torch.sign(rows.values, out=rows.signs), device),
        machine=machine_name(device),
    )


def _seconds(body: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        body()
        finish_work(device)
        times.append(time.perf_counter() - started)
    return max(statistics.median(times[1:]), 1e-7)


def finish_work(device: torch.device) -> None:
    """Wait until a device has done what it was given: a GPU's work is only begun when a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rates_of(device: torch.device, kept: Path | None, precision: Precision = FULL) -> Rates:
    """Return the rates in a file if they are of this machine, else measure and keep them."""
    name = machine_name(device, precision)
    if kept is not None:
        known: Rates | None = or_none(lambda: read_form(kept, Rates))
        if known is not None and known.machine == name:
            return known
    with products(precision):
        rates = replace(measure_rates(device), machine=name)
    if kept is not None:
        with suppress(OSError):  # it is only to save a second
            write_record(kept, asdict(rates))
    return rates
