"""`rocm-smi --showtopo`: how AMD GPUs reach each other (xGMI or PCIe), and their NUMA nodes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sim.importers.host_tree import HostTree, Place
from sim.importers.nvidia_topo import MatrixError
from sim.importers.text_lines import Line, at

_TITLE = re.compile(r"={3,} ?(.{1,60}?) ?={3,}$")
_NODE = re.compile(r"GPU\[(\d{1,4})\]\s*: \(Topology\) Numa Node: (-?\d{1,4})$")
_SERIES = re.compile(r"GPU\[(\d{1,4})\]\s*: Card [Ss]eries:\s*(\S.*)$")
_LINKS = "Link Type between two GPUs"


def is_rocm(lines: Sequence[Line]) -> bool:
    """Whether this is output of rocm-smi with links between GPUs."""
    return any(_LINKS in line.text for line in lines)


def read_rocm_topology(lines: Sequence[Line]) -> HostTree:
    """The tree of a host: each GPU has a root port of its own, xGMI joins those that it says.

    Raises:
        MatrixError: a row is cut off, or has a word that means nothing.
    """
    columns: list[str] = []
    cells: dict[tuple[int, int], str] = {}
    nodes: dict[int, int] = {}
    names: dict[int, str] = {}
    rows = 0
    inside = False
    for line in lines:
        words = line.text.split()
        if (title := _TITLE.match(line.text.strip())) is not None:
            inside = title[1] == _LINKS
        elif (node := _NODE.match(line.text.strip())) is not None:
            nodes[int(node[1])] = int(node[2])
        elif (series := _SERIES.match(line.text.strip())) is not None:
            names[int(series[1])] = series[2]
        elif inside and words and re.fullmatch(r"GPU\d+", words[0]):
            if not columns:
                columns = words
                continue
            if words[0] not in columns or rows >= len(columns):
                raise MatrixError(at(line, f"{words[0]} is no GPU of the header"))
            wrong = next((word for word in words[1:] if word not in ("0", "XGMI", "PCIE", "N/A")), None)
            if len(words) != len(columns) + 1 or wrong is not None:
                said = f"has {wrong!r}, which is no link" if wrong else f"has {len(words) - 1} of {len(columns)} links"
                raise MatrixError(at(line, f"the row of {words[0]} {said}: is it cut off?"))
            rows += 1
            cells |= {(columns.index(words[0]), j): word for j, word in enumerate(words[1:])}
    if not columns or rows != len(columns) or len(set(columns)) != len(columns):
        raise MatrixError(f"has {rows} of {len(columns)} rows of {_LINKS!r}: is it cut off?")
    near = [nodes.get(gpu, 0) for gpu in range(len(columns))]
    known = list(dict.fromkeys(near))
    places = [Place(names.get(g, ""), known.index(node), f"node {node}", ()) for g, node in enumerate(near)]
    pairs = {pair: 1 for pair, word in sorted(cells.items()) if word == "XGMI" and pair[0] < pair[1]}
    remarks = ["rocm-smi tells no switches: each GPU is taken to have a root port of its own"]
    if pairs:
        remarks.append("rocm-smi tells no number of xGMI links: one a pair is taken")
    return HostTree(tuple(places), pairs, tuple(remarks), {}, "Numa Node" if nodes else "nothing")
