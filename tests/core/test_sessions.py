# SPDX-License-Identifier: Apache-2.0
import pytest

from lmi.api.errors import NotFoundError, OutOfMemoryError
from lmi.config.options import ModelOptions
from lmi.serving.sessions import Sessions


def made(**options):
    return Sessions(ModelOptions(sessions_memory_mb=1, **options))


def message(n_bytes):
    return [{"role": "user", "content": "x" * n_bytes}]


def test_what_there_is_no_room_to_keep_is_refused():
    sessions = made()
    session = sessions.open()
    sessions.refuse_full(message(900_000))
    sessions.keep(session, message(900_000))
    with pytest.raises(OutOfMemoryError, match=r"option\.sessions_memory_mb=1"):
        sessions.refuse_full(message(200_000))
    sessions.close(session.id)
    sessions.refuse_full(message(900_000))


def test_sessions_that_keep_nothing_are_not_without_end():
    sessions = made()
    with pytest.raises(OutOfMemoryError):
        for _ in range(2000):
            sessions.open()
    assert 900 < len(sessions) < 1000


def test_those_that_have_ended_make_room(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("lmi.serving.sessions.time.time", lambda: now[0])
    sessions = made(sessions_expiration=60)
    sessions.keep(sessions.open(), message(990_000))
    now[0] += 61
    young = sessions.open()
    sessions.refuse_full(message(900_000))
    assert (len(sessions), sessions.use(young.id)) == (1, young)


def test_a_session_that_is_used_lasts_longer(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("lmi.serving.sessions.time.time", lambda: now[0])
    sessions = made(sessions_expiration=60)
    session = sessions.open()
    for _ in range(3):
        now[0] += 59
        sessions.use(session.id)
    now[0] += 61
    with pytest.raises(NotFoundError, match=r"session\.unknown"):
        sessions.use(session.id)


def test_one_that_was_closed_while_it_was_answered_keeps_nothing():
    sessions = made()
    session = sessions.open()
    sessions.close(session.id)
    sessions.keep(session, message(10))
    assert (len(sessions), session.messages) == (0, [])
