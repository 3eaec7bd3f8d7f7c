# SPDX-License-Identifier: Apache-2.0
"""What a chat of 10 messages costs before it is a prompt of ids: rendering its template, and encoding.

In turns in one process: LMI's rendering (in a sandbox, with limits, messages checked), transformers' rendering of the
same messages, and the encoding. Printed: medians of CPU time. Bar: 0.5 ms to render. Run: ``make bench-chat``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmi.api import ArtifactFormat, ModelArtifacts
from lmi.serving.chat_template import load_chat_template
from lmi.serving.tokenizer import load_tokenizer
from processes import demo_model, machine, median, verdict

BAR_MS = 0.5
FAMILIES = Path(__file__).parents[1] / "tests" / "core" / "chat_templates"
WORDS = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 3
MESSAGES = [
    {"role": "system", "content": WORDS},
    *({"role": ("user", "assistant")[index % 2], "content": f"{index}. {WORDS}"} for index in range(9)),
]
TOOLS = [
    {"type": "function", "function": {"name": f"f{index}", "description": WORDS, "parameters": {"type": "object"}}}
    for index in range(3)
]


def cpu_ms(work: Callable[[], Any], n: int) -> float:
    """CPU time of one call of n in a row."""
    begin_s = time.process_time()
    for _ in range(n):
        work()
    return 1e3 * (time.process_time() - begin_s) / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, help="folder with a tokenizer and a chat template; by default the demo model"
    )
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each")
    options = parser.parse_args()
    folder = options.model or Path(demo_model())
    print(machine())

    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    artifacts = ModelArtifacts(folder=str(folder), format=ArtifactFormat.PRETRAINED)
    tokenizer = load_tokenizer(artifacts)
    texts = {"its own": None, **{path.stem: path.read_text("utf-8") for path in sorted(FAMILIES.glob("*.jinja"))}}
    print(f"{'template':10} {'messages':>8} {'LMI ms':>8} {'transformers ms':>16} {'encode ms':>10}  LMI")
    for name, text in texts.items():
        template = load_chat_template(artifacts, text)
        # Gemma has no system text.
        messages = MESSAGES[1:] if name == "gemma" else MESSAGES
        if name == "parts":
            messages = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in messages]
        prompt = template.render(messages, TOOLS)
        works = (
            lambda template=template, messages=messages: template.render(messages, TOOLS),
            lambda text=text, messages=messages: theirs.apply_chat_template(
                messages, TOOLS, chat_template=text, tokenize=False, add_generation_prompt=True
            ),
            lambda prompt=prompt: tokenizer.encode(prompt, adds_special=False),
        )
        if works[0]() != works[1]():
            print(f"{name:10} the prompts differ")
        rounds = [[cpu_ms(work, n) for work, n in zip(works, (40, 40, 10), strict=True)] for _ in range(options.rounds)]
        ours, stock, encoding = map(median, zip(*rounds, strict=True))
        print(
            f"{name:10} {len(messages):8} {ours:8.3f} {stock:16.3f} {encoding:10.3f}  "
            f"{verdict(ours, BAR_MS, at_most=True)}"
        )


if __name__ == "__main__":
    main()
