# SPDX-License-Identifier: Apache-2.0
"""C: options are typed, described, and mean the same however they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urlparse

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from lmi.api import BackendConfig, ConfigError, Severity
from lmi.config import parse, read_settings
from lmi.config.coerce import as_text, choices
from lmi.config.names import canonical
from lmi.config.tables import END, begin, options_table
from lmi.config.typed import keys_of
from lmi.testing.kit import Kit
from lmi.testing.rules import rule


class ConfigRules:
    """Rules C1 to C4."""

    @rule("C1", "an unknown option is refused, and the nearest one named")
    def test_c1_unknown_option(self, kit: Kit) -> None:
        kind = config_type(kit)
        known = next(iter(own_fields(kind)), "max_rolling_batch_size")
        typo = known[:-1] + known[-1] * 2
        try:
            kit.config(**{typo: "1"})  # type: ignore[arg-type]
        except ConfigError as error:
            assert f"option.{known}" in str(error), f"option.{typo} is refused without naming option.{known}: {error}"
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
            if info.is_required() and name not in kit.case.settings:
                wrong.append(f"{name} has no default, and the case does not set it: BackendCase(settings=...)")
            if is_number(info) and not extra.get("unit"):
                wrong.append(f"{name} is a number without a unit")
        assert not wrong, "; ".join(wrong)

    @rule("C3", "an option means the same as text, as a variable, and typed")
    def test_c3_same_however_written(self, kit: Kit) -> None:
        kind = config_type(kit)
        defaults = kit.config()
        for name, info in own_fields(kind).items():
            for value in sample_values(info, getattr(defaults, name)):
                written = as_text(value)
                key = info.alias or name
                typed = outcome_typed(kit, name, value)
                flag = outcome_written(kit, name, flags={key: written})
                variable = outcome_written(kit, name, environ={f"OPTION_{key.upper()}": written})
                what = f"option.{key}={written}"
                assert flag == typed, f"{what} on the command line is {flag}, the typed value is {typed}"
                assert variable == typed, f"{what} as a variable is {variable}, the typed value is {typed}"

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


@dataclass(frozen=True)
class Outcome:
    """What becomes of an option: its value, or a refusal (another option may rule it out, which is as good).

    Args:
        value: of the typed option; None where it was refused.
        refusal: the words of the refusal; two refusals are the same whatever they say.
    """

    value: Any = None
    is_refused: bool = False
    refusal: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"refused ({self.refusal})" if self.is_refused else repr(self.value)


def outcome_typed(kit: Kit, name: str, value: Any) -> Outcome:
    """What a typed value becomes beside the case's settings."""
    kind = config_type(kit)
    key = kind.model_fields[name].alias or name
    others = kit.config().model_dump(by_alias=True, exclude_unset=True)
    try:
        config = kind.model_validate({**others, key: value})
    except ValidationError as error:
        return Outcome(is_refused=True, refusal="; ".join(each["msg"] for each in error.errors()))
    conflicts = [each.message for each in config.conflicts() if each.severity is Severity.ERROR]
    return Outcome(is_refused=True, refusal="; ".join(conflicts)) if conflicts else Outcome(getattr(config, name))


def outcome_written(
    kit: Kit, name: str, *, flags: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
) -> Outcome:
    """What text becomes beside the case's settings, which give way where they set the same option."""
    kind = config_type(kit)
    keys = keys_of(kind)
    others = {key: text for key, text in kit.flags(kit.case.settings).items() if keys.get(canonical(key)) != name}
    found = read_settings(model_folder=None, environ=environ or {}, flags={**others, **(flags or {})})
    try:
        return Outcome(getattr(parse(found, kit.info, kind, {}).config, name))
    except ConfigError as error:
        return Outcome(is_refused=True, refusal="; ".join(problem.message for problem in error.problems))


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
