# SPDX-License-Identifier: Apache-2.0
"""``lmi bench``: put load on a running server and say what it does."""

from __future__ import annotations

import asyncio
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmi.cli.main import EXIT_FAILURE

if TYPE_CHECKING:
    from lmi.bench.levels import Level
    from lmi.bench.sweep import Sweep

_AT_ONCE = "--at-once"


class _Command(click.Command):
    """Takes every number that follows ``--at-once`` as its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        joined: list[str] = []
        for text in args:
            follows = len(joined) > 1 and joined[-2] == _AT_ONCE
            if follows and text.isdecimal():
                joined[-1] += f",{text}"
            else:
                joined.append(text)
        return super().parse_args(ctx, joined)


def _levels(context: click.Context, parameter: click.Parameter, given: str) -> list[int]:
    texts = given.split(",")
    for text in texts:
        if not text.isdecimal() or int(text) < 1:
            raise click.BadParameter(f"{text!r} is no number of clients", context, parameter)
    return [int(text) for text in texts]


def _headers(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    for text in given:
        if ":" not in text or "\n" in text or "\r" in text:
            raise click.BadParameter(f"{text!r} is not written as NAME: VALUE", context, parameter)
    return {name.strip().lower(): value.strip() for name, _, value in (text.partition(":") for text in given)}


@click.command(cls=_Command)
@click.argument("url")
@click.option(
    "--schema",
    type=click.Choice(["lmi", "chat", "completions"]),
    default="lmi",
    show_default=True,
    help="What requests look like.",
)
@click.option("--path", default=None, help="Where they go.  [default: the schema's own route]")
@click.option(
    "--endpoint",
    default=None,
    metavar="NAME",
    help="An endpoint of the SageMaker runtime at URL; asked as AWS's clients do.",
)
@click.option("--model", default="", help="The model's name, for servers that want one in chat and completions.")
@click.option(
    _AT_ONCE,
    "levels",
    default="1,8,32",
    show_default="1 8 32",
    metavar="N ...",
    callback=_levels,
    help="Numbers of clients, each of which asks again when its answer has ended.",
)
@click.option(
    "--n-requests",
    type=click.IntRange(1),
    default=None,
    help="Requests of each level.  [default: 4 a client, at least 16]",
)
@click.option("--input-tokens", type=click.IntRange(1), default=128, show_default=True, help="Length of the prompts.")
@click.option("--output-tokens", type=click.IntRange(1), default=128, show_default=True, help="Length of the answers.")
@click.option(
    "--prompts",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="JSON lines with inputs, prompt or messages, instead of words.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the words that prompts are made of.")
@click.option("--ignore-eos/--may-end", default=True, show_default=True, help="Whether answers have all their tokens.")
@click.option("--warm-up/--no-warm-up", default=True, show_default=True, help="One round before each level.")
@click.option(
    "--timeout-s", type=click.FloatRange(0, min_open=True), default=300.0, show_default=True, help="For one request."
)
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME: VALUE", callback=_headers,
              help="Sent with each request, as a key of an API.")  # fmt: skip
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder for report.json, report.html and, with matplotlib, pictures.",
)
def bench(url: str, levels: list[int], headers: dict[str, str], report: Path | None, **asked: Any) -> None:
    """Put load on the server at URL, and say what it does and what to tune next.

    Answers are streamed, and time is taken where their bytes arrive. The first request shows that the server answers,
    and how many tokens a word has; it and the rounds that warm up are in no number.

    Exit code 0: every request was answered; 1: some failed, or the server does not answer; 2: the call is wrong.
    """
    from lmi.bench.advice import advice
    from lmi.bench.report import as_json, head_lines, made, row_line, write

    sweep = _sweep(url, levels, headers, **asked)
    shown = {"url": url, "at_once": levels, **asked, "path": sweep.asker.route.path}
    shown = {key: str(value) if isinstance(value, Path) else value for key, value in shown.items()}
    done: list[Level] = []
    if report is not None:
        made(report)

    def tell(level: Level) -> None:
        if not done:
            click.echo("\n".join(head_lines()))
        done.append(level)
        click.echo(row_line(level))
        for code, n_errors in level.errors.items():
            click.echo(f"{'':>8} {n_errors} x {code}: {level.messages[code][:200]}")
        if report is not None:  # what was measured outlives a sweep that is broken off
            write(report, as_json(shown, done, advice(done, input_tokens=asked["input_tokens"])))

    asyncio.run(sweep.run(tell))
    if any(level.is_by_pieces for level in done):
        click.echo("tokens are counted by pieces of text: the server does not send usage")
    found = advice(done, input_tokens=asked["input_tokens"])
    click.echo(f"next: {found.option}: {found.sentence}" if found.option else f"next: {found.sentence}")
    if report is not None:
        _tell_files(report, write(report, as_json(shown, done, found)))
    sys.exit(EXIT_FAILURE if any(level.n_errors for level in done) else 0)


def _sweep(url: str, levels: list[int], headers: dict[str, str], **asked: Any) -> Sweep:
    from lmi.bench.levels import Asker
    from lmi.bench.routes import EndpointRoute, Route
    from lmi.bench.schemas import SCHEMAS, asked as body_of
    from lmi.bench.sweep import Sweep
    from lmi.bench.words import Words, prompts_of
    from lmi.client import target_of

    def body(prompt: Any) -> dict[str, Any]:
        return body_of(
            asked["schema"],
            prompt,
            n_tokens=asked["output_tokens"],
            ignores_eos=asked["ignore_eos"],
            model=asked["model"],
        )

    if asked["endpoint"] and asked["path"]:
        raise click.UsageError("--endpoint has a path of its own: --path and --endpoint do not go together")
    target = target_of(url)
    own = asked["path"] or SCHEMAS[asked["schema"]].path
    asker = Asker(
        target=target,
        route=EndpointRoute(target, asked["endpoint"]) if asked["endpoint"] else Route(own),
        headers=headers,
        body=body,
        timeout_s=asked["timeout_s"],
    )
    file = asked["prompts"]
    prompts = Words(asked["seed"], asked["input_tokens"]) if file is None else prompts_of(file)
    return Sweep(asker=asker, prompts=prompts, levels=levels, n_requests=asked["n_requests"], is_warm=asked["warm_up"])


def _tell_files(folder: Path, names: list[str]) -> None:
    click.echo(f"written: {', '.join(str(folder / name) for name in names)}")
    if find_spec("matplotlib") is None:
        click.echo("no PNG pictures: matplotlib is not installed; pip install 'lmi-core[bench]'. The page has its own")
