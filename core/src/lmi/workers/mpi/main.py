# SPDX-License-Identifier: Apache-2.0
"""The process of one rank: the first one is a worker like any other, the others do what it says.

Started by mpirun as ``python -c ... SOCKET``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from lmi.api.answering import Answerer, AnswererLimits
from lmi.api.backend import Progress
from lmi.api.engine import Engine, Stepper, StepperLimits
from lmi.api.errors import EngineLoadError, PluginError
from lmi.container import Container
from lmi.garbage import settle
from lmi.loading import load_backend, scheduled
from lmi.plugins import Plugins
from lmi.workers.drive import GenerateBatch
from lmi.workers.main import EXIT_ENGINE_DEAD, WorkerMain, discovered, prepare_process, run_worker
from lmi.workers.mpi.answering import MpiCompute, follow_calls
from lmi.workers.mpi.launch import OWN_TEMPORARY, TEMPORARY
from lmi.workers.mpi.link import RankLink, RankWatch
from lmi.workers.mpi.stepper import MpiStepper, follow
from lmi.workers.mpi.variables import free_port
from lmi.workers.wire import Load

if TYPE_CHECKING:
    from lmi.workers.mpi.group import RankGroup

_LOG = logging.getLogger(__name__)
_LAST_S = 5.0
"""What mpirun gets to end a rank that failed, before it ends itself."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """The first message of rank 0 to all others.

    Args:
        load: what the server wants to be loaded.
        address: of rank 0.
        link_port: where it hears of the others' end.
        token: shows it who they are.
        engine_port: where its engine library listens for those of the others.
    """

    load: Load
    address: str
    link_port: int
    token: str
    engine_port: int


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank has loaded; all must have the same, but for the cache. ``takes`` are the limits of an answerer."""

    kind: str
    limits: StepperLimits | None = None
    draft: StepperLimits | None = None
    takes: AnswererLimits | None = None


class FirstRank(WorkerMain):
    """Rank 0.

    Args:
        group: with this process as rank 0.
    """

    def __init__(self, group: RankGroup) -> None:
        super().__init__()
        self._group = group
        self._watch = RankWatch(group.size, self.die)

    def build(self, load: Load, progress: Progress) -> tuple[Engine, GenerateBatch]:
        """See WorkerMain."""
        group, watch = self._group, self._watch
        listening = watch.start(is_on_one_machine=group.is_on_one_machine)
        port = asyncio.run_coroutine_threadsafe(listening, self.loop).result()
        setup = Setup(
            load=load,
            address="127.0.0.1" if group.is_on_one_machine else group.hosts[0],
            link_port=port,
            token=watch.token,
            engine_port=free_port(Container.of(os.environ).safe_ports),
        )
        group.broadcast(msgspec.msgpack.encode(setup))
        group.set_variables(setup.address, setup.engine_port)
        plugins, model = _load(load, progress)
        progress(f"wait for {group.size - 1} other ranks")
        loaded = [msgspec.msgpack.decode(each, type=Loaded) for each in group.gather(_said(model))]
        engine: Engine
        if isinstance(model, Answerer):
            engine = self._answering(model, loaded)
        else:
            joined = self._joined(model, loaded)
            engine = scheduled(plugins, load.backend, joined, load.artifacts, load.options)
        return engine, plugins.hooks(load.backend).lmi_generate_batch

    def _answering(self, answerer: Answerer, loaded: list[Loaded]) -> Engine:
        """All ranks' answerers as one.

        Raises:
            EngineLoadError: the ranks have loaded different things.
        """
        from lmi.scheduling.answering import engine_of

        refuse_others([each.kind for each in loaded], [each.takes for each in loaded])
        compute = MpiCompute(answerer, self._group, self._watch.close)
        return engine_of(answerer, compute, compute.close)

    def _joined(self, stepper: Stepper, loaded: list[Loaded]) -> Stepper:
        """All ranks' steppers as one, with a draft that is on all ranks or on this one alone.

        Raises:
            EngineLoadError: the ranks have loaded different things.
        """
        limits = agreed_limits([each.kind for each in loaded], [each.limits for each in loaded])
        joined = MpiStepper(stepper, self._group, limits, on_close=self._watch.close)
        drafts = [each.draft for each in loaded if each.draft is not None]
        joined.draft = stepper.draft
        if stepper.draft is not None and len(drafts) > 1:
            limits = agreed_limits(["draft"] * len(loaded), [each.draft for each in loaded])
            one = MpiStepper(stepper.draft.stepper, self._group, limits, place=1)
            joined.draft = replace(stepper.draft, stepper=one)
        return joined


