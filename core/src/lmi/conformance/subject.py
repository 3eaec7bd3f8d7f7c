# SPDX-License-Identifier: Apache-2.0
"""The server that is judged: how rules reach it, and what they found out about it for each other."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from lmi.client import Target
from lmi.conformance.bodies import Body, usual_bodies
from lmi.conformance.life import Life, listing
from lmi.conformance.rules import Broken, NotApplicable, Skipped
from lmi.conformance.starting import Start, asked, watched
from lmi.conformance.talking import Answer, Line, Unanswered
from lmi.sagemaker_limits import INVOCATION_S, PING_S, STARTUP_S
from lmi.workers.mpi.variables import free_port

_T = TypeVar("_T")
_Facts = TypeVar("_Facts")

_SURVIVORS_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the person who judges asks for.

    Args:
        target: a server that runs; None where ``command`` starts it.
        command: the words that start it.
        port: what the command is told to bind; None takes a free one.
        broken_command: starts it with a model that cannot be loaded.
        broken_cause: what its last lines must say.
        body: a request that it answers; None tries the usual ones.
        adapter: name and source of an adapter that fits its model.
        models: two folders, for multi-model.
        model_folder: where nothing may be written.
        start_s: until it must be ready.
        time_scale: how much longer than the rules say everything may take.
    """

    target: Target | None = None
    command: Sequence[str] = ()
    port: int | None = None
    broken_command: Sequence[str] = ()
    broken_cause: str = ""
    body: Body | None = None
    adapter: tuple[str, str] | None = None
    models: Sequence[str] = ()
    model_folder: Path | None = None
    start_s: float = STARTUP_S
    time_scale: float = 1.0


@dataclass
class _Insults:
    """What was sent that no client should send, and what /ping said after it."""

    n: int = 0
    hurt: list[str] = field(default_factory=list)


