# SPDX-License-Identifier: Apache-2.0
"""A route that a model answers: its conversation, and what a client is told when it fails."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from starlette.types import Receive, Scope, Send

from lmi.api.errors import EngineDeadError, LmiError
from lmi.serving.errors import status_of
from lmi.serving.streaming import LINES, ClientGoneError, Exchange, Form

if TYPE_CHECKING:
    from lmi.serving.context import Context

_LOG = logging.getLogger(__name__)
_SERVERS_FAULT = 500


def unexpected(exchange: Exchange, error: Exception) -> LmiError:
    """What a client is told of an exception that nobody foresaw, which is logged."""
    _LOG.error("request %s failed", exchange.request_id, exc_info=error)
    return EngineDeadError("server.error", f"{type(error).__name__}: {error}")


def tell(exchange: Exchange, error: LmiError) -> None:
    """Log that a request failed. What its caller did wrong is told by its code alone: the message may quote it."""
    status = exchange.form.status(error)
    if status_of(error) < _SERVERS_FAULT:
        _LOG.info("request %s failed: %d %s", exchange.request_id, status, error.code)
    else:
        _LOG.warning("request %s failed: %d %s", exchange.request_id, status, " ".join(str(error).split()))


class InferenceRoute(ABC):
    """One schema's route, as an ASGI application.

    Args:
        context: the server's models and hooks.
    """

    form: ClassVar[Form] = LINES

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self.form)
        try:
            await self._answer(exchange, scope)
        except ClientGoneError:
            pass
        except LmiError as error:
            tell(exchange, error)
            await self._fail(exchange, error)
        except Exception as error:
            await self._fail(exchange, unexpected(exchange, error))
        finally:
            exchange.unwatch()

    async def _fail(self, exchange: Exchange, error: LmiError) -> None:
        if not exchange.measured:
            self._context.metrics.refuse(exchange.model_name, error.code)
        await exchange.fail(error)

    @abstractmethod
    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        """Answer one request.

        Raises:
            LmiError: it failed, which its client is told; what was sent before stands.
        """
