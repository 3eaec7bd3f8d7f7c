# SPDX-License-Identifier: Apache-2.0
"""C: options are typed, described, and mean the same however they are written."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urlparse

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from lmi.api import BackendConfig, ConfigError
from lmi.config.coerce import as_text, choices
from lmi.config.tables import END, begin, options_table
from lmi.testing.kit import Kit
from lmi.testing.rules import rule


class ConfigRules:
    """Rules C1 to C4."""

    @rule("C1", "an unknown option is refused, and the nearest one named")
    def test_c1_unknown_option(self, kit: Kit) -> None:
        kind = config_type(kit)
        field = next(iter(own_fields(kind)), "max_rolling_batch_size")
        typo = field[:-1] + field[-1] * 2
        try:
            kit.config(**{typo: "1"})  # type: ignore[arg-type]
        except ConfigError as error:
            assert f"option.{field}" in str(error), f"option.{typo} is refused without naming option.{field}: {error}"
        else:
            raise AssertionError(f"option.{typo} was accepted")
        try:
            kind.model_validate({"no_such_option": 1})
        except ValidationError:
            pass
        else:
            raise AssertionError(f"{kind.__name__} takes any key: leave BackendConfig's model_config as it is")
        assert kind.model_config.get("frozen"), f"{kind.__name__} can be changed after it was checked"

    @rule("C2", "every option has a description, a default, and a unit if it is a number")
    def test_c2_described(self, kit: Kit) -> None:
        wrong = []
        for name, info in config_type(kit).model_fields.items():
            extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            if len(info.description or "") < 10:
                wrong.append(f"{name} has no description")
            if info.is_required():
                wrong.append(f"{name} has no default")
            if is_number(info) and not extra.get("unit"):
                wrong.append(f"{name} is a number without a unit")
        assert not wrong, "; ".join(wrong)

    @rule("C3", "an option means the same as text, as a variable, and typed")
    def test_c3_same_however_written(self, kit: Kit) -> None:
        kind = config_type(kit)
        base = kit.config()
        for name, info in own_fields(kind).items():
            for value in sample_values(info, getattr(base, name)):
                written = as_text(value)
                what = f"option.{name}={written}"
                typed = getattr(kind.model_validate({**base.model_dump(), name: value}), name)
                flag = getattr(kit.config(**{name: value}), name)
                assert flag == typed, f"{what} on the command line is {flag!r}, the typed value is {typed!r}"
                variable = getattr(kit.config(environ={f"OPTION_{name.upper()}": written}), name)
                assert variable == typed, f"{what} as a variable is {variable!r}, the typed value is {typed!r}"

    @rule("C4", "the README has the options as they are")
    def test_c4_readme(self, kit: Kit) -> None:
        wanted, mark = options_table(config_type(kit)).strip(), begin(kit.info.name)
        text = readme(kit.record.distribution)
        how = f"'lmi plugins --options {kit.info.name}' prints the table"
        assert mark in text, f"the README has no line {mark}: put it above the table of options and {END} below; {how}"
        found = text.partition(mark)[2].partition(END)[0].strip()
        assert found == wanted, f"the README's table of options is stale; {how}:\n{wanted}"


def config_type(kit: Kit) -> type[BackendConfig]:
    return kit.plugins.config_type(kit.info.name)


def own_fields(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    """What a backend adds to, or changes of, the options that all have."""
    return {name: info for name, info in kind.model_fields.items() if name in kind.__annotations__}


def is_number(info: FieldInfo) -> bool:
    kinds = {info.annotation, *get_args(info.annotation)}
    return bool(kinds & {int, float}) and bool not in kinds


def sample_values(info: FieldInfo, default: Any) -> list[Any]:
    """Values an option takes for certain: its default, every choice, both switches."""
    values = [] if default is None else [default]
    values += choices(info.annotation)
    if bool in {info.annotation, *get_args(info.annotation)}:
        values += [True, False]
    return values


def readme(distribution: str) -> str:
    """The README a distribution was built from; of an editable one as it is now."""
    found = metadata.distribution(distribution)
    origin = found.read_text("direct_url.json")
    if origin:
        source = json.loads(origin)
        folder = Path(unquote(urlparse(source.get("url", "")).path))
        if source.get("dir_info", {}).get("editable") and (folder / "README.md").is_file():
            return (folder / "README.md").read_text("utf-8")
    payload = found.metadata.get_payload()  # type: ignore[attr-defined]
    return re.sub(r"\r\n", "\n", payload if isinstance(payload, str) else "")
