# SPDX-License-Identifier: Apache-2.0
"""Where a model's chat template is, and the special tokens that it may write; jinja2 is not needed to find them.

Source: the order in which transformers looks, with chat_template.json, which it reads for processors, behind its own
chat_template.jinja.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmi.api.artifacts import ModelArtifacts
from lmi.api.errors import Problem, Severity
from lmi.artifacts.documents import NotReadable, parsed, text_of, why
from lmi.artifacts.formats import within
from lmi.artifacts.places.files import LocalFiles, ModelFiles

DEFAULT = "default"
TOOL_USE = "tool_use"
"""Names of templates: the one of every chat, and the one that takes its place where tools are given."""

OPTION = "option.chat_template"

_TEMPLATE = "chat_template.jinja"
_FURTHER_FOLDER = "additional_chat_templates"
_LEGACY = "chat_template.json"
_SETTINGS = "tokenizer_config.json"
_SPECIAL_TOKENS = "special_tokens_map.json"
_KEY = "chat_template"
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MAX_FILE_BYTES = 16 << 20
"""Largest file that is read: some tokenizers list thousands of tokens in their settings."""

_ONLY_IN_TEXTS = frozenset("{}\n")
"""A template has one of these, the path of one has none."""


@dataclass(frozen=True)
class TemplateSource:
    """The text of one chat template.

    Args:
        text: in Jinja's language.
        place: where it was found, for messages.
    """

    text: str
    place: str


@dataclass
class ChatFiles:
    """What a model's files and options say about chats.

    Args:
        templates: name -> template.
        tokens: special tokens as templates call them (``bos_token``) -> text.
        problems: why a template that is named or there cannot be had.
    """

    templates: dict[str, TemplateSource] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def find_chat_files(
    option: str | None, artifacts: ModelArtifacts, files: ModelFiles | None = None, folder: Path | None = None
) -> ChatFiles:
    """Look for the chat templates of a model; the first place that has one is the only one.

    Args:
        option: ``option.chat_template``: a template, or the path of a file with one.
        artifacts: the model's files.
        files: the same to be read; by default those of the folder.
        folder: the one with the model's configuration, where a relative path is looked for first.
    """
    if files is None and artifacts.folder and not artifacts.is_elsewhere:
        files = LocalFiles(artifacts.path)
    found = ChatFiles()
    reader = _Reader(artifacts, files, found.problems)
    found.tokens.update(_tokens(reader))
    if option:
        found.templates.update(_of_option(option, reader, folder))
    else:
        found.templates.update(_of_files(reader))
    return found


class _Reader:
    """Reads small files beside a model; what cannot be read becomes a problem and counts as absent."""

    def __init__(self, artifacts: ModelArtifacts, files: ModelFiles | None, problems: list[Problem]) -> None:
        self._artifacts, self._files, self.problems = artifacts, files, problems
        self.names = dict(files.sizes) if files is not None else {}

    def within(self, name: str) -> str:
        return within(self._artifacts.inner, name)

    def at(self, name: str) -> str:
        return self._files.at(name) if self._files is not None else name

    def text(self, name: str) -> str | None:
        """The text of a file, None where there is none."""
        if self._files is None or name not in self.names:
            return None
        try:
            return _decoded(self._files.read(name, 0, _MAX_FILE_BYTES + 1))
        except (OSError, NotReadable) as error:
            self.unusable(self.at(name), error)
            return None

    def json(self, name: str) -> Any:
        """The content of a json file; None where it cannot be read, which the checks of files tell."""
        if name in self._artifacts.documents:
            return self._artifacts.documents[name]
        if self._files is None or name not in self.names:
            return None
        try:
            return parsed(self._files.read(name, 0, _MAX_FILE_BYTES + 1))
        except (OSError, NotReadable):
            return None

    def unusable(self, place: str, error: Exception) -> None:
        reason, hint = why(error)
        what = reason if isinstance(error, NotReadable) else f"cannot be read: {reason}"
        message = f"the chat template {place} {what}"
        self.problems.append(_invalid(message, place, hint or "Get the file again"))


def _decoded(data: bytes) -> str:
    if len(data) > _MAX_FILE_BYTES:
        raise NotReadable(f"has more than {_MAX_FILE_BYTES} bytes")
    return text_of(data)


def _invalid(message: str, place: str, hint: str) -> Problem:
    # A model answers prompts without a template, so one that cannot be used does not stop it.
    return Problem(code="chat.template-invalid", message=message, hint=hint, path=place, severity=Severity.WARNING)


# --------------------------------------------------------------------------------------------------------- templates


def _of_option(option: str, reader: _Reader, folder: Path | None) -> dict[str, TemplateSource]:
    if not _ONLY_IN_TEXTS.isdisjoint(option):
        return {DEFAULT: TemplateSource(option, OPTION)}
    path = Path(option)
    looked_at = [path] if path.is_absolute() else [folder / path] if folder is not None else []
    for each in looked_at:
        try:
            if each.is_file():
                with each.open("rb") as file:
                    return {DEFAULT: TemplateSource(_decoded(file.read(_MAX_FILE_BYTES + 1)), str(each))}
        except (OSError, ValueError) as error:
            reader.unusable(str(each), error)
            return {}
    places = [str(each) for each in looked_at]
    if not path.is_absolute():
        for name in dict.fromkeys((reader.within(posixpath.normpath(option)), posixpath.normpath(option))):
            text = reader.text(name)
            if text is not None:
                return {DEFAULT: TemplateSource(text, reader.at(name))}
            places.append(reader.at(name))
    message = f"'{OPTION}' is {option!r}, and there is no such file: {', '.join(dict.fromkeys(places))}"
    hint = "Give the path of a file in the model's folder, an absolute path, or the template itself"
    reader.problems.append(Problem(code="chat.template-missing", message=message, hint=hint))
    return {}


def _of_files(reader: _Reader) -> dict[str, TemplateSource]:
    own = {DEFAULT: reader.within(_TEMPLATE)}
    start = reader.within(f"{_FURTHER_FOLDER}/")
    for name in sorted(reader.names):
        last = name.removeprefix(start)
        if name.startswith(start) and last.endswith(".jinja") and "/" not in last:
            own[last.removesuffix(".jinja")] = name
    found = {}
    for key, name in own.items():
        text = reader.text(name)
        if text is not None:
            found[key] = TemplateSource(text, reader.at(name))
    if DEFAULT in found:
        return found
    for name in (_LEGACY, _SETTINGS):
        content = reader.json(reader.within(name))
        value = content.get(_KEY) if isinstance(content, dict) else None
        if value:
            return {**_named(value, reader.at(reader.within(name)), reader.problems), **found}
    return found


def _named(value: Any, place: str, problems: list[Problem]) -> dict[str, TemplateSource]:
    """Templates as json files have them: a text, a list of named ones, or a table of them."""
    if isinstance(value, str):
        value = {DEFAULT: value}
    elif isinstance(value, list):
        entries = [each if isinstance(each, dict) else {} for each in value]
        value = {each.get("name"): each.get("template") for each in entries}
    is_table = isinstance(value, dict)
    if not is_table or not all(isinstance(each, str) for item in value.items() for each in item):
        message = f"chat_template in {place} is neither a text nor a list of objects with name and template"
        problems.append(_invalid(message, place, "Get the file again"))
        return {}
    return {name: TemplateSource(text, place) for name, text in value.items()}


def _tokens(reader: _Reader) -> dict[str, str]:
    """The special tokens with a name, as transformers hands them to templates."""
    content = reader.json(reader.within(_SETTINGS))
    settings: Mapping[str, Any] = content if isinstance(content, dict) else {}
    if "added_tokens_decoder" not in settings:  # transformers reads the old file on the same condition
        older = reader.json(reader.within(_SPECIAL_TOKENS))
        settings = {**settings, **(older if isinstance(older, dict) else {})}
    further = settings.get("extra_special_tokens")
    entries = {**settings, **(further if isinstance(further, dict) else {})}
    found = {}
    for name, entry in entries.items():
        is_own = name in _NAMED_TOKENS or (isinstance(further, dict) and name in further)
        text = entry.get("content") if isinstance(entry, dict) and is_own else entry
        if isinstance(text, str) and (is_own or name.endswith("_token")):
            found[name] = text
    return found
