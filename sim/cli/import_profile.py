"""What the subcommands of `chunkflow-sim import` share that write hardware profiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import click

from sim.cli.common import OutputPath, check_outputs_shared, note, say

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
        help="How GPUs reach each other: by themselves, or through host memory; by NVLink and switches unless given.",
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
    remarks = f"Written by chunkflow-sim import {command} {names}. `source` says where a number comes from."
    write_atomically(output, to_yaml(numbers_in_lines(plain), remarks))
    say(f"profile: {output}")


def tell(remarks: Sequence[str]) -> None:
    """Remarks of an import on standard error."""
    for remark in dict.fromkeys(remarks):
        note(remark)


INTO_OPTIONS = (
    click.option("-o", "--output", type=OutputPath(), help="Write the profile to this file; --into's unless given."),
    click.option("--into", type=click.Path(path_type=Path), help="The profile to fill in, such as `import topo` made."),
    click.option("--hardware", metavar="BASE", help="Take all else from this profile instead."),
)
"""Where measurements go."""


class Measured(Protocol):
    """What a benchmark's output says of a host."""

    @property
    def width(self) -> int:
        """GPUs that it measured."""

    @property
    def gpus(self) -> Sequence[str]:
        """Their names, as far as they are given."""


M = TypeVar("M", bound=Measured)


class Target(NamedTuple):
    """Where measurements go, as the options say."""

    output: Path
    into: Path | None
    hardware: str | None
    wanted: Wanted
    force: bool

    @classmethod
    def of(cls, given: dict[str, Any], force: bool) -> Target:
        """From the values of `INTO_OPTIONS` and `HOST_OPTIONS`."""
        into, hardware, output = given["into"], given["hardware"], given["output"]
        if into is not None and hardware is not None:
            raise click.UsageError("--into and --hardware both name the profile to start from: give one of them")
        if output is None and into is None:
            raise click.UsageError("give -o OUT.yaml, or --into PROFILE to fill one in")
        wanted = wanted_of(given["gpu"], given["link"], given["peers"], None)
        return cls(output if output is not None else into, into, hardware, wanted, force)

    def start(self, count: int, gpus: Sequence[str], files: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
        """(plain data to fill, remarks); a host of `count` GPUs where no profile is given."""
        from sim.importers.base_profile import base_of, unknown_host

        plain = base_of(self.into, self.hardware)
        if plain is not None:
            return plain, []
        return unknown_host(count, gpus, self.wanted, self.output.stem, ", ".join(file.name for file in files))

    def fill(
        self,
        command: str,
        files: Sequence[Path],
        read: Callable[[Path], M],
        fill: Callable[[dict[str, Any], M, str], list[str]],
    ) -> None:
        """Fill in what each file holds, by `fill(plain, measured, name)`; of the most GPUs last, as it knows most."""
        found = sorted(((file, read(file)) for file in files), key=lambda one: one[1].width)
        widest = max(found, key=lambda one: one[1].width)[1]
        plain, remarks = self.start(widest.width, widest.gpus, files)
        for file, measured in found:
            if measured.width < widest.width:
                remarks.append(f"contradiction: {file} has {measured.width} GPUs, another file {widest.width}")
            remarks += fill(plain, measured, file.name)
        self.finish(plain, command, files, remarks)

    def finish(self, plain: dict[str, Any], command: str, files: Sequence[Path], remarks: Sequence[str]) -> None:
        """Write the profile, and say what was assumed and what contradicts."""
        from sim.importers.host_profile import contradictions_of

        names = ", ".join(file.name for file in files)
        if self.hardware is not None:
            plain["name"] = self.output.stem
        remarks = [*remarks, *contradictions_of(plain, names)]
        description = str(plain.get("description", "")).replace("; not measured", "")
        plain["description"] = description if names in description else f"{description}; {names}"
        fingerprint = plain.get("fingerprint")
        if isinstance(fingerprint, dict):
            fingerprint["evidence"] = f"{fingerprint.get('evidence', 'imported')}; {names}"
        in_place = self.into is not None and self.output.resolve() == self.into.resolve() and _is_imported(self.into)
        write_profile(self.output, plain, command, files, self.force or in_place)
        tell(remarks)


def _is_imported(file: Path) -> bool:
    """Whether an earlier import wrote `file`, so that filling it in destroys nothing that was written by hand."""
    with file.open("rb") as opened:
        return opened.read(100).startswith(b"# Written by chunkflow-sim import")
