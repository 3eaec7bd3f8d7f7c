# SPDX-License-Identifier: Apache-2.0
"""What a chat of 10 messages costs before it is a prompt of ids: reading its body, rendering its template, encoding.

In turns in one process: LMI decodes and validates the body, LMI makes a conversation of it (messages checked, the
template rendered in a sandbox with limits, what reads the answer chosen), transformers renders the same messages, and
the encoding. Printed: CPU times, the least and the median of what LMI does, else medians. Bar: 0.5 ms for the median of
reading and conversation together. Run: ``make bench-chat``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from lmi.api import ArtifactFormat, ModelArtifacts
from lmi.serving.bodies import decoded, validated
from lmi.serving.chat_template import load_chat_template
from lmi.serving.chat_writing import Conversation, Speech
from lmi.serving.openai_bodies import ChatBody
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


def least_and_median(times_ms: Sequence[float]) -> str:
    return f"{min(times_ms):.3f} {median(times_ms):.3f}"


def messages_for(name: str) -> list[dict[str, Any]]:
    """Ten, as the template of that name takes them."""
    if name == "gemma":  # it has no system text
        return [*MESSAGES[1:], {"role": "assistant", "content": WORDS}]
    if name == "parts":
        return [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in MESSAGES]
    return MESSAGES


def rounds_of(
    speech: Speech, messages: list[dict[str, Any]], tools: list[Any] | None, stock: Callable[[], str], n_rounds: int
) -> list[list[float]]:
    """Milliseconds of each round: to read the body, to make a conversation of it, as transformers, to encode.

    Args:
        speech: of the model, with the template.
        messages, tools: of the chat.
        stock: renders them as transformers does.
        n_rounds: measurements of each.
    """
    given = {"messages": messages, "max_tokens": 64, **({"tools": tools} if tools else {})}
    body = json.dumps(given).encode()
    chat = validated(ChatBody, decoded(body))
    prompt = Conversation(speech, chat).prompt
    if prompt != stock():
        print("the next prompts differ")
    works = (
        lambda: validated(ChatBody, decoded(body)),
        lambda: Conversation(speech, chat),
        stock,
        lambda: speech.tokenizer.encode(prompt, adds_special=False),
    )
    return [[cpu_ms(work, n) for work, n in zip(works, (40, 40, 40, 10), strict=True)] for _ in range(n_rounds)]


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
    print(f"{'template':8} {'tools':>5} {'read ms':>12} {'conversation':>12} {'transformers':>12} {'encode':>6}  LMI")
    for (name, text), tools in product(texts.items(), (None, TOOLS)):
        messages = messages_for(name)
        speech = Speech(load_chat_template(artifacts, text), "hermes", "think", tokenizer, lambda: False)
        stock = partial(
            theirs.apply_chat_template, messages, tools, chat_template=text, tokenize=False, add_generation_prompt=True
        )
        rounds = rounds_of(speech, messages, tools, stock, options.rounds)
        reading, conversing, rendering, encoding = zip(*rounds, strict=True)
        ours = median([sum(each[:2]) for each in rounds])
        print(
            f"{name:8} {len(tools or ()):5} {least_and_median(reading):>12} {least_and_median(conversing):>12} "
            f"{median(rendering):12.3f} {median(encoding):6.3f}  {verdict(ours, BAR_MS, at_most=True)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
