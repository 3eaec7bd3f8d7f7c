# SPDX-License-Identifier: Apache-2.0
"""Stand-in: the two LLM classes with their recorded methods, and what they answer with."""

from __future__ import annotations

import asyncio
import queue
import shutil
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

from tensorrt_llm._standin.choosing import Sequence
from tensorrt_llm._standin.running import Executor, RequestError, Response
from tensorrt_llm._standin.starting import build_engines, check_engines, is_built, read_config, start
from tensorrt_llm.builder import BuildConfig
from tensorrt_llm.executor.result import CompletionOutput
from tensorrt_llm.llmapi.llm_args import TorchLlmArgs, TrtLlmArgs
from tensorrt_llm.models.modeling_utils import QuantConfig
from tensorrt_llm.sampling_params import SamplingParams


class RequestOutput:
    context_logits: Any
    finished: bool
    outputs: list[CompletionOutput]
    prompt: str | None
    prompt_token_ids: list[int]
    request_id: int

    def __init__(self, executor: Executor, sequence: Sequence, streaming: bool) -> None:
        self._executor, self._params, self._is_streaming = executor, sequence.params, streaming
        self.prompt, self.prompt_token_ids = None, list(sequence.ids)
        self.outputs = [CompletionOutput(0)]
        self.context_logits = None
        self.finished, self._is_aborted = False, False
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._arrived: asyncio.Queue[None] | None = None
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
            self._arrived = asyncio.Queue()
        except RuntimeError:
            self._loop = None
        self.request_id = executor.submit(sequence, self._say)

    def _say(self, what: Any) -> None:
        self._said.put(what)
        if self._loop is not None and self._arrived is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, None)

    def _take(self, response: Any) -> None:
        if isinstance(response, str):
            self.finished = True
            raise RequestError(response)
        if isinstance(response, Exception):
            self._executor.shutdown()
            raise response
        assert isinstance(response, Response)
        output = self.outputs[0]
        output.token_ids.extend(response.ids)
        output.generation_logits = response.generation_logits
        if response.context_logits is not None:
            self.context_logits = response.context_logits
        if not response.finish:
            return
        self.finished = True
        output.finish_reason = {"end_id": "stop", "stop_words": "stop"}.get(response.finish, response.finish)
        if response.finish == "stop_words":
            output.stop_reason = output.token_ids[-1]
            if not self._params.include_stop_str_in_output:
                output.token_ids = output.token_ids[:-1]

    def result(self, timeout: float | None = None) -> RequestOutput:
        while not self.finished:
            self._take(self._said.get(timeout=timeout))
        return self

    async def aresult(self) -> RequestOutput:
        while not self.finished:
            await self.__anext__()
        return self

    def abort(self) -> None:
        self._executor.abort_request(self.request_id)
        self._is_aborted = True

    def aborted(self) -> bool:
        return self._is_aborted

    def __await__(self) -> Generator[Any, None, RequestOutput]:
        return self.aresult().__await__()

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        return self

    async def __anext__(self) -> RequestOutput:
        if self.finished:
            raise StopAsyncIteration
        assert self._arrived is not None, "there was no event loop when the request was made"
        await self._arrived.get()
        self._take(self._said.get())
        return self


class _BaseLLM:
    """What both classes do."""

    _args_type: type

    def _start(self, arguments: dict[str, Any]) -> None:
        known = self._args_type.__dataclass_fields__
        for name in arguments:
            if name not in known:
                raise ValueError(f"{type(self).__name__} got invalid argument: {name}")
        self.args = self._args_type(**arguments)
        self._config = read_config(Path(self.args.model))
        self._engine_dir: Path | None = None
        self._prepare()
        self._tokenizer = None if self.args.skip_tokenizer_init else self._load_tokenizer()
        self._executor: Executor | None
        self._executor, self._max_seq_len = start(self._config, self.args)

    def _prepare(self) -> None:
        raise NotImplementedError

    def _check(self, n_prompt: int, params: SamplingParams) -> None:
        raise NotImplementedError

    def _load_tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(Path(self.args.tokenizer or self.args.model) / "tokenizer.json"))

    def generate_async(
        self,
        inputs: Any,
        sampling_params: Any = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        _postproc_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: Any = None,
    ) -> RequestOutput:
        if self._executor is None or self._executor.is_shutdown():
            raise RuntimeError("LLM is shutting down")
        params = sampling_params or SamplingParams()
        if params.end_id is None:
            raise ValueError("the stand-in reads no end_id from a tokenizer: give it")
        if params.guided_decoding is not None and self.args.guided_decoding_backend is None:
            raise ValueError("guided decoding needs guided_decoding_backend")
        self._check(len(inputs), params)
        sequence = Sequence(params, list(inputs), len(inputs), self._decode, lora_request)
        return RequestOutput(self._executor, sequence, streaming)

    def _decode(self, ids: list[int]) -> str:
        return "" if self._tokenizer is None else str(self._tokenizer.decode(ids))

    def shutdown(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None


class _TorchLLM(_BaseLLM):
    _args_type = TorchLlmArgs

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        tokenizer_mode: Any = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        own = {name: value for name, value in locals().items() if name not in ("self", "kwargs", "__class__")}
        self._start({**own, **kwargs})

    def _prepare(self) -> None:
        if is_built(self._config):
            raise ValueError(f"{self.args.model} holds built engines; the PyTorch backend loads weights (stand-in)")

    def _check(self, n_prompt: int, params: SamplingParams) -> None:
        limit = self.args.max_num_tokens
        if limit and n_prompt > limit and not self.args.enable_chunked_prefill:
            raise ValueError(f"The sum of prompt length ({n_prompt}) should not exceed max_num_tokens ({limit})")
        if n_prompt >= self._max_seq_len:
            raise ValueError(f"prompt length ({n_prompt}) should not exceed max_seq_len ({self._max_seq_len})")


class _TrtLLM(_BaseLLM):
    _args_type = TrtLlmArgs

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        tokenizer_mode: Any = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        own = {name: value for name, value in locals().items() if name not in ("self", "kwargs", "__class__")}
        self._start({**own, **kwargs})

    def _prepare(self) -> None:
        from tensorrt_llm import __version__

        if is_built(self._config):
            check_engines(self._config, self.args, __version__)
            self._engine_dir = Path(self.args.model)
            return
        self.args.build_config = self.args.build_config or BuildConfig()
        self.args.quant_config = self.args.quant_config or QuantConfig()
        self._engine_dir = build_engines(self._config, self.args, __version__)
        self.args.tokenizer = self.args.tokenizer or self.args.model
        self._config = read_config(self._engine_dir)

    def _check(self, n_prompt: int, params: SamplingParams) -> None:
        if n_prompt + params.max_tokens > self._max_seq_len:
            raise ValueError(
                f"The sum of prompt length ({n_prompt}) and max_tokens ({params.max_tokens}) should not exceed "
                f"max_seq_len ({self._max_seq_len})"
            )
        if params.return_context_logits and not self._config["build_config"]["gather_context_logits"]:
            raise ValueError("context logits need gather_context_logits=True in the BuildConfig")
        if params.return_generation_logits and not self.args.gather_generation_logits:
            raise ValueError("generation logits need gather_generation_logits=True")

    def save(self, engine_dir: str) -> None:
        if self._engine_dir is None:
            raise RuntimeError("The engine is not built yet.")
        shutil.copytree(self._engine_dir, engine_dir, dirs_exist_ok=True)
