# SPDX-License-Identifier: Apache-2.0
"""What a plugin implements, held against the hook specifications."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pluggy

from lmi.api import hookspecs
from lmi.config.names import did_you_mean

TRACE = "LMI_TRACE_HOOKS"
"""The variable that makes every hook call a line on stderr."""

CHAINED = ("lmi_filter_request", "lmi_filter_text", "lmi_register_commands")
"""Hooks whose implementations are called one after the other, each by itself; pluggy's wrappers have no place there."""

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class BadPluginError(Exception):
    """A plugin that was imported but does not keep the contract; ``code`` says which part of it."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        super().__init__(reason)


def new_pluggy(environ: Mapping[str, str] | None = None) -> pluggy.PluginManager:
    """A fresh registry that knows LMI's hook specifications and nothing else.

    Args:
        environ: with LMI_TRACE_HOOKS=1 in it, each hook call is printed to stderr.
    """
    registry = pluggy.PluginManager(hookspecs.PROJECT)
    registry.add_hookspecs(hookspecs)
    if is_traced(environ or {}):
        registry.add_hookcall_monitoring(lambda hook, called, _: trace(hook, called), lambda *_: None)
    return registry


def is_traced(environ: Mapping[str, str]) -> bool:
    """Whether each hook call is to be printed."""
    return environ.get(TRACE, "") not in ("", "0")


def trace(hook: str, called: Sequence[pluggy.HookImpl]) -> None:
    """Print a hook call: names only, since arguments hold prompts.

    Args:
        hook: its name.
        called: implementations, the last called first, as pluggy keeps them.
    """
    names = ", ".join(each.plugin_name for each in reversed(called)) or "nobody"
    print(f"hook {hook}: {names}", file=sys.stderr, flush=True)


def hook_names() -> list[str]:
    """Every hook there is, in alphabetical order."""
    return sorted(name for name in vars(hookspecs) if name.startswith(f"{hookspecs.PROJECT}_"))


def check_hooks(registry: pluggy.PluginManager, plugin: Any, name: str) -> None:
    """Register a plugin and make sure that every hook it implements exists, with the parameters that exist.

    Args:
        registry: from ``new_pluggy``.
        plugin: a module or an object with hooks.
        name: under which it is registered.
    Raises:
        BadPluginError: with everything that is wrong: a hook or parameter that does not exist, a parameter that would
            never get a value, a hook without its mark.
    """
    faults = [*_faults(registry, plugin)]
    if faults:
        raise BadPluginError("plugin.bad-hooks", f"its hooks do not fit: {'; '.join(faults)}")
    try:
        registry.register(plugin, name)
        registry.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        # What only pluggy judges, a wrapper that does not yield for one.
        raise BadPluginError("plugin.bad-hooks", f"its hooks do not fit: {' '.join(str(error).split())}") from error


def _faults(registry: pluggy.PluginManager, plugin: Any) -> Iterator[str]:
    specified = hook_names()
    for attribute in dir(plugin):
        options = registry.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            if attribute in specified and inspect.isroutine(getattr(plugin, attribute)):
                yield f"{attribute} lacks its @hookimpl, so it would not be called"
            continue
        function = getattr(plugin, attribute)
        hook = options.get("specname") or attribute
        if hook in CHAINED and (options.get("wrapper") or options.get("hookwrapper")):
            yield f"{hook} ({_place(function)}) cannot be a wrapper: each implementation gets the previous one's result"
        elif hook in specified:
            yield from _wrong_parameters(hook, function)
        elif not options.get("optionalhook"):
            yield f"there is no hook '{hook}' ({_place(function)}). {did_you_mean(hook, specified)}".rstrip(". ")


def _wrong_parameters(hook: str, function: Callable[..., Any]) -> Iterator[str]:
    """pluggy fills plain parameters by their names and leaves out all others, without a word."""
    specified = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    where = f"{hook} ({_place(function)})"
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in _VARIABLE:
            yield f"{where} takes *{name}, which gets no value: name the parameters that it needs"
        elif name not in specified and name != "self":
            allowed = f"It has: {', '.join(specified)}" if specified else "It has none"
            yield f"{where} has no parameter '{name}'. {did_you_mean(name, specified, allowed)}"
        elif parameter.default is not inspect.Parameter.empty:
            yield f"{where} gives a default to '{name}', which then gets no value"
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            yield f"{where} takes '{name}' by keyword only, and then it gets no value"


def _place(function: Callable[..., Any]) -> str:
    """Module and line of a function, as people write it."""
    inner = inspect.unwrap(function)
    code = getattr(inner, "__code__", None)
    return f"{inner.__module__}:{code.co_firstlineno}" if code else inner.__module__
