# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters, which the platform registers and asks for by name."""

from __future__ import annotations

import json
from functools import cached_property
from urllib.parse import quote, urlencode

from lmi.conformance import sources
from lmi.conformance.rules import Level, NotApplicable, Skipped, expect, rule
from lmi.conformance.subject import Subject
from lmi.conformance.talking import Answer

IDENTIFIER = "X-Amzn-SageMaker-Adapter-Identifier"
UNKNOWN = "no-such-adapter-1b9f"
_ROUTES = sources.convention("DJL Serving and AWS's model-hosting-container-standards have these routes")
_NO_ROUTE = (404, 405, 501)
_BASE_MODEL = sources.ours("an unknown adapter answered by the base model is a wrong answer that nobody notices")


class Adapters:
    """What rules about adapters share.

    Args:
        subject: the server.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    @cached_property
    def are_there(self) -> bool:
        """Whether there are routes for them."""
        if self._subject.wishes.adapter is not None:
            return True
        return self._subject.ask_json("POST", "/adapters", {}).status not in _NO_ROUTE

    def expected(self) -> None:
        """Raise NotApplicable unless there are routes for adapters."""
        if not self.are_there:
            raise NotApplicable("there is no POST /adapters, and no --adapter was given")

    @property
    def given(self) -> tuple[str, str]:
        """Name and source of an adapter that fits.

        Raises:
            Skipped: there is none.
        """
        self.expected()
        if self._subject.wishes.adapter is None:
            raise Skipped("it needs an adapter that fits the model: --adapter NAME=SOURCE")
        return self._subject.wishes.adapter

    @cached_property
    def registered(self) -> Answer:
        """The answer to its registration, by JSON."""
        name, source = self.given
        return self._subject.ask_json("POST", "/adapters", {"name": name, "src": source})

    def loaded(self) -> str:
        """The name of an adapter that was registered.

        Raises:
            Skipped: it could not be.
        """
        if not self.registered.is_ok:
            raise Skipped("the adapter could not be registered")
        return self.given[0]

    def delete(self) -> Answer:
        return self._subject.ask("DELETE", f"/adapters/{quote(self.given[0], safe='')}")

    def names(self) -> str | None:
        """What GET /adapters says; None where there is no such route."""
        answer = self._subject.ask("GET", "/adapters")
        if answer.status in _NO_ROUTE:
            return None
        expect(answer.is_ok, answer.told())
        return answer.text

    def asked(self, name: str) -> Answer:
        return self._subject.invoke(self._subject.body, {IDENTIFIER: name})


@rule("adapters.never-the-base-model", "a request for an unknown adapter is refused", Level.MUST, _BASE_MODEL)
def never_the_base_model(subject: Subject) -> None:
    """X-Amzn-SageMaker-Adapter-Identifier with a name that nobody registered: 4xx, never 200 or 5xx."""
    adapters = subject.of(Adapters)
    adapters.expected()
    answer = adapters.asked(UNKNOWN)
    expect(400 <= answer.status < 500, f"{answer.told()}; expected 404")


@rule("adapters.unknown-is-404", "it is refused with 404", Level.SHOULD, _ROUTES)
def unknown_is_404(subject: Subject) -> None:
    """The same request, to a server that has adapters (--adapter)."""
    adapters = subject.of(Adapters)
    _ = adapters.given
    answer = adapters.asked(UNKNOWN)
    expect(answer.status == 404, f"{answer.told()}; expected 404")


@rule("adapters.unknown-model-is-refused", "a request whose body names an unknown model is refused", Level.MUST,
      _BASE_MODEL)  # fmt: skip
def unknown_model_is_refused(subject: Subject) -> None:
    """\"model\" with a name that nobody has: 404 in OpenAI's schemas, any 4xx in others, never 200."""
    subject.of(Adapters).expected()
    answer = subject.invoke(subject.body.with_fields(model=UNKNOWN))
    if subject.body.is_openai:
        expect(answer.status == 404, f"{answer.told()}; expected 404")
    expect(400 <= answer.status < 500, f"{answer.told()}; expected 4xx")


@rule("adapters.refuses-bad-sources", "an adapter that is not there is refused", Level.MUST,
      sources.ours("a load that is confirmed and fails later is found by the callers"))  # fmt: skip
def refuses_bad_sources(subject: Subject) -> None:
    """POST /adapters with the path of nothing: 4xx, and it is not in GET /adapters where there is one."""
    adapters = subject.of(Adapters)
    adapters.expected()
    answer = subject.ask_json("POST", "/adapters", {"name": UNKNOWN, "src": "/no/such/folder-1b9f"})
    expect(400 <= answer.status < 500, f"{answer.told()}; expected 4xx")
    expect(UNKNOWN not in (adapters.names() or ""), "it is listed all the same")


@rule("adapters.registers", "an adapter is registered by JSON, and answers", Level.MUST, _ROUTES)
def registers(subject: Subject) -> None:
    """POST /adapters with name and src, then a request for it."""
    adapters = subject.of(Adapters)
    answer = adapters.registered
    expect(answer.is_ok, answer.told())
    used = adapters.asked(adapters.loaded())
    expect(used.is_ok, used.told())


@rule("adapters.refuses-duplicates", "a name that is taken is refused with 409", Level.SHOULD, _ROUTES)
def refuses_duplicates(subject: Subject) -> None:
    """The same registration once more."""
    adapters = subject.of(Adapters)
    name = adapters.loaded()
    answer = subject.ask_json("POST", "/adapters", {"name": name, "src": adapters.given[1]})
    expect(answer.status == 409, f"{answer.told()}; expected 409")


@rule("adapters.lists", "registered adapters are listed", Level.SHOULD, _ROUTES)
def lists(subject: Subject) -> None:
    """The name, as a text of JSON or a line of its own, is in GET /adapters."""
    adapters = subject.of(Adapters)
    name, listed = adapters.loaded(), adapters.names()
    if listed is None:
        raise NotApplicable("there is no GET /adapters")
    expect(json.dumps(name) in listed or name in listed.split(), f"GET /adapters does not name {name!r}")


@rule("adapters.forgets", "a deleted adapter is gone", Level.MUST, _BASE_MODEL)
def forgets(subject: Subject) -> None:
    """DELETE /adapters/NAME is 200; a request for it is refused after that, with 4xx."""
    adapters = subject.of(Adapters)
    name = adapters.loaded()
    answer = adapters.delete()
    expect(answer.is_ok, answer.told())
    after = adapters.asked(name)
    expect(400 <= after.status < 500, f"after DELETE, {after.told()}")


@rule("adapters.registers-by-query", "an adapter is registered by the query, too", Level.SHOULD, _ROUTES)
def registers_by_query(subject: Subject) -> None:
    """POST /adapters?name=...&src=..., without a body; it is deleted again."""
    adapters = subject.of(Adapters)
    name, source = adapters.given
    answer = subject.ask("POST", f"/adapters?{urlencode({'name': name, 'src': source})}")
    expect(answer.is_ok, answer.told())
    adapters.delete()
