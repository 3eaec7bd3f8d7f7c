# SPDX-License-Identifier: Apache-2.0
"""What is said at once, before a worker starts: too little memory, a backend that cannot load models yet."""

import pytest

from lmi.api import Accelerator, ConfigError, EngineLoadError, Target
from lmi.memory import too_little_memory
from lmi.plugins import Plugins, discovery
from lmi.reading import read_start
from lmi.starting import plan_all
from tests.core.distributions import Distributions
from tests.core.parsing import parsed

MB = 1024 * 1024


@pytest.mark.parametrize(
    ("text", "free_mb", "missing"),
    [
        ("", 1, []),
        ("required_memory_mb=1000", 1500, []),
        ("required_memory_mb=1000", 1499, ["required_memory_mb=1000 and reserved_memory_mb=500 ask for 1500 MB"]),
        ("required_memory_mb=1000 reserved_memory_mb=0", 1000, []),
        ("reserved_memory_mb=2000", 1999, ["ask for 2000 MB; the host has free 1999 MB"]),
        ("gpu.required_memory_mb=79500", 1, []),
        ("gpu.required_memory_mb=79501", 1, ["gpu.required_memory_mb=79501", "each GPU has 80000 MB"]),
    ],
)
def test_memory_that_is_asked_for_must_be_there(text, free_mb, missing):
    found = parsed(text)
    gpu = Target(accelerator=Accelerator.CUDA, device_memory_bytes=80_000 * MB)
    problems = too_little_memory(found.options, found.settings, gpu, free_mb * MB)
    assert len(problems) == bool(missing)
    assert all(words in problems[0].message for words in missing)
    unknown = Target(accelerator=Accelerator.CUDA)
    assert not text.startswith("gpu.") or too_little_memory(found.options, found.settings, unknown, MB) == []


def started(**flags):
    plugins = Plugins.discover({"LMI_EXTENSIONS": ""})
    return plan_all(read_start(None, flags={"rolling_batch": "echo", **flags}, environ={}), plugins, lambda *told: None)


def test_a_start_without_the_memory_fails_before_a_worker_does():
    assert len(started(required_memory_mb="1", reserved_memory_mb="0")) == 1
    with pytest.raises(ConfigError) as caught:
        started(required_memory_mb="999999999")
    assert [problem.code for problem in caught.value.problems] == ["memory.too-little"]


def test_a_start_with_a_backend_that_cannot_load_models_yet_fails_before_a_worker_does(tmp_path, monkeypatch):
    installed = Distributions(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(discovery, "entry_points", installed.entry_points)
    installed.backend("early", extra="needs_model=False, is_loadable=False")
    with pytest.raises(EngineLoadError, match=r"early .* cannot load models yet") as caught:
        started(rolling_batch="early")
    assert caught.value.code == "engine.not-implemented"
    installed.forget()
