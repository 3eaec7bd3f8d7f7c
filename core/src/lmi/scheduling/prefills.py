# SPDX-License-Identifier: Apache-2.0
"""How the prompt tokens of a step are shared: the oldest prompt moves on, short ones are not held up behind it."""

from __future__ import annotations

from dataclasses import dataclass

from lmi.scheduling.active import ActiveRequest, Owner

MIN_PIECE_TOKENS = 16
"""A smaller piece of a long prompt is not worth its entry in the batch."""

SCORED_CHUNK_TOKENS = 256
"""Most tokens a chunk that returns logits for each of them: at a vocabulary of 128k they take 128 MiB."""


@dataclass
class Share:
    """Whose turn it is where only one prompt fits into a step."""

    is_for_shortest: bool = False


def share_prefills(
    prefilling: list[ActiveRequest[Owner]],
    *,
    budget_tokens: int,
    max_prefills: int,
    allows_cuts: bool,
    n_logits_per_slot: int,
    turn: Share,
) -> list[tuple[ActiveRequest[Owner], int]]:
    """Divide a step's prompt tokens.

    The oldest prompt has a right to half of them, so nothing starves it; the rest goes to those that need the fewest
    (the oldest of equals), so a short prompt's first token does not wait for a long prompt's last chunk.

    Args:
        prefilling: requests with ids to read, in order of arrival, at least one.
        budget_tokens: most ids to read.
        max_prefills: most requests to serve; if one, the oldest and the shortest take turns.
        allows_cuts: whether a prompt may be read in chunks.
        n_logits_per_slot: most logits of one request; 0 for no limit.
        turn: remembered from call to call.
    Returns:
        Requests and how many ids of each to read, at least 1, in order of arrival.
    """
    oldest = prefilling[0]
    chosen = _choose(prefilling, max_prefills, turn)
    if not allows_cuts:
        return _whole(chosen, oldest, budget_tokens)
    wanted = {active.slot: _wanted_tokens(active, n_logits_per_slot) for active in chosen}
    given = dict.fromkeys(wanted, 0)
    left = budget_tokens
    if oldest.slot in wanted:
        given[oldest.slot] = min(wanted[oldest.slot], (left + 1) // 2)
        left -= given[oldest.slot]
    for active in chosen:
        missing = wanted[active.slot] - given[active.slot]
        extra = min(missing, left)
        if given[active.slot] or extra == missing or extra >= min(MIN_PIECE_TOKENS, budget_tokens):
            given[active.slot] += extra
            left -= extra
    return [(active, given[active.slot]) for active in prefilling if given.get(active.slot)]


def _choose(prefilling: list[ActiveRequest[Owner]], max_prefills: int, turn: Share) -> list[ActiveRequest[Owner]]:
    """The oldest and the shortest, shortest first."""
    shortest_first = sorted(prefilling, key=lambda active: active.n_pending)
    if max_prefills == 1:
        chosen = [shortest_first[0]] if turn.is_for_shortest else prefilling[:1]
        turn.is_for_shortest = not turn.is_for_shortest
        return chosen
    last = shortest_first[: max_prefills - 1]
    kept = shortest_first[:max_prefills] if prefilling[0] in last else [*last, prefilling[0]]
    return sorted(kept, key=lambda active: active.n_pending)


def _whole(
    chosen: list[ActiveRequest[Owner]], oldest: ActiveRequest[Owner], budget_tokens: int
) -> list[tuple[ActiveRequest[Owner], int]]:
    served = []
    for active in sorted(chosen, key=lambda active: active is not oldest):
        if active.n_pending <= budget_tokens:
            served.append((active, active.n_pending))
            budget_tokens -= active.n_pending
    return served


def _wanted_tokens(active: ActiveRequest[Owner], n_logits_per_slot: int) -> int:
    if active.n_unscored:
        return min(active.n_pending, n_logits_per_slot or SCORED_CHUNK_TOKENS)
    return active.n_pending