class Subject:
    """One server under judgement. Use it as a context: what it started ends with it.

    Args:
        wishes: what was asked for.
    """

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = wishes
        self.evidence: list[dict[str, Any]] = []
        self.insults = _Insults()
        self.port = wishes.port or free_port()
        self.files_before = listing(wishes.model_folder) if wishes.model_folder else {}
        self._facts: dict[type, Any] = {}
        self._life: Life | None = None

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_life()

    def s(self, seconds: float) -> float:
        """A limit, for a machine that may be slower."""
        return seconds * self.wishes.time_scale

    def span_s(self, seconds: float) -> float:
        """How long something is looked at, which a slow machine makes no longer."""
        return min(self.s(seconds), seconds)

    # ------------------------------------------------------------------------------------------------------ its start

    @cached_property
    def start(self) -> Start:
        """How the command started; the server it started is the one that is judged.

        Raises:
            Skipped: there is no command.
        """
        life = self.begin_life(self.command)
        bodies = [self.wishes.body] if self.wishes.body else usual_bodies()
        return self.watch(life, bodies)

    @property
    def command(self) -> Sequence[str]:
        if not self.wishes.command:
            raise Skipped("it needs --command: a running server is not started and stopped")
        return self.wishes.command

    def watch(self, life: Life, bodies: Sequence[Body]) -> Start:
        """Look at a life until it is ready, or is not going to be."""
        return watched(
            life, limit_s=self.wishes.start_s, ping_s=self.s(PING_S), bodies=bodies, ask_s=self.s(INVOCATION_S)
        )

    def begin_life(self, words: Sequence[str], environ: Mapping[str, str] | None = None) -> Life:
        """Start a command in place of the one that runs: no two models need to fit the machine."""
        self.end_life()
        self._life = Life(words, self.port, environ)
        return self._life

    def end_life(self) -> None:
        """End what runs, if anything does."""
        life, self._life = self._life, None
        if life is not None:
            life.kill()

    @property
    def target(self) -> Target:
        """Where the server is.

        Raises:
            Skipped: it never became ready, or was stopped.
        """
        if self.wishes.target is not None:
            return self.wishes.target
        start = self.start
        if start.ready_s is None:
            raise Skipped("the server never became ready")
        if self._life is not start.life or start.life.exit_code is not None:
            raise Skipped("the server has ended")
        return start.target

    # -------------------------------------------------------------------------------------------------------- talking

    def show(self, *answers: Answer) -> None:
        """Keep answers as evidence for the rule that is judged."""
        self.evidence += [each.as_evidence() for each in answers]

    def note(self, text: str) -> None:
        """Keep an observation as evidence."""
        self.evidence.append({"note": text})

    def line(self, limit_s: float = INVOCATION_S) -> Line:
        """A connection of the rule's own; what comes over it is evidence only if it is shown."""
        return Line(self.target, self.s(limit_s))

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        limit_s: float = INVOCATION_S,
        is_chunked: bool = False,
    ) -> Answer:
        """The answer to one request over a connection of its own.

        Raises:
            Unanswered: there was none, or not a whole one, in time.
        """
        with self.line(limit_s) as line:
            answer = line.ask(method, path, body, headers, is_chunked=is_chunked)
        self.show(answer)
        if answer.failure:
            raise Unanswered(f"{answer.request}: {answer.failure}" if answer.status else answer.told())
        return answer

    def ask_json(self, method: str, path: str, fields: Mapping[str, Any]) -> Answer:
        """As ``ask``, with an object for a body."""
        return self.ask(method, path, Body.of(fields).content, {"Content-Type": "application/json"})

    def ping(self, method: str = "GET") -> Answer:
        return self.ask(method, "/ping", limit_s=PING_S)

    def invoke(self, body: Body, headers: Mapping[str, str] | None = None, *, is_chunked: bool = False) -> Answer:
        """The answer to a body on ``/invocations``."""
        sent = {"Content-Type": body.content_type, **(headers or {})}
        return self.ask("POST", "/invocations", body.content, sent, is_chunked=is_chunked)

    def abuse(self, body: Body, headers: Mapping[str, str] | None = None) -> Answer:
        """As ``invoke``, for what no client should send; /ping is looked at afterwards."""
        self.insults.n += 1
        try:
            return self.invoke(body, headers)
        finally:
            with self.line(PING_S) as line:
                after = line.ask("GET", "/ping")
            if not after.is_ok:
                self.insults.hurt.append(f"after {body.content[:40]!r} {after.told()}")

    # --------------------------------------------------------------------------------------------------- what it knows

    @cached_property
    def _known_body(self) -> Body | None:
        if self.wishes.target is None:
            return self.start.known_body
        bodies = [self.wishes.body] if self.wishes.body else usual_bodies()
        self.tried = [asked(self.target, each, self.s(INVOCATION_S)) for each in bodies]
        return next((body for body, answer in zip(bodies, self.tried, strict=True) if answer.is_ok), None)

    tried: Sequence[Answer] = ()
    """Answers to the bodies that were tried on a running server."""

    @property
    def body(self) -> Body:
        """A request that is answered with 200.

        Raises:
            Skipped: none is.
        """
        _ = self.target
        if self._known_body is None:
            raise Skipped("no body is answered with 200: give one with --body")
        return self._known_body

    def of(self, facts: Callable[[Subject], _Facts]) -> _Facts:
        """What rules of one kind share, made when the first of them asks for it.

        Args:
            facts: a class whose one argument is the subject.
        """
        key = cast(type, facts)
        if key not in self._facts:
            self._facts[key] = facts(self)
        return cast(_Facts, self._facts[key])

    def at_once(self, calls: Sequence[Callable[[], _T]]) -> list[_T | Broken]:
        """Results of calls that run at the same time, in order; the ones that broke a rule as what they raised."""
        results: list[_T | Broken] = [Unanswered("not tried")] * len(calls)

        def run(index: int) -> None:
            try:
                results[index] = calls[index]()
            except (Skipped, NotApplicable) as error:
                results[index] = Broken(str(error))
            except Broken as error:
                results[index] = error

        threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    @contextlib.contextmanager
    def under_load(self, n_clients: int) -> Iterator[list[Answer]]:
        """So many clients that ask again and again for the length of a block; gives the answers they got."""
        body, target, limit_s = self.body, self.target, self.s(INVOCATION_S)
        answers: list[Answer] = []
        is_over = threading.Event()

        def client() -> None:
            while not is_over.is_set():
                answers.append(asked(target, body, limit_s))
                if answers[-1].failure:
                    is_over.wait(0.1)

        threads = [threading.Thread(target=client, daemon=True) for _ in range(n_clients)]
        for thread in threads:
            thread.start()
        try:
            yield answers
        finally:
            is_over.set()
            end_s = time.monotonic() + self.s(_SURVIVORS_S)
            for thread in threads:
                thread.join(max(0.0, end_s - time.monotonic()))
