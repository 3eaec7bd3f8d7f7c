# SPDX-License-Identifier: Apache-2.0
"""From the variables of another server to settings of LMI, with what becomes of each variable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from lmi.api import ConfigError, Target
from lmi.config import Setting, Settings
from lmi.config.fields import matching_key
from lmi.config.names import did_you_mean, nearly
from lmi.config.unsupported import NOT_SUPPORTED, OF_NO_USE
from lmi.config.writing import holds_secret, variable_of
from lmi.imports import arguments, own
from lmi.imports.options import ROLLING_BATCH, SELECTORS, Options
from lmi.imports.outcome import Fate, Outcome, Translation, printable
from lmi.imports.tables import Row, ServerTable, table_of
from lmi.imports.wishes import Wishes
from lmi.plugins import Plugins
from lmi.reading import DEFAULT_MODEL_FOLDER

MODEL_ID = "option.model_id"
_ASKED = "chosen with --to"
_NO_ROW = Row()


def translate(
    variables: Mapping[str, str],
    table: ServerTable,
    plugins: Plugins,
    backend: str | None = None,
    target: Target | None = None,
) -> Translation:
    """Translate an environment.

    Args:
        variables: the environment.
        table: whom it was written for.
        plugins: what is installed; only options that one of them has are written.
        backend: the backend that is to serve; None takes what the variables say.
        target: the machine that is to serve; None is any with GPUs.
    Raises:
        ConfigError: ``backend`` is not installed.
    """
    return _Translator(variables, table, Options(plugins, target), backend).translation()


class _Translator:
    def __init__(self, variables: Mapping[str, str], table: ServerTable, options: Options, backend: str | None) -> None:
        self.variables = variables
        self.table = table
        self.options = options
        self.wishes = Wishes(variables, table)
        self.found = Translation(table.title, remarks=table.remarks)
        self._ask(backend)

    def translation(self) -> Translation:
        """Write what can be written, then say what became of each variable."""
        winners = Settings(self.wishes.settings)
        for setting in winners.values():
            self._write(setting)
        self._join_names()
        for variable, value in self.variables.items():
            self.found.outcomes.append(self._outcome(variable, value))
        self.found.flags = list(self.wishes.flags.values())
        self.found.problems = self.options.judged(self.found.settings)
        return self.found

    def _ask(self, backend: str | None) -> None:
        """Collect what the variables ask for, and choose the backend."""
        collect = own.collect if self.table.is_own else arguments.collect
        named = self.table.backend if backend is None else self._known(backend)
        self.wishes.add_defaults(self.table.defaults)
        arguments.collect_rows(self.wishes)
        if named:
            self.wishes.settings.append(Setting(ROLLING_BATCH, named, _ASKED if backend else f"for {self.table.title}"))
            self.options.take(named)
        collect(self.wishes, self.options)
        if backend:
            self._overrule_selectors(backend)
        elif not named:
            required = [each for each in self.wishes.settings if not self._row(each).is_optional]
            chosen = self.options.choose(self.wishes.settings, not self.table.is_own, required)
            self.wishes.settings += [] if chosen is None else [chosen]

    def _known(self, backend: str) -> str:
        if not self.options.answering_to(backend):
            installed = sorted(self.options.plugins.backends)
            hint = did_you_mean(backend, installed, f"Installed: {', '.join(installed) or 'none'}")
            raise ConfigError("plugin.not-installed", f"there is no backend '{backend}'", [], hint)
        return backend

    def _overrule_selectors(self, backend: str) -> None:
        kept = [each for each in self.wishes.settings if each.key not in SELECTORS or each.source == _ASKED]
        for setting in self.wishes.settings:
            if setting not in kept:
                self.wishes.leave_out(setting.written or setting.source, f"--to {backend} chooses the backend")
        self.wishes.settings = kept

    def _write(self, setting: Setting) -> None:
        """Keep a setting if it can be written, else note why it cannot."""
        variable = setting.written or setting.source
        if setting.key == MODEL_ID and setting.value.rstrip("/") == str(DEFAULT_MODEL_FOLDER):
            self.wishes.leave_out(variable, "this folder is where a container finds its model")
            return
        key = self.options.main_key(setting.key)
        if key and holds_secret(key, setting.value):
            self._keep_secret(variable, key)
            return
        fault = self.options.fault(setting) if key else None
        if not key:
            self._note_unknown(variable, setting)
        elif fault is not None:
            reason = f"{fault.message} ({fault.code})"
            self.wishes.lose(variable, reason, fault.hint, changes=True)
        else:
            self.found.settings.append(replace(setting, key=key))

    def _join_names(self) -> None:
        """Where two variables give one option under two names, the later one holds; what is served stands first."""
        by_key = {each.key: each for each in self.found.settings}
        first = (MODEL_ID, *SELECTORS)
        self.found.settings = sorted(by_key.values(), key=lambda each: (*first, each.key).index(each.key))

    def _keep_secret(self, variable: str, key: str) -> None:
        instead = "" if self.table.is_own else f"Set its value as the variable {variable_of(key)}"
        self.wishes.keep(variable, "it holds a secret, which belongs into no file", instead)

    def _note_unknown(self, variable: str, setting: Setting) -> None:
        row = self._row(setting)
        owners = self.options.owners(setting.key)
        short = setting.key.removeprefix("option.")
        of_no_use, refused = matching_key(setting, OF_NO_USE), matching_key(setting, NOT_SUPPORTED)
        if of_no_use or refused:
            known = OF_NO_USE[of_no_use] if of_no_use else NOT_SUPPORTED[refused]
            is_harmless = setting.value.lower() in known.harmless
            self.wishes.lose(variable, known.reason, known.hint, changes=bool(refused) and not is_harmless)
        elif row.why:
            self.wishes.lose(variable, row.why, row.instead, changes=row.changes_answers)
        elif owners and self.options.backend:
            reason = f"'{setting.key}' is an option of {', '.join(owners)}, not of {self.options.backend}"
            is_argument = self.table.prefix != "" and variable.startswith(self.table.prefix)
            changes = row.changes_answers or is_argument
            instead = f"Import with --to {owners[0]} if its effect is wanted" if changes else row.instead
            self.wishes.lose(variable, reason, instead, changes=changes)
        elif self.options.missing:
            reason = f"the options of {self.options.missing} are not known, because it is not installed"
            self.wishes.lose(variable, reason, "Install it, then import again", changes=True)
        else:
            reason = f"neither LMI nor {self.options.backend or 'an installed backend'} has an option '{short}'"
            self.wishes.lose(variable, reason, self.options.hint(setting.key), changes=True)

    def _row(self, setting: Setting) -> Row:
        variable = setting.written or setting.source
        return self.table.variables.get(variable, _NO_ROW)

    def _outcome(self, variable: str, value: str) -> Outcome:
        """Written, if any of its keys is; else what was noted; else beaten, or nobody's."""
        shown = printable(variable, value)
        if any((each.written or each.source) == variable for each in self.found.settings):
            return Outcome(variable, Fate.TRANSLATED, shown)
        if variable in self.wishes.outcomes:
            return self._with_backend(self.wishes.outcomes[variable])
        beaten = {each.key: each for each in self.wishes.settings if (each.written or each.source) == variable}
        if beaten:
            keys = {self.options.main_key(key) or key for key in beaten}
            winners = self._winners(keys, beaten) or [self.table.title]
            return Outcome(variable, Fate.NO_EFFECT, shown, f"{', '.join(winners)} says otherwise and wins")
        if holds_secret(variable, value):
            return Outcome(variable, Fate.KEPT, shown, "it holds a secret, which belongs into no file")
        return Outcome(variable, Fate.KEPT, shown, *self._stranger(variable))

    def _with_backend(self, outcome: Outcome) -> Outcome:
        """The tables speak of ``{backend}``, whichever is to serve."""
        name = self.options.backend or "the backend"
        why, instead = (text.replace("{backend}", name) for text in (outcome.why, outcome.instead))
        return replace(outcome, why=why, instead=instead)

    def _winners(self, keys: Iterable[str], beaten: Mapping[str, Setting]) -> list[str]:
        winners = Settings(self.wishes.settings)
        sources = [each.source for each in self.found.settings if each.key in set(keys)]
        return sources or [winners[key].source for key in beaten if winners[key] is not beaten[key]]

    def _stranger(self, variable: str) -> tuple[str, str]:
        """Why a variable of no row stays as it is, and what may have been meant."""
        other = next((each.title for each in _others(self.table) if each.recognises(variable)), "")
        if other:
            return f"it is a variable of {other}, which {self.table.title} does not read", "Remove it"
        near = nearly(variable, self.table.variables)
        return (f"{self.table.title} does not read it", f"Did you mean {near}?") if near else ("", "")


def _others(table: ServerTable) -> list[ServerTable]:
    from lmi.imports.tables import server_names

    return [each for name in server_names() if (each := table_of(name)) is not table]
