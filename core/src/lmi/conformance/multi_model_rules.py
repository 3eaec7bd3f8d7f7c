# SPDX-License-Identifier: Apache-2.0
"""Multi-model endpoints: the platform loads and unloads models while the container runs."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any
from urllib.parse import quote

from lmi.client import Target
from lmi.conformance import sources
from lmi.conformance.bodies import usual_bodies
from lmi.conformance.rules import Level, NotApplicable, Skipped, expect, rule
from lmi.conformance.subject import Subject
from lmi.conformance.talking import Answer, Line, Unanswered
from lmi.sagemaker_limits import INVOCATION_S, PING_S

NAMES = ("first-model-1b9f", "second-model-1b9f")
UNKNOWN = "no-such-model-1b9f"
_NO_ROUTE = (404, 405, 501)
_ENVIRON = {"SAGEMAKER_MULTI_MODEL": "true"}


class MultiModel:
    """The server in multi-model mode: a life of its own, or the running server.

    Args:
        subject: the server.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    @cached_property
    def _target(self) -> Target | None:
        if self._subject.wishes.target is not None:
            return self._subject.wishes.target
        life = self._subject.begin_life(self._subject.command, _ENVIRON)
        start = self._subject.watch(life, ())
        return None if start.ready_s is None else start.target

    @cached_property
    def ping_without_models(self) -> Answer:
        """The first thing that is asked."""
        return self.ask("GET", "/ping", limit_s=PING_S)

    @cached_property
    def has_routes(self) -> bool:
        _ = self.ping_without_models
        statuses = [self.ask("GET", "/models").status, self.ask("POST", "/models", {}).status]
        return any(each not in _NO_ROUTE for each in statuses)

    def expected(self) -> None:
        """Raise unless there are two models, a server, and the routes.

        Raises:
            Skipped: two models, or the server, are not there.
            NotApplicable: the routes are not there.
        """
        if len(self._subject.wishes.models) != len(NAMES):
            raise Skipped("it needs two model folders: --multi-model FIRST SECOND")
        if self._target is None:
            raise NotApplicable("with SAGEMAKER_MULTI_MODEL=true the command never became ready")
        if not self.has_routes:
            raise NotApplicable("there is no GET /models and no POST /models")

    def ask(self, method: str, path: str, fields: Any = None, *, limit_s: float = INVOCATION_S) -> Answer:
        """The answer to a request with or without an object for a body."""
        if self._target is None:
            raise Skipped("the server never became ready")
        content = b"" if fields is None else json.dumps(fields).encode()
        headers = {} if fields is None else {"Content-Type": "application/json"}
        with Line(self._target, self._subject.s(limit_s)) as line:
            answer = line.ask(method, path, content, headers)
        self._subject.show(answer)
        if answer.failure:
            raise Unanswered(answer.told())
        return answer

    @cached_property
    def _loads(self) -> list[Answer]:
        given = zip(NAMES, self._subject.wishes.models, strict=True)
        return [self.load(name, folder) for name, folder in given]

    def load(self, name: str, folder: str) -> Answer:
        return self.ask("POST", "/models", {"model_name": name, "url": folder}, limit_s=self._subject.wishes.start_s)

    def first_load(self) -> Answer:
        """The answer to loading the first model; both are loaded then."""
        self.expected()
        return self._loads[0]

    def second_load(self) -> Answer:
        return self._loads[1]

    def loaded(self) -> str:
        """Name of the first model.

        Raises:
            Skipped: it could not be loaded.
        """
        if not self.first_load().is_ok:
            raise Skipped("the first model could not be loaded")
        return NAMES[0]

    def invoke(self, name: str) -> Answer:
        """The answer of the first usual body that the model takes, or of the last one."""
        given = self._subject.wishes.body
        for body in [given] if given else usual_bodies():
            answer = self.ask("POST", f"/models/{quote(name, safe='')}/invoke", body.fields)
            if answer.is_ok:
                break
        return answer


@rule("multi-model.healthy-without-models", "/ping is 200 before any model is loaded", Level.MUST,
      sources.convention("the platform loads models only after it; one bad model would block all others"))  # fmt: skip
def healthy_without_models(subject: Subject) -> None:
    """One GET, before the first POST /models."""
    models = subject.of(MultiModel)
    models.expected()
    expect(models.ping_without_models.is_ok, models.ping_without_models.told())


