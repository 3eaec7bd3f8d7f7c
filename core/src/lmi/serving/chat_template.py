# SPDX-License-Identifier: Apache-2.0
"""From the messages of a chat to a prompt, by the model's own template; without transformers.

The prompt is encoded with ``adds_special=False``: a template writes the special tokens itself, and the tokenizer must
not add them once more.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lmi.api.artifacts import ModelArtifacts
from lmi.api.errors import RequestError
from lmi.serving.chat_checks import why_broken
from lmi.serving.chat_environment import BrokenTemplateError, CompiledTemplate, RaisedError, compiled, line_of
from lmi.serving.chat_files import DEFAULT, OPTION, TOOL_USE, ChatFiles, find_chat_files
from lmi.serving.chat_messages import given_messages, given_objects
from lmi.serving.chat_wants import ContentForm

ContentFormat = Literal["auto", "string", "openai"]

_FORMS = {"string": ContentForm.TEXT, "openai": ContentForm.PARTS}
_CONTINUES = "LMI_CONTINUES_HERE "
"""Marks the end of the message that is continued; the blank at its end shows whether the template trims texts."""

_MAX_SHOWN_CHARS = 500


class ChatTemplate:
    """The chat template of one model, or what is to be said where it has none.

    Args:
        files: what was found in the model's files and options.
        content_format: how contents are handed on; ``auto`` asks the template.
    """

    def __init__(self, files: ChatFiles, content_format: ContentFormat = "auto") -> None:
        self._tokens = dict(files.tokens)
        self._sources = dict(files.templates)
        self._failures = [problem.message for problem in files.problems]
        self._compiled: dict[str, CompiledTemplate] = {}
        for name, source in self._sources.items():
            try:
                self._compiled[name] = _with_form(compiled(source.text), content_format)
            except BrokenTemplateError as error:
                self._failures.append(why_broken(name, source, error))

    @property
    def text(self) -> str:
        """The text of the template that most chats get; empty where there is none."""
        source = self._sources.get(DEFAULT)
        return source.text if source is not None else ""

    def render(
        self,
        messages: Any,
        tools: Any = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        documents: Any = None,
        **template_kwargs: Any,
    ) -> str:
        """The prompt for a chat.

        Args:
            messages: objects with role and content, as OpenAI's API has them.
            tools: what the model may call, in OpenAI's form; with some, the template ``tool_use`` is taken if there is
                one.
            add_generation_prompt: end with the beginning of the answer.
            continue_final_message: end inside the last message, so that the model goes on with it; there is no
                beginning of an answer then.
            documents: what the model may quote, for templates that take it.
            template_kwargs: further names for the template, such as ``enable_thinking``; from a request, through
                ``given_kwargs``.
        Raises:
            UnsupportedError: a message holds what is no text.
            RequestError: the messages are wrong, the template refuses them, or there is none.
        """
        given_tools = given_objects("tools", tools)
        template = self._chosen(has_tools=given_tools is not None)
        values = {
            **self._tokens,
            **template_kwargs,
            "messages": given_messages(messages, template.wants),
            "tools": given_tools,
            "documents": given_objects("documents", documents),
            "add_generation_prompt": add_generation_prompt and not continue_final_message,
        }
        if continue_final_message:
            return _continued(template, values)
        return _rendered(template, values)

    def _chosen(self, *, has_tools: bool) -> CompiledTemplate:
        name = TOOL_USE if has_tools and TOOL_USE in self._sources else DEFAULT
        template = self._compiled.get(name)
        if template is not None:
            return template
        message = "this model has no chat template"
        if self._failures:
            message += f" that can be used: {'; '.join(self._failures)}"
        elif self._sources:
            message += f" called {DEFAULT}, only {', '.join(sorted(self._sources))}"
        hint = f"Send a prompt instead of messages, or set {OPTION} to a template or the path of one"
        raise RequestError("request.no-chat-template", message, hint)


def load_chat_template(
    artifacts: ModelArtifacts,
    option: str | None = None,
    content_format: ContentFormat = "auto",
    folder: Path | None = None,
) -> ChatTemplate:
    """The chat template of a model that is on this machine.

    Args:
        artifacts: the model's files.
        option: ``option.chat_template``.
        content_format: ``option.chat_template_content_format``.
        folder: the one with the model's configuration, None where there is none.
    """
    return ChatTemplate(find_chat_files(option, artifacts, None, folder), content_format)


def _with_form(template: CompiledTemplate, content_format: ContentFormat) -> CompiledTemplate:
    form = _FORMS.get(content_format, template.wants.content)
    return replace(template, wants=replace(template.wants, content=form))


def _rendered(template: CompiledTemplate, values: dict[str, Any]) -> str:
    try:
        return template.render(values)
    except RaisedError as error:
        message = f"the chat template refuses these messages: {_shortened(error)}"
        raise RequestError("request.chat-template", message, "Send messages as this model takes them") from error
    except Exception as error:  # a template can fail in every way that Python code can
        line = line_of(error)
        where = f" in its line {line}" if line else ""
        message = f"the chat template cannot render these messages{where}: {type(error).__name__}: {_shortened(error)}"
        hint = f"Send messages as this model takes them, or set {OPTION} to a template that takes these"
        raise RequestError("request.chat-template", message, hint) from error


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def _continued(template: CompiledTemplate, values: dict[str, Any]) -> str:
    """The prompt up to the end of the last message, found by a mark that is put there.

    Source: transformers, continue_final_message.
    """
    last = values["messages"][-1]  # made for this rendering
    content = last.get("content")
    text = content[-1]["text"] if isinstance(content, list) and content else content
    if not isinstance(text, str):
        message = "continue_final_message is set and the last message has no text to go on with"
        raise RequestError("request.invalid", message, "End with a message that has one, or unset it")
    if isinstance(content, list):
        last["content"] = [*content[:-1], {**content[-1], "text": text + _CONTINUES}]
    else:
        last["content"] = text + _CONTINUES
    prompt = _rendered(template, values)
    at = prompt.rfind(_CONTINUES.strip())
    if at < 0 or text.strip() not in prompt:
        message = "continue_final_message is set and the chat template does not write the last message as it is"
        raise RequestError("request.chat-template", message, "Unset continue_final_message")
    is_trimmed = not prompt.startswith(_CONTINUES, at)
    return prompt[:at].rstrip() if is_trimmed else prompt[:at]
