# SPDX-License-Identifier: Apache-2.0
"""Settings: every value with where it came from and what it overrode."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmi.api import ConfigError, Problem, Severity
from lmi.api.errors import counted
from lmi.config import names
from lmi.config.coerce import is_true
from lmi.config.properties import FILE_NAME, PropertiesFile, read_properties

FILE_MARK = "@/"
"""A value that begins so is the absolute path of a file that holds the value."""

_OPEN_WORDS = "your|my|model|bucket|path|url|uri|id|name|value|number|dir|folder|region"
_LEFT_OPEN = rf"<(?=[^<>]* |(?:[^<>]*[^A-Za-z<>])?(?:{_OPEN_WORDS})[^A-Za-z])[A-Za-z][^<>]*>"
"""``<your model>``, ``<model_id>``; not ``<eos>`` or ``<end_of_turn>``, which are tokens of text."""

_PLACEHOLDER = re.compile(
    rf"\{{\{{[^{{}}%\n]*\}}\}}|{_LEFT_OPEN}|\$\{{?[A-Za-z_][A-Za-z0-9_]*\}}?|\*{{3}}", re.IGNORECASE
)
"""What templates and documents leave for the user to fill in: ``{{s3url}}``, ``<your model>``, ``${MODEL_ID}``; and
the stars that stand for a secret in what LMI prints."""

_URL_WITH_PLACEHOLDER = re.compile(r"[a-z0-9]+://\S*(\{\{[^{}%]*\}\}|<[A-Za-z][^<>]*>|\$\{[^{}]*\})\S*", re.IGNORECASE)

_ALMOST_OPTION = re.compile(r"OPTIONS_|OPTIONS?[.-]|OPTON_|OPTOIN_")
"""Beginnings of variables that were meant to be OPTION_."""

_RELATIVE_FILE = re.compile(r"@[^\s/@][^\s@]*\.[A-Za-z0-9]{1,8}")
"""A value that looks like a file's, whose path is not absolute."""

_LARGEST_VALUE_BYTES = 1 << 20
_FALSE = ("false", "0", "no", "off", "f", "n")


@dataclass(frozen=True, repr=False)
class Setting:
    """One value as text.

    Args:
        key: canonical name, ``option.dtype`` or ``job_queue_size``.
        value: the text, without surrounding blanks.
        source: where it stands: ``serving.properties:4``, ``OPTION_DTYPE``, ``command line -o dtype``.
        overrode: settings of the same key that this one beat, highest first.
        written: the key as the user wrote it; empty where it is the canonical name.
        is_foreign: a variable made for another server; an option that the backend lacks is then no mistake.
    """

    key: str
    value: str
    source: str
    overrode: tuple[Setting, ...] = ()
    written: str = ""
    is_foreign: bool = False

    @property
    def shown(self) -> str:
        """The value as it may be printed; secrets are masked."""
        return names.shown(self.key, self.value)

    def __repr__(self) -> str:
        beaten = f", overrode={self.overrode!r}" if self.overrode else ""
        return f"Setting({self.key}={self.shown} from {self.source}{beaten})"


