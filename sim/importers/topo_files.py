"""Dumps of a host's topology: each file is recognised, and several of one host are put together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sim.importers.host_tree import HostTree, tree_of
from sim.importers.lspci import LspciError, read_lspci_records, read_lspci_tree
from sim.importers.lstopo import read_lstopo
from sim.importers.nccl_topology import read_nccl_topology
from sim.importers.nvidia_topo import MatrixError, read_matrix
from sim.importers.rocm_topo import is_rocm, read_rocm_topology
from sim.importers.text_lines import Line, lines_of, unpacked
from sim.inputs.config import InputError
from sim.inputs.other_formats import refuse_other

_NAMED = re.compile(
    r"\|\s+\d+\s+(\S.*?)\s+(?:On|Off|N/A)\s+\||\AGPU \d+: (.*?) \(UUID|\A\d+, ((?:NVIDIA|AMD|Tesla) [^,]+),"
)
"""A GPU in the table of nvidia-smi, in its list, or in the answer to a query."""
_TREE = re.compile(r"\s*-(?:\+-|-)?\[[0-9a-f:]+\]-|[ |]*[+\\]-\[[0-9a-f]{4}:[0-9a-f]{2}\]-")
_RECORD = re.compile(r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] \S")
"""Lines that only `lspci -tv`, or only a list of `lspci`, has."""
_WIDE = 200
"""Characters of a line that may name a GPU."""
_HEAD = 4096
"""Bytes in which an XML file's first element begins, after comments and its declaration."""


def read_topologies(files: Sequence[Path]) -> HostTree:
    """The host that dumps tell of: `nvidia-smi topo -m`, `lspci -tv` or `-vv`, XML of `lstopo` or NCCL; one of each.

    Raises:
        InputError: a file is none of these, or two tell of different numbers of GPUs.
    """
    trees = [(file, _read(file)) for file in files]
    first, tree = trees[0]
    for file, other in trees[1:]:
        if len(other.places) != len(tree.places):
            problem = f"has {len(other.places)} GPUs, but {first} has {len(tree.places)}: give dumps of one host"
            raise InputError(str(file), "", problem)
        tree = _together(tree, other)
    return tree


def _read(file: Path) -> HostTree:
    content = unpacked(file)
    source = str(file)
    refuse_other(content, source, "topo")
    markup = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if markup[:1] == b"<":
        return read_nccl_topology(markup, source) if b"<system" in markup[:_HEAD] else read_lstopo(markup, source)
    lines = lines_of(content, source)
    try:
        if is_rocm(lines):
            return read_rocm_topology(lines)
        if not _has_matrix(lines):
            if any(_TREE.match(line.text) for line in lines):
                return read_lspci_tree(lines)
            if any(_RECORD.match(line.text) for line in lines):
                return read_lspci_records(lines)
        tree = tree_of(read_matrix(lines))
    except (MatrixError, LspciError) as error:
        raise InputError(source, "", str(error)) from None
    told = [m for line in lines if (m := _NAMED.search(line.text[:_WIDE])) is not None]
    names = [next(filter(None, m.groups())) for m in told]
    places = tree.places
    if len(names) >= len(places):
        places = tuple(p._replace(name=name) for p, name in zip(places, names, strict=False))
    return tree._replace(places=places)


def _has_matrix(lines: Sequence[Line]) -> bool:
    return any(re.match(r"[\s>|]{,99}GPU\d+(?: \|)?\s+(?:X|GPU\d|CPU)", line.text) for line in lines)


def _together(one: HostTree, other: HostTree) -> HostTree:
    """Two dumps of a host: bridges and links of whichever knows bus addresses, NVLinks and memories of the other."""
    if one.nvlinks or not other.nvlinks:
        matrix, buses = (one, other) if any(":" in b for p in other.places for b in p.bridges) else (other, one)
    else:
        matrix, buses = other, one
    memories = matrix if matrix.domains != "nothing" else buses
    places = tuple(
        p._replace(
            name=p.name or m.name,
            domain=memories.places[i].domain,
            link=p.link or m.link,
        )
        for i, (p, m) in enumerate(zip(buses.places, matrix.places, strict=True))
    )
    remarks = tuple(
        r for r in (*matrix.remarks, *buses.remarks) if "one memory" not in r or memories.domains == "nothing"
    )
    remarks = tuple(r for r in remarks if not r.startswith("NVLink hides"))
    return HostTree(
        places, {**one.nvlinks, **other.nvlinks}, remarks, {**one.uplinks, **other.uplinks}, memories.domains
    )
