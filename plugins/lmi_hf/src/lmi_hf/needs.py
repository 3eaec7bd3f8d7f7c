# SPDX-License-Identifier: Apache-2.0
"""Python packages that some models need beside the engine, and whether they are there."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import Problem
from lmi_hf import library

_OF_METHODS = {
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
    "aqlm": ("aqlm",),
    "hqq": ("hqq",),
}
"""What transformers needs to load a compressed checkpoint, by quantization_config.quant_method: all of the modules."""

_EXTRAS = {"gptq": "gptq", "awq": "gptq"}
"""Method -> extra of lmi-hf that has them."""


def check_method(method: str, *fields: str) -> Iterator[Problem]:
    """A problem where a package that reads compressed weights is missing.

    Args:
        method: as ``quant_method`` has it; empty for none.
        fields: options it is about.
    """
    absent = [module for module in _OF_METHODS.get(method, ()) if not library.is_installed(module)]
    if absent and library.knows_engine():
        wanted = f"'lmi-hf[{_EXTRAS[method]}]'" if method in _EXTRAS else " ".join(absent)
        yield _missing(f"quantization {method}", absent, wanted, *fields)


def check_peft(what: str, *fields: str) -> Iterator[Problem]:
    """The same for what reads adapters.

    Args:
        what: needs it.
        fields: options it is about.
    """
    if library.knows_engine() and not library.is_installed("peft"):
        yield _missing(what, ["peft"], "'lmi-hf[peft]'", *fields)


def _missing(what: str, modules: list[str], wanted: str, *fields: str) -> Problem:
    counted = f"package {modules[0]}, which is" if len(modules) == 1 else f"packages {' and '.join(modules)}, which are"
    return Problem(
        code="engine.library-missing",
        message=f"{what} needs the Python {counted} not installed",
        hint=f"pip install {wanted}",
        fields=fields,
    )
