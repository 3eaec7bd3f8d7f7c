# SPDX-License-Identifier: Apache-2.0
"""What an operator wants to know of a server that only requests can reach: asked for with a token, in a request.

A body is read as such a request only where it has the token; any other is the model's.
"""

from __future__ import annotations

import dataclasses
import hmac
import logging
import platform
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec

import lmi
from lmi.config.names import shown
from lmi.devices.cuda import driver_version, free_bytes_of
from lmi.effective import option_values
from lmi.plugins.libraries import installed
from lmi.serving.health import describe
from lmi.serving.history import Loss
from lmi.serving.metrics import cache_use
from lmi.threads import in_own_thread

if TYPE_CHECKING:
    from lmi.serving.context import Context
    from lmi.serving.models import Model
    from lmi.serving.streaming import Exchange

_LOG = logging.getLogger(__name__)
_MOST_BYTES = 4096
"""Of a body that may be such a request."""
_KEY, _WHAT, _TOKEN = "lmi", "diagnostics", "token"
_QUOTED_KEY = b'"lmi"'
_LONGEST_LINE = 1000

_decode, _encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode


async def diagnosed(context: Context, exchange: Exchange) -> bool:
    """Answer a request for diagnostics; whether it was one.

    Args:
        context: the server's; its options have the token.
        exchange: the request.
    """
    token, length = context.options.diagnostics_token, exchange.headers.get("content-length", "")
    if token is None or not length.isdecimal() or int(length) > _MOST_BYTES:
        return False
    if not is_asked(await exchange.peek(_MOST_BYTES), token):
        return False
    _LOG.info("request %s gets diagnostics", exchange.request_id)
    await exchange.answer(_encode(await report(context)))
    return True


def is_asked(body: bytes, token: str) -> bool:
    """Whether a body asks for diagnostics and may have them: ``{"lmi": "diagnostics", "token": "…"}``."""
    if _QUOTED_KEY not in body:
        return False
    try:
        data = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if not isinstance(data, dict) or data.keys() != {_KEY, _TOKEN} or data[_KEY] != _WHAT:
        return False
    return isinstance(data[_TOKEN], str) and hmac.compare_digest(data[_TOKEN].encode(), token.encode())


async def report(context: Context) -> dict[str, Any]:
    """Everything; secrets are masked."""
    models = [*context.models.values()]
    machine = await in_own_thread(lambda: _machine(context, models))
    options = option_values(context.options, context.settings)
    timeline = context.timeline
    return {
        "lmi": _WHAT,
        "time": _iso(time.time()),
        **machine,
        "server": {
            "stage": context.stage,
            "started": _iso(timeline.began_s),
            "seconds_to_ready": round(timeline.seconds, 3) if timeline.is_over else None,
            "timeline": timeline.as_dict(),
            "container": dataclasses.asdict(context.container),
            "options": {key: dataclasses.asdict(each) for key, each in options.items()},
        },
        "models": [_of_model(model) for model in models],
    }


def _machine(context: Context, models: Sequence[Model]) -> dict[str, Any]:
    """Versions and devices; asks drivers and reads what is installed."""
    libraries = [
        choice for model in models for library in model.plan.info.engine_libraries for choice in library.choices
    ]
    engines = {name: version for each in libraries for name, version in installed(each).items()}
    plugins = [
        {"name": each.name, "kind": each.kind.value, "package": each.package, "state": each.state.value,
         "reason": each.reason}
        for each in context.plugins.records
    ]  # fmt: skip
    targets = {model.name: model.plan.target for model in models}
    return {
        "versions": {
            "lmi": lmi.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "driver": driver_version(),
            "engines": engines,
            "plugins": plugins,
        },
        "devices": {
            name: {**msgspec.to_builtins(target), "free_bytes": free_bytes_of(target.devices)}
            for name, target in targets.items()
        },
    }


def _of_model(model: Model) -> dict[str, Any]:
    plan, pool, losses = model.plan, model.pool, model.history.losses
    options = option_values(plan.options, plan.settings) | option_values(plan.config, plan.settings)
    return {
        **describe(model),
        "url": shown("url", plan.url),
        "task": plan.task.value,
        "n_requests": pool.n_requests,
        "n_waiting": pool.n_waiting,
        "cache_use": cache_use(model),
        "adapters": sorted(model.adapters.wanted()),
        "warnings": [str(each) for each in plan.warnings],
        "losses": {label: _of_loss(each) for label, each in losses.items()},
        "options": {key: dataclasses.asdict(each) for key, each in options.items()},
    }


def _of_loss(loss: Loss) -> dict[str, Any]:
    """The last end of a worker, with the last lines that it printed."""
    lines = [shown("", line)[:_LONGEST_LINE] for line in loss.last_lines]
    said = {"reason": loss.reason, "error": shown("", loss.error), "stage": loss.stage}
    return {"time": _iso(loss.at_s), **said, "last_lines": lines}


def _iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, timezone.utc).isoformat(timespec="seconds")
