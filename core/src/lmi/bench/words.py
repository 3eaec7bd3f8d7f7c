# SPDX-License-Identifier: Apache-2.0
"""Prompts: of words that are drawn, or of a file."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from lmi.api.errors import ConfigError

_TEXT = (
    "the of and to in a is that it was for on are as with his they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more her two like him see time could no make than first been its who now people my made over "
    "did down only way find use may water long little very after words called just where most know get through back "
    "much before go good new write our used me man too any day same right look think also around another came come "
    "work three word must because does part even place well such here take why things help put years different away "
    "again off went old number great tell men say small every found still between name should home big give air line "
    "set own under read last never us left end along while might next sound below saw something thought both few those "
    "always looked show large often together asked house world going want school important until form food keep "
    "children feet land side without boy once animals life enough took sometimes four head above kind began almost live"
)
_WORDS = _TEXT.split()


class Words:
    """Texts of so many tokens, no two of them with the same beginning.

    So what a server keeps of one prompt does not help it with the next.

    Args:
        seed: the same seed gives the same texts, in the same order.
        n_tokens: what each is to have.
    """

    def __init__(self, seed: int, n_tokens: int) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._n_tokens = n_tokens
        self._tokens_per_word = 1.0

    def __iter__(self) -> Iterator[str]:
        while True:
            n_words = max(1, round(self._n_tokens / self._tokens_per_word))
            yield " ".join(self._random.choices(_WORDS, k=n_words))

    def learn(self, text: str, n_tokens: int) -> None:
        """Make the next texts as long as wanted, by what the model's tokenizer made of one.

        Args:
            text: one of these.
            n_tokens: what it had.
        """
        self._tokens_per_word = max(1, n_tokens) / len(text.split())


def prompts_of(file: Path) -> Iterator[Any]:
    """The prompts of a file, over and over: a line is a text or messages, or an object with one of them.

    Args:
        file: JSON lines: ``"text"``, ``{"inputs": "text"}``, ``{"prompt": "text"}`` or ``{"messages": [...]}``.
    Raises:
        ConfigError: it cannot be read, has no prompt, or a line is none.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(f"{file}: {error}") from error
    prompts = [_prompt(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise _refused(f"{file} has no lines")
    return cycle(prompts)


def _prompt(file: Path, number: int, line: str) -> Any:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise _refused(f"{file}:{number} is no JSON: {error}") from error
    if isinstance(found, dict):
        found = next((found[key] for key in ("inputs", "prompt", "messages") if key in found), None)
    if not isinstance(found, (str, list)) or not found:
        raise _refused(f"{file}:{number} has no prompt: {line[:80]}")
    return found


def _refused(message: str) -> ConfigError:
    return ConfigError("bench.bad-prompts", message, (), 'Write a line like {"inputs": "..."} or {"messages": [...]}')
