# SPDX-License-Identifier: Apache-2.0
"""``lmi conformance``: does a server or an image keep SageMaker's container contract?"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmi.cli.arguments import words_of_command
from lmi.cli.main import EXIT_FAILURE

if TYPE_CHECKING:
    from lmi.conformance.rules import Rule
    from lmi.conformance.run import Outcome
    from lmi.conformance.subject import Wishes


def _adapter(context: click.Context, parameter: click.Parameter, given: str | None) -> tuple[str, str] | None:
    if given is None:
        return None
    name, _, source = given.partition("=")
    if not name or not source:
        raise click.BadParameter(f"{given!r} is not written as NAME=SOURCE", context, parameter)
    return name, source


_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--url", default=None, help="Judge the server that runs there: http://localhost:8080.")
@click.option("--command", "command", default=None, metavar="'CMD ...'", callback=words_of_command,
              help="Start the server with this, judge it, and stop it; {port} in it is the port.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), default=None,
              help="Port the command is told by SAGEMAKER_BIND_TO_PORT.  [default: a free one]")  # fmt: skip
@click.option("--broken-command", default=None, metavar="'CMD ...'", callback=words_of_command,
              help="Starts it with a model that cannot be loaded.")  # fmt: skip
@click.option("--broken-cause", default="", metavar="TEXT", help="What its last lines must say.")
@click.option("--body", default=None, metavar="JSON", help="A request that it answers.  [default: the usual ones]")
@click.option("--body-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None,
              help="The same, from a file.")  # fmt: skip
@click.option("--content-type", default="application/json", show_default=True, help="Of that body.")
@click.option("--adapter", default=None, metavar="NAME=SOURCE", callback=_adapter,
              help="An adapter that fits the model, where the server finds it.")  # fmt: skip
@click.option("--multi-model", "models", nargs=2, default=None, metavar="FIRST SECOND",
              help="Two model folders, where the server finds them.")  # fmt: skip
@click.option("--model-folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None,
              help="The model's folder on this machine, where nothing may be written.")  # fmt: skip
@click.option("--start-s", type=click.FloatRange(0, min_open=True), default=480.0, show_default=True,
              help="Seconds in which it must be ready.")  # fmt: skip
@click.option("--timeout-scale", "time_scale", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
              help="How many times as long everything else may take.")  # fmt: skip
@click.option("--only", multiple=True, metavar="RULE", help="Judge these rules and groups alone.")
@click.option("--list", "is_list", is_flag=True, help="List the rules with their sources, and judge nothing.")
@click.option("--json", "json_file", type=_FILE, default=None, help="Write the report as JSON.")
@click.option("--markdown", "markdown_file", type=_FILE, default=None, help="Write the report as Markdown.")
def conformance(
    only: tuple[str, ...], is_list: bool, json_file: Path | None, markdown_file: Path | None, **asked: Any
) -> None:
    """Judge a server or an image by SageMaker's container contract.

    Nothing of the platform is needed: requests are sent as it sends them. With --command starting and stopping are
    judged, too; an image is a command as well: 'docker run --rm --network host -e SAGEMAKER_BIND_TO_PORT IMAGE serve'.

    Exit code 0: everything that it must do it does; 1: something is broken that it must do; 2: the call is wrong, or
    nobody answers.
    """
    from lmi.conformance.all_rules import BY_GROUP, RULES
    from lmi.conformance.report import Report, rules_text
    from lmi.conformance.rules import selected
    from lmi.conformance.run import expect_reachable, judge
    from lmi.conformance.subject import Subject

    _expect_known(only)
    if is_list:
        click.echo(rules_text(selected(BY_GROUP, only)))
        return
    wishes = _wishes(asked)
    if wishes.target is not None:
        expect_reachable(wishes.target, asked["url"])
    rules = selected(RULES, only)
    with Subject(wishes) as subject, _shown(rules) as tell:
        outcomes = judge(subject, rules, tell)
    report = Report(asked["url"] or shlex.join(asked["command"]), outcomes)
    click.echo(report.terminal())
    for path, write in ((json_file, report.write_json), (markdown_file, report.write_markdown)):
        if path is not None:
            write(path)
            click.echo(f"written: {path}")
    sys.exit(EXIT_FAILURE if report.n_broken_musts else 0)


def _expect_known(only: Sequence[str]) -> None:
    from lmi.config.names import did_you_mean
    from lmi.conformance.all_rules import BY_GROUP
    from lmi.conformance.rules import GROUPS

    known = [*GROUPS, *(each.id for each in BY_GROUP)]
    for name in only:
        if name not in known:
            hint = did_you_mean(name, known, f"Groups: {', '.join(GROUPS)}; rules: lmi conformance --list")
            raise click.UsageError(f"There is no rule and no group '{name}'. {hint}")


def _wishes(asked: dict[str, Any]) -> Wishes:
    from lmi.client import target_of
    from lmi.conformance.bodies import Body
    from lmi.conformance.subject import Wishes

    file, text, content_type = (asked[name] for name in ("body_file", "body", "content_type"))
    url, of_the_call = asked["url"], {"url", "body", "body_file", "content_type", "models"}
    if bool(url) == bool(asked["command"]):
        raise click.UsageError("Give one of --url and --command: the server that runs, or what starts it.")
    if file is not None and text is not None:
        raise click.UsageError("Give one of --body and --body-file.")
    content = file.read_bytes() if file is not None else None if text is None else text.encode()
    body = None if content is None else Body(content, content_type)
    target = target_of(url) if url else None
    if target is not None and target.socket_path:
        raise click.UsageError("The platform speaks TCP: give an http:// URL.")
    others = {name: value for name, value in asked.items() if name not in of_the_call}
    return Wishes(target=target, models=asked["models"] or (), body=body, **others)


def _shown(rules: Sequence[Rule]) -> AbstractContextManager[Callable[[Outcome | Rule], None]]:
    """What shows how far it is, if somebody looks."""
    if not sys.stderr.isatty():
        return nullcontext(lambda _: None)
    from lmi.conformance.progress import shown

    return shown(rules)
