# SPDX-License-Identifier: Apache-2.0
"""What a chat template wants of messages, read from its syntax tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from jinja2 import nodes

_MESSAGES = "messages"
_CONTENT = "content"
_LIST_FILTERS = frozenset({"selectattr", "rejectattr", "select", "reject", "list", "reverse", "map"})
"""Filters whose result is made of the same items."""


class ContentForm(str, Enum):
    """How a template takes the content of a message: as a text, as a list of parts, or as it was sent."""

    TEXT = "text"
    PARTS = "parts"
    EITHER = "either"


@dataclass(frozen=True)
class Wants:
    """What a template wants of messages.

    Args:
        content: how it takes contents.
        knows_developer: whether it speaks of the role ``developer``.
    """

    content: ContentForm
    knows_developer: bool


def wants_of(tree: nodes.Template) -> Wants:
    """Read what a template wants.

    A template that goes over a content's items takes lists of parts; one that asks whether it is a string, too, takes
    both. All others take texts.
    """
    names = _Names(tree)
    iterates = any(names.is_content(each) for each in _gone_over(tree))
    asks = any(each.name == "string" and names.is_content(each.node) for each in tree.find_all(nodes.Test))
    form = (ContentForm.EITHER if asks else ContentForm.PARTS) if iterates else ContentForm.TEXT
    return Wants(form, any(each.value == "developer" for each in tree.find_all(nodes.Const)))


def _gone_over(tree: nodes.Template) -> Iterator[nodes.Node | None]:
    for loop in tree.find_all(nodes.For):
        yield loop.iter
    for each in tree.find_all(nodes.Filter):
        if each.name in _LIST_FILTERS:
            yield each.node


class _Names:
    """The names under which a template has the list of messages, a message, and a content; scopes are not told apart.

    Args:
        tree: of the template.
    """

    def __init__(self, tree: nodes.Template) -> None:
        self._lists, self._messages, self._contents = {_MESSAGES}, set[str](), set[str]()
        self._macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        n_before = 0
        while n_before != (n_before := len(self._lists) + len(self._messages) + len(self._contents)):
            for loop in tree.find_all(nodes.For):
                if self._is_list(loop.iter):
                    self._messages |= {each.name for each in _targets(loop.target)}
            for given in tree.find_all(nodes.Assign):
                self._learn(_targets(given.target), given.node)
            for call in tree.find_all(nodes.Call):
                self._learn_from_call(call)

    def _learn(self, targets: list[nodes.Name], value: nodes.Node) -> None:
        names = {each.name for each in targets}
        if self._is_list(value):
            self._lists |= names
        elif self._is_message(value):
            self._messages |= names
        elif self.is_content(value):
            self._contents |= names

    def _learn_from_call(self, call: nodes.Call) -> None:
        """What a macro calls what it is given."""
        macro = self._macros.get(call.node.name) if isinstance(call.node, nodes.Name) else None
        if macro is None:
            return
        for target, value in zip(macro.args, call.args, strict=False):
            self._learn([target], value)
        by_name = {target.name: target for target in macro.args}
        for word in call.kwargs:
            if word.key in by_name:
                self._learn([by_name[word.key]], word.value)

    def _is_list(self, node: nodes.Node | None) -> bool:
        if isinstance(node, nodes.Filter) and node.name in _LIST_FILTERS:
            return self._is_list(node.node)
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            return self._is_list(node.node)
        if isinstance(node, nodes.CondExpr):
            return self._is_list(node.expr1) or self._is_list(node.expr2)
        return isinstance(node, nodes.Name) and node.name in self._lists

    def _is_message(self, node: nodes.Node | None) -> bool:
        if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice):
            return self._is_list(node.node)
        if isinstance(node, nodes.Filter) and node.name in ("first", "last"):
            return self._is_list(node.node)
        return isinstance(node, nodes.Name) and node.name in self._messages

    def is_content(self, node: nodes.Node | None) -> bool:
        """Whether an expression is the content of a message."""
        if isinstance(node, nodes.Filter) and node.name in _LIST_FILTERS:
            return self.is_content(node.node)
        if isinstance(node, nodes.CondExpr):
            return self.is_content(node.expr1) or self.is_content(node.expr2)
        if isinstance(node, nodes.Or | nodes.And):
            return self.is_content(node.left) or self.is_content(node.right)
        if isinstance(node, nodes.Name):
            return node.name in self._contents
        return self._is_message(_owner_of_content(node))


def _owner_of_content(node: nodes.Node | None) -> nodes.Node | None:
    """What an expression takes the content of: ``it.content``, ``it['content']``, ``it.get('content')``."""
    key: nodes.Node | None = None
    if isinstance(node, nodes.Getattr):
        return node.node if node.attr == _CONTENT else None
    if isinstance(node, nodes.Getitem):
        key, owner = node.arg, node.node
    elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr == "get":
        key, owner = (node.args[0] if node.args else None), node.node.node
    return owner if isinstance(key, nodes.Const) and key.value == _CONTENT else None


def _targets(node: nodes.Node) -> list[nodes.Name]:
    return [node] if isinstance(node, nodes.Name) else list(node.find_all(nodes.Name))
