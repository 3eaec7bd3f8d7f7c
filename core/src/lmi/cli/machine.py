# SPDX-License-Identifier: Apache-2.0
"""Flags that name another machine than this one; every command that judges a model for a machine has the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from lmi.api import Target

_Command = TypeVar("_Command", bound=Callable[..., Any])

_DECORATORS = (
    click.option("--instance", metavar="NAME", help="For a machine of SageMaker's: ml.g5.12xlarge."),
    click.option("--device-memory", metavar="SIZExN", help="For GPUs of this memory: 24GiBx4."),
    click.option("--devices", metavar="KIND:N", help="For devices whose memory is not known: cuda:4, neuron:12, cpu."),
)


def of_machine(command: _Command) -> _Command:
    """Give a command the flags that ``AskedMachine`` is made of."""
    for decorate in reversed(_DECORATORS):
        command = decorate(command)
    return command


@dataclass(frozen=True, kw_only=True)
class AskedMachine:
    """What the command line says of the machine, as ``of_machine`` hands it over."""

    instance: str | None
    device_memory: str | None
    devices: str | None

    def target(self) -> Target | str | None:
        """The machine; None for this one.

        Raises:
            ConfigError: there is no such machine.
            click.UsageError: several are named.
        """
        from lmi.planning.instances import instance_of, parse_memory

        if sum(each is not None for each in (self.instance, self.device_memory, self.devices)) > 1:
            raise click.UsageError("Give one of --instance, --device-memory and --devices")
        if self.instance is not None:
            return instance_of(self.instance).target()
        return self.devices if self.device_memory is None else parse_memory(self.device_memory)
