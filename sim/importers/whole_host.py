"""A profile of all that is there of a host: its topology, then what benchmarks measured, in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.importers import nccl_tests, nvbandwidth, p2p
from sim.importers.base_profile import unknown_host
from sim.importers.host_profile import Imported, Wanted, contradictions_of, host_profile
from sim.importers.measured_collectives import fill_nccl_tests
from sim.importers.measured_copies import fill_nvbandwidth, fill_p2p
from sim.importers.text_lines import unpacked
from sim.importers.topo_files import read_topologies
from sim.inputs.config import InputError
from sim.inputs.other_formats import import_of, refuse_other

Plain = dict[str, Any]

KINDS = ("topo", "nvbandwidth", "p2p", "nccl-tests")
"""What a host is imported of. Who reaches whom decides what collectives cross: `p2p` stands before their times."""


def sorted_files(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by what they are, of `KINDS`. Raises InputError of the first that is none of them."""
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for file in files:
        content = unpacked(file)
        kind = import_of(content)
        if kind in found:
            found[kind].append(file)
            continue
        refuse_other(content, str(file), "")
        raise InputError(str(file), "", f"is none of {', '.join(KINDS)}: say what it is, such as --nccl-tests FILE")
    return found


def whole_host(
    files: Mapping[str, Sequence[Path]], wanted: Wanted, name: str, kind: str | None = None, ranks: int | None = None
) -> Imported:
    """The profile `name` of a host, of files by `KINDS`; `kind` and `ranks` say of nccl-tests what files do not.

    Raises:
        InputError: of a file: it is something else, cut off, or of another host than the others.
    """
    copies = [(file, nvbandwidth.read_file(file)) for file in files.get("nvbandwidth", ())]
    peers = [(file, p2p.read_file(file)) for file in files.get("p2p", ())]
    runs = [run for file in files.get("nccl-tests", ()) for run in nccl_tests.read_file(file, kind, ranks)]
    names = ", ".join(file.name for one in KINDS for file in files.get(one, ()))
    called = [gpu for _, rates in copies for gpu in rates.gpus] + [gpu for _, reached in peers for gpu in reached.gpus]
    called += [run.gpu for run in runs if run.gpu]
    remarks: list[str] = []
    if dumps := list(files.get("topo", ())):
        tree = read_topologies(dumps)
        if not any(place.name for place in tree.places) and called:
            tree = tree._replace(places=tuple(place._replace(name=called[0]) for place in tree.places))
        made = host_profile(tree, wanted, name, ", ".join(file.name for file in dumps))
        plain, remarks = made.plain, [*made.remarks]
    else:
        counts = [rates.width for _, rates in copies] + [reached.width for _, reached in peers]
        counts += [run.ranks for run in runs]
        plain, remarks = unknown_host(max(counts, default=0), called, wanted, name, names)
    for file, rates in sorted(copies, key=lambda one: one[1].width):
        remarks += fill_nvbandwidth(plain, rates, file.name)
    for file, reached in sorted(peers, key=lambda one: one[1].width):
        remarks += fill_p2p(plain, reached, file.name)
    if runs:
        remarks += fill_nccl_tests(plain, runs)
    if copies or peers or runs:
        plain["description"] = f"{str(plain['description']).replace('; not measured', '')}; {names}"
        plain["fingerprint"]["evidence"] = names
    return Imported(plain, tuple(dict.fromkeys([*remarks, *contradictions_of(plain, names)])))