class Settings(Mapping[str, Setting]):
    """All settings of one model by canonical name, and what was wrong or doubtful while reading them."""

    def __init__(self, settings: Iterable[Setting] = (), problems: Iterable[Problem] = ()) -> None:
        """Args:
        settings: lowest layer first; a later setting of the same key beats an earlier one.
        """
        self._by_key: dict[str, Setting] = {}
        for setting in settings:
            beaten = self._by_key.get(setting.key)
            overrode = (replace(beaten, overrode=()), *beaten.overrode) if beaten else ()
            self._by_key[setting.key] = replace(setting, overrode=overrode)
        self.problems = tuple(problems)

    def __getitem__(self, key: str) -> Setting:
        return self._by_key[names.canonical(key)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    def replaced(self, setting: Setting) -> Settings:
        """The same settings with another one for its key."""
        others = [each for each in self._by_key.values() if each.key != setting.key]
        settings = Settings((), self.problems)
        settings._by_key = {each.key: each for each in [*others, setting]}
        return settings

    def with_problems(self, further: Iterable[Problem]) -> Settings:
        """The same settings with more that is wrong or doubtful."""
        settings = Settings((), (*self.problems, *further))
        settings._by_key = dict(self._by_key)
        return settings

    def without(self, keys: Collection[str]) -> Settings:
        """The same settings but for some canonical keys."""
        settings = Settings((), self.problems)
        settings._by_key = {key: each for key, each in self._by_key.items() if key not in keys}
        return settings

    def text(self, key: str) -> str | None:
        """The value of a key, or None where nothing sets it."""
        setting = self.get(key)
        return setting.value if setting else None

    def __repr__(self) -> str:
        return f"Settings({list(self._by_key.values())!r})"


def read_settings(
    *,
    model_folder: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    model: Setting | None = None,
    file: PropertiesFile | None = None,
    defaults: Sequence[Setting] = (),
    entry: Sequence[Setting] = (),
) -> Settings:
    """Read every layer; what is wrong with a line is kept in ``problems`` and reported with everything else.

    Layers, highest first: the command line, variables of SageMaker's model servers, serving.properties, ``OPTION_*``,
    what ``load_models`` says of the model, ``SERVING_*`` (plain keys only), variables of other servers, defaults of
    all models. Empty variables count as unset.

    Args:
        model_folder: folder that may hold serving.properties.
        environ: environment variables.
        flags: keys and values of ``-o key=value``.
        model: a model id given on the command line, which beats every other ``option.model_id``.
        file: the serving.properties, where it was read from elsewhere than ``model_folder``.
        defaults: the lowest layer: plain keys of config.properties.
        entry: what the model's entry in ``load_models`` sets.
    """
    file_settings, problems = _from_file(model_folder, file)
    layers = [*defaults, *_from_foreign_variables(environ), *_from_variables(environ, "SERVING_"), *entry]
    layers += [*_from_variables(environ, "OPTION_"), *file_settings, *_from_overriding_variables(environ)]
    layers += [_flag(key, value, f"command line -o {key}") for key, value in flags.items()]
    layers += [] if model is None else [model]
    problems += [*_two_models(layers), *_doubtful_variables(environ)]
    holding = {setting.key: index for index, setting in enumerate(layers)}
    for index in sorted(holding.values()):  # what a higher layer overrode is not looked at
        layers[index], problem = _filled(layers[index])
        problems += [problem] if problem is not None else []
    return Settings(layers, problems)


def parse_flags(texts: Iterable[str]) -> dict[str, str]:
    """Split the ``key=value`` texts of ``-o``; the last one of a key holds.

    Raises:
        ConfigError: with every text that has no key or no ``=``.
    """
    flags: dict[str, str] = {}
    problems = []
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            problems.append(
                Problem(
                    code="config.bad-flag",
                    message=f"-o {names.shown('', text)!r} is not KEY=VALUE",
                    hint="Write it like -o dtype=bf16",
                    source="command line",
                )
            )
        flags[key.strip()] = value.strip()
    if problems:
        raise ConfigError(
            "config.invalid", f"{counted(len(problems), 'problem')} on the command line; nothing was loaded", problems
        )
    return flags


def _flag(key: str, value: str, source: str) -> Setting:
    return Setting(names.canonical(key.strip()), value.strip(), source, written=key.strip())


def _from_file(model_folder: Path | None, content: PropertiesFile | None) -> tuple[list[Setting], list[Problem]]:
    if content is None:
        if model_folder is None or not os.path.lexists(model_folder / FILE_NAME):
            return [], []
        content = read_properties(model_folder / FILE_NAME)
    problems = list(content.problems)
    first_lines: dict[str, str] = {}
    settings = []
    for line in content.lines:
        if not line.value:  # unset, as an empty variable is
            continue
        setting = Setting(names.canonical(line.key), line.value, line.source, written=line.key)
        if setting.key in first_lines:
            problems.append(_set_twice(setting, first_lines[setting.key]))
        first_lines[setting.key] = line.source
        settings.append(setting)
    return settings, problems


def _set_twice(setting: Setting, earlier_source: str) -> Problem:
    return Problem(
        code="config.set-twice",
        message=f"'{setting.key}' is set twice; {setting.shown!r} holds, the line {earlier_source} does not",
        hint="Keep one of the two lines",
        source=setting.source,
        severity=Severity.WARNING,
    )


def _from_variables(environ: Mapping[str, str], prefix: str) -> Iterator[Setting]:
    """Of SERVING_* only plain keys are settings of a model."""
    for variable in sorted(environ):
        value = environ[variable].strip()
        if not variable.startswith(prefix) or variable == prefix or not value:
            continue
        key = names.from_variable(variable.removeprefix(prefix))
        if prefix == "OPTION_" or key in names.PLAIN_KEYS:
            yield Setting(key, value, variable, written=variable)


def _from_foreign_variables(environ: Mapping[str, str]) -> Iterator[Setting]:
    keys = {variable: (key,) for variable, key in (names.FOREIGN_VARIABLES | names.INVERSE_VARIABLES).items()}
    for variable, meant in (keys | names.VARIABLES_OF_SEVERAL_KEYS).items():
        value = environ.get(variable, "").strip()
        if value and variable in names.INVERSE_VARIABLES:
            value = _opposite(value)
        for key in meant if value else ():
            yield Setting(key, value, variable, written=variable, is_foreign=True)


def _opposite(value: str) -> str:
    """The other value of a switch; what is no switch stays as it is, to be refused."""
    if is_true(value):
        return "false"
    return "true" if value.lower() in _FALSE else value


def _from_overriding_variables(environ: Mapping[str, str]) -> Iterator[Setting]:
    for variable, keys in names.OVERRIDING_VARIABLES.items():
        value = environ.get(variable, "").strip()
        for key in keys if value else ():
            yield Setting(key, value, variable, written=variable)


def _doubtful_variables(environ: Mapping[str, str]) -> Iterator[Problem]:
    """Warnings for variables that have a successor, or are hardly anything but a known one misspelt."""
    for old, new in names.OLD_VARIABLES.items():
        if environ.get(old):
            yield _warning("config.deprecated", f"{old} is an old name of {new}", f"Set {new}", old)
    known = {*names.FOREIGN_VARIABLES, *names.INVERSE_VARIABLES, *names.OVERRIDING_VARIABLES}
    for variable in environ:
        is_ours = variable in known or variable in names.VARIABLES_OF_SEVERAL_KEYS
        if is_ours or variable.startswith(("OPTION_", "SERVING_", "LMI_")) or not environ[variable]:
            continue
        prefix = _ALMOST_OPTION.match(variable)
        near = f"OPTION_{variable[prefix.end() :]}" if prefix else names.nearly(variable, known)
        if near:
            message = f"{variable} is set, and is no variable of LMI"
            yield _warning("config.unknown-variable", message, f"Did you mean {near}?", variable)


def _warning(code: str, message: str, hint: str, source: str) -> Problem:
    return Problem(code=code, message=message, hint=hint, source=source, severity=Severity.WARNING)


def _two_models(layers: Sequence[Setting]) -> list[Problem]:
    """A warning where a foreign variable names one model and LMI's own key another."""
    named = [layer for layer in layers if layer.key == "option.model_id"]
    if len(named) < 2 or not named[0].is_foreign or named[-1].value == named[0].value:
        return []
    return [
        Problem(
            code="config.overruled",
            message=f"{named[0].source}={named[0].value} is not served: {named[-1].source} names {named[-1].value}",
            hint=f"Remove {named[0].source}",
            source=named[0].source,
            severity=Severity.WARNING,
        )
    ]


def _small_text(path: Path) -> str:
    """The text of a file; a pipe or a device would never end.

    Raises:
        OSError, ValueError: it cannot be read, or is no text.
    """
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    if path.stat().st_size > _LARGEST_VALUE_BYTES:
        raise ValueError(f"it has {path.stat().st_size} bytes, the most is {_LARGEST_VALUE_BYTES}")
    return path.read_text("utf-8").strip()


def is_placeholder(value: str) -> bool:
    """Whether nobody has filled a value in."""
    return any(form.fullmatch(value) for form in (_PLACEHOLDER, _URL_WITH_PLACEHOLDER))


def _filled(setting: Setting) -> tuple[Setting, Problem | None]:
    """A value that names a file (``@/path``) with what the file holds, and what is wrong with a value of any key."""
    if setting.value.startswith(FILE_MARK):
        path = Path(setting.value[1:])
        try:
            text = _small_text(path)
        except (OSError, ValueError) as error:  # not text, or no path that could be
            problem = Problem(
                code="config.unreadable",
                message=f"'{setting.key}' is to be read from {path}: {error}",
                hint="Give the absolute path of a text file, or the value itself",
                source=setting.source,
            )
            return setting, problem
        return replace(setting, value=text, source=f"{setting.source} ({path})"), None
    if _RELATIVE_FILE.fullmatch(setting.value):
        problem = Problem(
            code="config.unreadable",
            message=f"'{setting.key}' is {setting.shown!r}; a file that holds a value is named by its absolute path",
            hint=f"Write it like {FILE_MARK}opt/template.jinja",
            source=setting.source,
        )
        return setting, problem
    if is_placeholder(setting.value):
        is_variable = "$" in setting.value
        problem = Problem(
            code="config.placeholder",
            message=f"'{setting.key}' is {setting.shown!r}, which nobody has filled in",
            hint="Put the value there: variables are not looked up"
            if is_variable
            else "Put the value there, or take the line out",
            source=setting.source,
        )
        return setting, problem
    return setting, None
