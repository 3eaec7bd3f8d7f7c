# SPDX-License-Identifier: Apache-2.0
"""Rules of the plugin and its options, against backends that are broken in ways of their own; none hangs the kit."""

import os
import select
from pathlib import Path

import pytest

from lmi.testing.plugin_rules import undeclared_distributions
from tests.contract.shelf import keep, new_shelf
from tests.limits import limit_s


@pytest.fixture
def shelf(tmp_path):
    with new_shelf(tmp_path / "site") as found:
        yield found


# ------------------------------------------------------------------------------------------------- P3: the description


def described_by(line: str) -> str:
    return f"""
        import os, subprocess, time

        @hookimpl
        def lmi_describe_backend():
            {line}
            return INFO
    """


def test_a_description_that_does_nothing_is_fine(shelf):
    keep("P3", shelf.kit(described_by("pass")))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import sqlite3", "describing imports .*sqlite3"),
        ("subprocess.run(['true'])", r"starts processes: subprocess.Popen\('true'"),
        ("os.system('true')", "starts processes: os.system"),
        ("os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', ':'], {}), 0)", "starts processes: os.posix_spawn"),
        ("time.sleep(0.5)", r"\d descriptions took .* s; 100 may take"),
    ],
)
def test_what_a_description_does_is_seen_from_its_first_call_on(shelf, line, said):
    with pytest.raises(AssertionError, match=said):
        keep("P3", shelf.kit(described_by(line)))


# --------------------------------------------------------------------------------------------- P4: loading and its end

WITH_A_CHILD = """
    import subprocess, sys

    class Driver(FakeEngine):
        def __init__(self, artifacts, config):
            super().__init__(artifacts, config)
            # Its errors go where this process's go, as those of most engines do.
            self.child = subprocess.Popen([sys.executable, "CHILD"], stdout=subprocess.PIPE)
            assert self.child.stdout.readline() == b"up\\n"

        async def close(self):
            CLOSE

    @hookimpl
    def lmi_load_engine(artifacts, config, progress):
        return Driver(artifacts, config)
"""

CHILD = """
import threading

pipe = open("FIFO", "wb", buffering=0)
pipe.write(b"up")
print("up", flush=True)
threading.Event().wait()
"""


def driver(folder: Path, close: str) -> str:
    """An engine whose process lives until somebody ends it."""
    (folder / "child.py").write_text(CHILD.replace("FIFO", str(folder / "fifo")))
    return WITH_A_CHILD.replace("CHILD", str(folder / "child.py")).replace("CLOSE", close)


