# SPDX-License-Identifier: Apache-2.0
"""A custom handler: the whole model is this file. It counts words, and needs no library but LMI."""

from collections import Counter

from djl_python import Input, Output


class WordCounter:
    def __init__(self, properties: dict[str, str]) -> None:
        self.n_top = int(properties.get("n_top", "3"))

    def count(self, text: str) -> list[tuple[str, int]]:
        return Counter(text.lower().split()).most_common(self.n_top)


counter: WordCounter | None = None


def handle(inputs: Input) -> Output | None:
    """Called once with nothing, to load the model; then once a request."""
    global counter  # noqa: PLW0603 - loaded once, as handlers do
    if counter is None:
        counter = WordCounter(inputs.get_properties())
    if inputs.is_empty():
        return None
    request = inputs.get_as_json()
    if "text" not in request:
        return Output().error("the body has no 'text'", code=400, message="wrong request")
    words = counter.count(request["text"])
    if request.get("stream"):
        return Output().add_stream_content([f"{word} {n}"] for word, n in words)
    return Output().add({"words": dict(words)}).add_property("x-n-words", str(len(words)))
