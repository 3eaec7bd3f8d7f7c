# SPDX-License-Identifier: Apache-2.0
"""A process for vllm_bench.py that measures vLLM's engine with no server before it, when told to.

    python benchmarks/vllm_bare.py '{"model": FOLDER, ...}'     with the keywords of vLLM's AsyncEngineArgs

Runs under the Python of vLLM's environment. Reads a JSON line {"number", "asks", "n_at_once", "logprobs"} at a time
from stdin and answers with a line "result NUMBER TIMING". Idle between the lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from mixed_load import Ask, Heard, in_turns


async def serve(arguments: dict[str, Any]) -> None:
    """Load the engine, then measure until stdin ends."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, disable_log_stats=True))
    say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = json.loads(line)
        asks = [Ask(**ask) for ask in task["asks"]]
        timing = await in_turns(asks, task["n_at_once"], Client(llm, task["logprobs"]).hear)
        say(f"result {task['number']} {json.dumps(asdict(timing))}")
    llm.shutdown(timeout=3.0)


class Client:
    """Follows requests of the engine, ids in and ids out.

    Args:
        llm: the engine.
        n_logprobs: None asks for none, 0 for that of each token itself.
    """

    def __init__(self, llm: Any, n_logprobs: int | None) -> None:
        self._llm = llm
        self._n_logprobs = n_logprobs
        self._n_asked = 0

    async def hear(self, ask: Ask) -> Heard:
        """One request to its end."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=ask.n_new_tokens,
            temperature=0.0,
            ignore_eos=True,
            logprobs=self._n_logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )
        self._n_asked += 1
        sent_s, arrivals_s, n_tokens = time.monotonic(), [], 0
        async for output in self._llm.generate(tokens_input(ask.ids), params, f"bench-{self._n_asked}"):
            arrivals_s.append(time.monotonic())
            n_tokens += len(output.outputs[0].token_ids)
        if n_tokens != ask.n_new_tokens:
            raise SystemExit(f"a request of {ask.n_new_tokens} tokens had {n_tokens}")
        return Heard(sent_s=sent_s, arrivals_s=arrivals_s, n_tokens=n_tokens)


def say(line: str) -> None:
    """A line of its own, even where another process of the engine left one half written."""
    os.write(sys.stdout.fileno(), f"\n{line}\n".encode())


def main() -> None:
    run = serve(json.loads(sys.argv[1]))
    try:
        import uvloop
    except ImportError:
        asyncio.run(run)
    else:
        uvloop.run(run)


if __name__ == "__main__":  # the engine's processes import this file again
    main()