class Pipe:
    """A named pipe whose other end a child holds for as long as it lives."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        """Everything that was written until nobody held the other end any more."""
        parts = []
        while True:
            ready, _, _ = select.select([self._descriptor], [], [], limit_s(10))
            assert ready, "the child still runs"
            parts.append(os.read(self._descriptor, 100))
            if not parts[-1]:
                os.close(self._descriptor)
                return b"".join(parts)


def test_an_engine_that_drives_a_process_is_closed_and_keeps_the_rule(shelf, tmp_path):
    pipe, note = Pipe(tmp_path / "fifo"), tmp_path / "closed"
    close = f"self.child.kill(); open({str(note)!r}, 'w').write(str(self.child.wait()))"
    keep("P4", shelf.kit(driver(tmp_path, close)))
    assert note.read_text() == "-9"
    assert pipe.read() == b"up"


def test_a_process_that_an_engine_leaves_running_is_ended(shelf, tmp_path):
    pipe = Pipe(tmp_path / "fifo")
    keep("P4", shelf.kit(driver(tmp_path, "pass")))
    assert pipe.read() == b"up"


def loaded_by(line: str) -> str:
    return f"""
        import os, threading

        @hookimpl
        def lmi_load_engine(artifacts, config, progress):
            {line}
            return FakeEngine(artifacts, config)
    """


def test_a_load_that_hangs_is_ended_and_told_in_a_sentence(shelf):
    kit = shelf.kit(loaded_by("print('I wait', flush=True); threading.Event().wait()"), load_s=3)
    with pytest.raises(AssertionError, match=r"Loading did not end within .* s in a fresh process, which was killed"):
        keep("P4", kit)


def test_a_load_that_ends_the_process_is_told_with_its_code_and_what_it_printed(shelf):
    kit = shelf.kit(loaded_by("print('no licence'); os._exit(7)"))
    with pytest.raises(AssertionError, match=r"Loading failed .* ended with code 7(?s:.*)no licence"):
        keep("P4", kit)


def test_a_load_that_ends_the_process_in_order_gave_no_answer(shelf):
    with pytest.raises(AssertionError, match="Loading failed in a fresh process, which ended with code 0"):
        keep("P4", shelf.kit(loaded_by("os._exit(0)")))


def test_an_engine_that_cannot_be_closed_is_told(shelf):
    code = """
        class Stuck(FakeEngine):
            async def close(self):
                raise OSError("the door is stuck")

        @hookimpl
        def lmi_load_engine(artifacts, config, progress):
            return Stuck(artifacts, config)
    """
    with pytest.raises(AssertionError, match="could not be closed: it raised OSError: the door is stuck"):
        keep("P4", shelf.kit(code))


def test_a_library_that_nobody_declares_is_named(shelf):
    shelf.library("stranger", modules="a_stranger")
    with pytest.raises(AssertionError, match="loading uses stranger: declare them as engine_libraries"):
        keep("P4", shelf.kit(loaded_by("import a_stranger")))


def test_a_library_that_the_interpreter_itself_imports_is_no_business_of_the_plugin(shelf):
    shelf.library("stranger", modules="a_stranger")
    (shelf.folder / "sitecustomize.py").write_text("import a_stranger\n")
    keep("P4", shelf.kit(loaded_by("import a_stranger")))


def test_requirements_count_with_the_extras_they_ask_for(shelf):
    shelf.library("plugin", requires=("web[fast]>=1", "alone", 'never; python_version < "3"'))
    shelf.library("web", modules="web", requires=('speed; extra == "fast"', 'colour; extra == "nice"', "Deep.Name[x]"))
    shelf.library("deep_name", modules="deep", requires=('deeper; extra == "x"',))
    for name in ("speed", "colour", "alone", "never", "deeper"):
        shelf.library(name, modules=name)
    used = ["web", "speed", "colour", "alone", "never", "deep", "deeper"]
    assert undeclared_distributions(used, "plugin") == ["colour", "never"]


def test_one_declared_owner_of_a_namespace_is_enough(shelf):
    shelf.library("plugin", requires=("zz-cloud",))
    shelf.library("aa-cloud", modules="cloud empty")
    shelf.library("zz-cloud", modules="cloud")
    shelf.library("bb-cloud", modules="empty")
    assert undeclared_distributions(["cloud", "empty", "os"], "plugin") == ["aa-cloud or bb-cloud"]


# ----------------------------------------------------------------------------------------------- C3: options in words


def options_with(check: str) -> str:
    return f"""
        from pydantic import field_validator, model_validator

        class OddConfig(BackendConfig):
            dtype: Literal["fp32", "fp16"] = option("fp32", description="Type of the weights.", aliases=("data_type",))
            quantize: Literal["none", "awq"] = option("none", description="How weights are packed.")

{check}

        @hookimpl
        def lmi_config_type():
            return OddConfig
    """


AWQ_NEEDS_FP16 = """
            @model_validator(mode="after")
            def _fits(self):
                if self.quantize == "awq" and self.dtype != "fp16":
                    raise ValueError(f"awq needs fp16, dtype is {self.dtype}")
                return self
"""
NO_TEXT = """
            is_fast: bool = option(False, description="Work faster than usual.")

            @field_validator("is_fast", mode="before")
            @classmethod
            def _read(cls, value):
                if isinstance(value, str):
                    raise ValueError("a switch is no text")
                return value
"""


def test_an_option_that_another_one_rules_out_is_refused_alike(shelf):
    keep("C3", shelf.kit(options_with(AWQ_NEEDS_FP16)))


def test_an_option_that_only_text_cannot_set_is_told(shelf):
    said = r"is_fast=false on the command line is refused \(.*a switch is no text.*\), the typed value is False"
    with pytest.raises(AssertionError, match=said):
        keep("C3", shelf.kit(options_with(NO_TEXT)))


@pytest.mark.parametrize("key", ["dtype", "option.dtype", "data_type"])
def test_a_variable_is_read_although_the_case_sets_the_option(shelf, key):
    keep("C3", shelf.kit(options_with(""), settings={key: "fp16"}))
