# SPDX-License-Identifier: Apache-2.0
"""A custom runtime of MLServer; a stream is a server-sent event a token."""

from collections.abc import AsyncIterator

from fake_engine import generate
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Fake(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return self._answer("".join([text async for _, text in generate(n_tokens_of(payload))]))

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            async for _, text in generate(n_tokens_of(payload)):
                yield self._answer(text)

    def _answer(self, text: str) -> InferenceResponse:
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("text", [text])])


def n_tokens_of(payload: InferenceRequest) -> int:
    return int(payload.parameters.max_new_tokens)
