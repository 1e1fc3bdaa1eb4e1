"""What the subcommands of `chunkflow-sim import` share that write hardware profiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import OutputPath, check_outputs_shared, force_option, note, say

if TYPE_CHECKING:
    from sim.importers.host_profile import Wanted

files_argument = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))

HOST_OPTIONS = (
    click.option("--gpu", metavar="NAME", help="Which GPU the host has, such as A100; as the file says unless given."),
    click.option(
        "--link", metavar="LINK", help="The GPUs' PCIe links, such as gen4x16; as the file says unless given."
    ),
    click.option(
        "--peers",
        type=click.Choice(["direct", "host"]),
        help="Whether GPUs reach each other directly, or through host memory; taken from NVLink and switches unless given.",
    ),
)
"""What says more of a host than a dump does."""

output_option = click.option("-o", "--output", required=True, type=OutputPath(), help="Write the profile to this file.")


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decorator of all of `options`, in their order in the help text."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def wanted_of(gpu: str | None, link: str | None, peers: str | None, like: str | None) -> Wanted:
    """What the options say. Raises InputError of the option."""
    from sim.importers.cards import card_of, known_names
    from sim.importers.host_profile import Wanted
    from sim.importers.pci_links import parse_link
    from sim.inputs.config import InputError

    card = None if gpu is None else card_of(gpu)
    if gpu is not None and card is None:
        raise InputError("--gpu", "", f"is {gpu!r}, expected one of {known_names()}")
    try:
        width = None if link is None else parse_link(link, "--link")
    except ValueError as error:
        raise InputError("--link", "", str(error)) from None
    return Wanted(card, gpu or "", width, peers, like)  # type: ignore[arg-type]


def write_profile(output: Path, plain: dict[str, Any], command: str, files: Sequence[Path], force: bool) -> None:
    """Write a profile that `command` made of `files`, say so, and how to go on."""
    from sim.hardware.profile_text import numbers_in_lines, to_yaml
    from sim.inputs.atomic_files import write_atomically

    check_outputs_shared(force, ("-o", output, "PROFILE"))
    names = " ".join(file.name for file in files)
    remarks = f"Written by chunkflow-sim import {command} {names}. Each number says where it comes from; `assumed` is not measured."
    write_atomically(output, to_yaml(numbers_in_lines(plain), remarks))
    say(f"profile: {output}")


def tell(remarks: Sequence[str]) -> None:
    """Remarks of an import on standard error."""
    for remark in remarks:
        note(remark)


__all__ = [
    "HOST_OPTIONS",
    "files_argument",
    "force_option",
    "output_option",
    "tell",
    "wanted_of",
    "with_options",
    "write_profile",
]