@rule("multi-model.loads", "POST /models loads a model", Level.MUST, sources.MULTI_MODEL)
def loads(subject: Subject) -> None:
    """{"model_name": ..., "url": FOLDER} is answered with 200."""
    answer = subject.of(MultiModel).first_load()
    subject.show(answer)
    expect(answer.is_ok, answer.told())


@rule("multi-model.loads-several", "a second model is loaded beside the first, or refused with 507", Level.SHOULD,
      sources.MULTI_MODEL)  # fmt: skip
def loads_several(subject: Subject) -> None:
    """POST /models with another name and folder: 200 or 507, upon which the platform unloads another one."""
    models = subject.of(MultiModel)
    models.loaded()
    answer = models.second_load()
    subject.show(answer)
    expect(answer.is_ok or answer.status == 507, f"{answer.told()}; expected 200 or 507")


@rule("multi-model.refuses-duplicates", "a model that is loaded already is refused with 409", Level.MUST,
      sources.MULTI_MODEL)  # fmt: skip
def refuses_duplicates(subject: Subject) -> None:
    """The same POST /models once more."""
    models = subject.of(MultiModel)
    answer = models.load(models.loaded(), subject.wishes.models[0])
    expect(answer.status == 409, f"{answer.told()}; expected 409")


@rule("multi-model.lists", "GET /models lists what is loaded", Level.MUST, sources.MULTI_MODEL)
def lists(subject: Subject) -> None:
    """{"models": [{"modelName": ..., "modelUrl": ...}]} with the model's name and folder."""
    models = subject.of(MultiModel)
    name = models.loaded()
    answer = models.ask("GET", "/models")
    found = answer.json() if answer.is_ok else None
    listed = found.get("models") if isinstance(found, dict) else None
    expect(isinstance(listed, list), f'{answer.told()}; expected {{"models": [...]}}')
    entry = {"modelName": name, "modelUrl": subject.wishes.models[0]}
    shown = [{key: each.get(key) for key in entry} for each in listed or () if isinstance(each, dict)]
    expect(entry in shown, f"{answer.told()}; expected {json.dumps(entry)} in it")


@rule("multi-model.describes", "GET /models/NAME tells of one model, 404 of one that is not loaded", Level.MUST,
      sources.MULTI_MODEL)  # fmt: skip
def describes(subject: Subject) -> None:
    """One GET of each."""
    models = subject.of(MultiModel)
    answer = models.ask("GET", f"/models/{models.loaded()}")
    expect(answer.is_ok, answer.told())
    unknown = models.ask("GET", f"/models/{UNKNOWN}")
    expect(unknown.status == 404, f"{unknown.told()}; expected 404")


@rule("multi-model.invokes", "POST /models/NAME/invoke answers, and 404 for one that is not loaded", Level.MUST,
      sources.MULTI_MODEL)  # fmt: skip
def invokes(subject: Subject) -> None:
    """The body given, or the first usual one that is taken; then the same for an unknown name."""
    models = subject.of(MultiModel)
    answer = models.invoke(models.loaded())
    expect(answer.is_ok, answer.told())
    unknown = models.invoke(UNKNOWN)
    expect(unknown.status == 404, f"{unknown.told()}; expected 404")


@rule("multi-model.survives-bad-models", "a model that cannot be loaded is refused, and /ping stays 200", Level.MUST,
      sources.convention("one bad model must not have the instance replaced, and all others with it"))  # fmt: skip
def survives_bad_models(subject: Subject) -> None:
    """POST /models with the path of nothing: no 200, and /ping is 200 after it."""
    models = subject.of(MultiModel)
    models.expected()
    answer = models.load(UNKNOWN, "/no/such/folder-1b9f")
    expect(answer.status >= 400, f"{answer.told()}; expected a refusal")
    ping = models.ask("GET", "/ping", limit_s=PING_S)
    expect(ping.is_ok, ping.told())


@rule("multi-model.unloads", "DELETE /models/NAME unloads a model", Level.MUST, sources.MULTI_MODEL)
def unloads(subject: Subject) -> None:
    """It is answered with 200; GET of the model and a request to it are 404 after that, and so is a second DELETE."""
    models = subject.of(MultiModel)
    path = f"/models/{models.loaded()}"
    answer = models.ask("DELETE", path)
    expect(answer.is_ok, answer.told())
    for after in (models.ask("GET", path), models.invoke(NAMES[0]), models.ask("DELETE", path)):
        expect(after.status == 404, f"after DELETE, {after.told()}; expected 404")
