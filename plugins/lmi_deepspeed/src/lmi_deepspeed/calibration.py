# SPDX-License-Identifier: Apache-2.0
"""Texts that show SmoothQuant which activations are large: prose, talk, numbers, code and other languages."""

from __future__ import annotations

from lmi.api import EngineLoadError

TEXTS = (
    "The harbour was quiet at dawn. Two fishing boats had come in during the night, and their crews were already "
    "mending nets on the quay while gulls argued over what was left in the crates.",
    "Water expands when it freezes, which is unusual: most liquids become denser as they turn solid. Because ice is "
    "lighter than the water below it, lakes freeze from the top down, and fish survive the winter underneath.",
    "User: I have three eggs, some rice and half an onion. What can I cook?\nAssistant: Fried rice would work well. "
    "Chop the onion, fry it until it is golden, add the cold rice, push it aside and scramble the eggs beside it.",
    "def moving_average(values, width):\n    total = sum(values[:width])\n    yield total / width\n"
    "    for old, new in zip(values, values[width:]):\n        total += new - old\n        yield total / width\n",
    "Quarterly revenue rose 4.2 % to 1,318 million, while costs fell from 977 to 942 million. The board proposes a "
    "dividend of 0.85 a share, payable on 12 May 2023 to holders of record on 28 April.",
    "Der Zug nach Hamburg hatte eine Stunde Verspätung, also setzten wir uns in das kleine Café am Bahnhof und "
    "spielten Karten, bis die Durchsage endlich kam.",
    "Después de la lluvia, el mercado volvió a llenarse de gente: vendían naranjas, pan recién hecho y flores que "
    "todavía goteaban sobre las mesas de madera.",
    "SELECT customers.name, COUNT(orders.id) AS n_orders FROM customers LEFT JOIN orders ON orders.customer_id = "
    "customers.id WHERE orders.placed_at >= '2021-01-01' GROUP BY customers.name ORDER BY n_orders DESC LIMIT 10;",
    "To prove that there are infinitely many primes, suppose there were only finitely many, multiply them all, and add "
    "one. No prime in the list divides the result, so either it is prime itself or some prime is missing.",
    "\"You could have told me,\" she said, and put the letter back on the table. He looked at the window. \"I tried. "
    "Twice. You were always about to leave.\"",
    '{"name": "sensor-17", "readings": [20.5, 20.7, 21.0, 20.9], "unit": "celsius", "ok": true, "note": null}',
    "1. Turn off the power.  2. Remove the four screws on the back.  3. Lift the cover towards you.  4. Replace the "
    "battery, with the plus sign up.  5. Close the cover and turn the power on again.",
    "The treaty, signed after eleven months of talks, obliges both countries to share data on river levels, to warn "
    "each other of floods, and to settle disputes before a panel of three judges.",
    "La lumière du soir tombait sur les toits; au loin, une cloche sonnait sept heures et les enfants rentraient en "
    "courant de la rivière.",
    "今天下午我们去公园散步,看见很多人在湖边放风筝。孩子们笑得很开心,老人坐在树下聊天。",
    "Cells store energy in small molecules called ATP. When one of its phosphate bonds is broken, the energy that is "
    "released drives muscles, pumps ions through membranes and builds proteins from amino acids.",
)  # fmt: skip


def calibration_ids(folder: str, n_vocab: int) -> list[list[int]]:
    """The texts as token ids of a model; the same on every rank.

    Args:
        folder: of the model, with its tokenizer.
        n_vocab: tokens that the model knows.
    Raises:
        EngineLoadError: there is no tokenizer that can be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise EngineLoadError(
            "engine.no-calibration",
            f"quantize=smoothquant reads texts through the model, whose tokenizer cannot be loaded: {error}",
            "Put the tokenizer's files beside the weights, or use option.quantize=dynamic_int8",
        ) from error
    encoded = [tokenizer(text)["input_ids"] for text in TEXTS]
    kept = [[each for each in ids if each < n_vocab] for ids in encoded]
    return [ids for ids in kept if ids]