def _load(load: Load, progress: Progress) -> tuple[Plugins, Stepper | Answerer]:
    plugins = discovered(load, progress)
    loaded = load_backend(plugins, load.backend, load.artifacts, load.options, progress)
    if isinstance(loaded, Engine):
        message = f"lmi_load_engine of {load.backend} gave {loaded!r}, neither a Stepper nor an Answerer"
        raise PluginError("plugin.hook-failed", message)
    return plugins, loaded


def _said(model: Stepper | Answerer) -> bytes:
    kind = type(model).__qualname__
    if isinstance(model, Answerer):
        return msgspec.msgpack.encode(Loaded(kind=kind, takes=model.limits))
    draft = None if model.draft is None else model.draft.stepper.limits
    return msgspec.msgpack.encode(Loaded(kind=kind, limits=model.limits, draft=draft))


def agreed_limits(kinds: Sequence[str], limits: Sequence[StepperLimits | None]) -> StepperLimits:
    """The limits that all ranks keep; the cache is as large as the smallest of them.

    Args:
        kinds, limits: of each rank.
    Raises:
        EngineLoadError: they have loaded different things.
    """
    n_tokens = min((each.kv_capacity_tokens for each in limits if each is not None), default=0)
    agreed = [each if each is None else msgspec.structs.replace(each, kv_capacity_tokens=n_tokens) for each in limits]
    refuse_others(kinds, agreed)
    assert agreed[0] is not None  # noqa: S101 - it was looked at
    return agreed[0]


def refuse_others(kinds: Sequence[str], limits: Sequence[object]) -> None:
    """Refuse ranks that have loaded something else than rank 0.

    Args:
        kinds, limits: of each rank.
    Raises:
        EngineLoadError: one has.
    """
    for rank, found in enumerate(zip(kinds, limits, strict=True)):
        if found != (kinds[0], limits[0]) or limits[0] is None:
            raise EngineLoadError(
                "engine.ranks-disagree",
                f"rank {rank} loaded {found[0]} with {found[1]}, rank 0 {kinds[0]} with {limits[0]}",
                "Check that all machines have the same versions, model files and options",
            )


# ------------------------------------------------------------------------------------------------------ other ranks


def run_other(group: RankGroup) -> None:
    """Load what rank 0 loads, and do what it does until it ends.

    Args:
        group: with this process as any rank but 0.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # mpirun's word that another rank is gone
    setup = msgspec.msgpack.decode(group.receive(), type=Setup)
    link = RankLink(group.rank, setup.address, setup.link_port, setup.token)
    code = 0
    try:
        group.set_variables(setup.address, setup.engine_port)
        _, model = _load(setup.load, _untold)
        settle()  # the first rank does it as every worker does
        group.gather(_said(model))
        draft = model.draft.stepper if isinstance(model, Stepper) and model.draft is not None else None
        if isinstance(model, Answerer):
            follow_calls(model, group)
        else:
            follow([model, *([draft] if draft is not None else [])], group)
        link.close()
        model.close()
        if draft is not None:
            draft.close()
        group.finish()
    except (Exception, SystemExit) as error:
        _LOG.exception("rank %d failed", group.rank)
        link.fail(error)
        code = EXIT_ENGINE_DEAD
        time.sleep(_LAST_S)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a rank that leaves MPI by itself waits for all others.
    os._exit(code)


def _untold(stage: str, fraction: float | None = None) -> None:
    """The first rank tells how far the load is."""


def _restore_folder() -> None:
    """Write temporary files where the user wants them; only mpirun's lie in the worker's folder."""
    own = os.environ.pop(OWN_TEMPORARY, "")
    if own:
        os.environ[TEMPORARY] = own
    else:
        os.environ.pop(TEMPORARY, None)


def main() -> None:
    prepare_process()
    try:
        from lmi.workers.mpi.group import RankGroup
    except ImportError as error:
        said = EngineLoadError(
            "worker.no-mpi", f"{sys.executable} cannot speak MPI: {error}", "pip install 'lmi-core[mpi]'"
        )
        print(said, file=sys.stderr, flush=True)
        os._exit(EXIT_ENGINE_DEAD)
    group = RankGroup()
    _restore_folder()
    if group.rank:
        logging.basicConfig(format=f"rank {group.rank}: %(message)s", force=True)
        run_other(group)
    else:
        run_worker(lambda: FirstRank(group))


if __name__ == "__main__":
    main()
