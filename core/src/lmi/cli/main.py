# SPDX-License-Identifier: Apache-2.0
"""The command line; a command is imported when it is called, so that help does not cost an import of the server."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import click

from lmi import __version__
from lmi.cli.first_process import leave_first_place

COMMANDS = {
    "bench": ("lmi.cli.bench:bench", "Put load on the server at URL, and say what it does and what to tune next."),
    "check": ("lmi.cli.check:check", "Check configuration and files of MODEL, and whether they fit a machine."),
    "compile": (
        "lmi.cli.compile:compile_",
        "Build ahead of time what MODEL's backend needs: engines, graphs, shards.",
    ),
    "config": ("lmi.cli.config:config", "Show what a configuration comes to, and everything that is wrong with it."),
    "conformance": (
        "lmi.cli.conformance:conformance",
        "Judge a server or an image by SageMaker's container contract.",
    ),
    "contract": ("lmi.cli.contract:contract", "Check which rules of the contract BACKEND keeps."),
    "generate": ("lmi.cli.generate:generate", "Answer the lines of PROMPTS with MODEL, without a port."),
    "new": ("lmi.cli.new:new", "Write the project of a backend called NAME."),
    "partition": (
        "lmi.cli.partition:partition",
        "Build ahead of time what a model's backend needs, by the arguments of LMI's containers.",
    ),
    "plan": ("lmi.cli.plan:plan", "Tell what MODEL needs: memory, machine, backend and time; no weight is read."),
    "sagemaker-local": (
        "lmi.cli.sagemaker_local:sagemaker_local",
        "Serve Amazon SageMaker's runtime API on this machine, in front of a container.",
    ),
    "serve": ("lmi.cli.serve:serve", "Serve MODEL (a folder, an s3:// prefix, or ORG/NAME on the hub) until SIGTERM."),
    "plugins": ("lmi.cli.plugins:plugins", "List backends and extensions, and what is wrong with them."),
}
"""Name -> where the command is, and its line in the help."""

_SYNONYMS = {"train": "partition"}
"""What SageMaker calls a container with for a training job -> the command that LMI's containers made of it."""

EXIT_FAILURE = 1
EXIT_WRONG_INPUT = 2
"""Exit codes: 2 where the user can mend it (configuration, model, plugins, usage), 1 for everything else."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    _has_extensions = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._add_extension_commands()
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = _SYNONYMS.get(cmd_name, cmd_name)
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            command: click.Command = getattr(import_module(module), attribute)
            return command
        self._add_extension_commands()
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            from lmi.config.names import did_you_mean

            known = self.list_commands(ctx)
            hint = did_you_mean(args[0], known, f"Commands: {', '.join(known)}")
            ctx.fail(f"There is no command '{args[0]}'. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.commands.get(name)
            rows.append((name, command.get_short_help_str() if command else COMMANDS[name][1]))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _add_extension_commands(self) -> None:
        """Let extensions add commands; on a machine without extensions this imports nothing."""
        if self._has_extensions or not entry_points(group="lmi.extensions"):
            return
        self._has_extensions = True
        from lmi.plugins import Plugins

        for register in Plugins.discover(os.environ, only_backend="").in_order("lmi_register_commands"):
            try:
                register(cli=self)
            except Exception as error:  # the other commands are unaffected
                text = f"an extension could not add its commands: {type(error).__name__}: {error}"
                click.echo(f"plugin.hook-failed: {text}. Find out which one: LMI_TRACE_HOOKS=1 lmi --help", err=True)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lmi")
def cli() -> None:
    """Serve large language models on any inference library."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code; LMI's own errors are printed as their text."""
    leave_first_place()
    try:
        cli.main(args=arguments, prog_name="lmi")
    except Exception as error:
        # Imported here, because the errors' module brings the whole contract with it.
        from lmi.api import LmiError

        if not isinstance(error, LmiError):
            raise
        click.echo(str(error), err=True)
        sys.exit(_exit_code(error))


def _exit_code(error: Any) -> int:
    from lmi.api import ArtifactError, ConfigError, PluginError

    wrong_input = isinstance(error, (ConfigError, ArtifactError, PluginError))
    return EXIT_WRONG_INPUT if wrong_input else EXIT_FAILURE
