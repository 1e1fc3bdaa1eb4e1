"""Dumps of hosts as `nvidia-smi topo -m` prints them, in the shapes that public reports show; values are our own."""

from __future__ import annotations

from collections.abc import Sequence

SHORT = {"X": " X ", "S": "SYS", "N": "NODE", "H": "PHB", "B": "PXB", "P": "PIX", "O": "SOC"}

LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def cell(code: str) -> str:
    return SHORT.get(code, f"NV{code}" if code.isdecimal() else code)


def dump(
    rows: str,
    numa: Sequence[str] = (),
    nics: int = 0,
    nic: str = "NIC{}",
    gap: str = "\t",
    ansi: bool = False,
    last: bool = True,
) -> str:
    """`rows`: a line a device, cells between blanks: X S N H B P O, or how many NVLinks. GPUs first, then `nics`."""
    cells = [[cell(code) for code in row.split()] for row in rows.split("/")]
    gpus = len(cells) - nics
    names = [f"GPU{g}" for g in range(gpus)] + [nic.format(n) for n in range(nics)]
    heads = (
        names
        + (["CPU Affinity"] if numa else [])
        + (["NUMA Affinity"] if numa and numa[0] else [])
        + (["GPU NUMA ID"] if last and numa else [])
    )
    header = gap + gap.join(f"\x1b[4m{h}\x1b[0m" if ansi else h for h in heads)
    lines = [header]
    for i, row in enumerate(cells):
        extra = (
            [f"{i * 8}-{i * 8 + 7}", *([numa[i]] if numa[i] else []), *(["N/A"] if last else [])]
            if numa and i < gpus
            else []
        )
        lines.append(gap.join([names[i], *row, *extra]))
    return "\n".join(lines) + "\n" + LEGEND


def all_nvlink(count: int, links: int) -> str:
    return "/".join(" ".join("X" if a == b else str(links) for b in range(count)) for a in range(count))


def wrapped(text: str, width: int) -> str:
    """As a terminal of `width` characters breaks lines between cells."""
    lines = []
    for line in text.split("\n\n")[0].splitlines():
        at = ""
        for piece in line.expandtabs(8).rstrip().replace("  ", " \0").split("\0"):
            if len(at) + len(piece) > width:
                lines.append(at)
                at = ""
            at += piece + " "
        lines.append(at)
    return "\n".join(lines) + "\n"


PXB_PAIRS = dump(
    "X B N N S S S S/B X N N S S S S/N N X B S S S S/N N B X S S S S/S S S S X B N N/S S S S B X N N/S S S S N N X B/S S S S N N B X",
    "00001111",
    gap="    ",
    last=False,
)
DGX_H100 = dump(
    "X 18 18 18 B N S S/18 X 18 18 N B S S/18 18 X 18 S S B N/18 18 18 X S S N B/B N S S X N S S/N B S S N X S S/S S B N S S X N/S S N B S S N X",
    "0011",
    nics=4,
)
DGX_A100 = dump(
    "X 12 12 12 B B S/12 X 12 12 B B S/12 12 X 12 S S B/12 12 12 X S S B/B B S S X P S/B B S S P X S/S S B B S S X",
    ["3", "3", "1", "1"],
    nics=3,
    nic="mlx5_{}",
)
ALL_SYS = dump("/".join(" ".join("X" if a == b else "S" for b in range(8)) for a in range(8)), "00001111")
NODE_4 = dump("X N N N/N X N N/N N X N/N N N X", "0000")
BRIDGED_3090 = dump("X 4/4 X", "00")
DGX_1 = dump(
    "X 1 1 2 2 O O O P O/1 X 2 1 O 2 O O P O/1 2 X 2 O O 1 O O P/2 1 2 X O O O 1 O P/2 O O O X 1 1 2 O O/O 2 O O 1 X 2 1 O O/O O 1 O 1 2 X 2 O O/O O O 1 2 1 2 X O O/P P O O O O O O X O/O O P P O O O O O X",
    [""] * 8, nics=2, nic="mlx5_{}", last=False,
)  # fmt: skip
DESKTOPS_4090 = dump("X H S S/H X S S/S S X H/S S H X", "0011", ansi=True)
NESTED = dump("X P B B/P X B B/B B X P/B B P X", "0000")
SINGLE = dump("X", "0")
NPS4 = dump("X S S S/S X S S/S S X S/S S S X", ["3", "1", "7", "5"])
GB_4 = dump(all_nvlink(4, 18), "0011")
NO_AFFINITY = "GPU0 GPU1\nGPU0 X PHB\nGPU1 PHB X\n"
MESH_A100 = dump(all_nvlink(4, 4), "0123")
WIDE = wrapped(DGX_H100, 60)
UNEVEN = dump("X P P N N/P X P N N/P P X N N/N N N X H/N N N H X", "00000")
MARKDOWN = """\
| | GPU0 | GPU1 | CPU Affinity | NUMA Affinity |
|---|---|---|---|---|
| GPU0 | X | PHB | 0-15 | N/A |
| GPU1 | PHB | X | 0-15 | N/A |
"""
DEGRADED = dump("X 18 16 18/18 X 16 18/16 16 X 16/18 18 16 X", "0000")
TIMED = "".join(
    f"2026-01-02T03:04:05.12{n}Z {line}\n"
    for n, line in enumerate(
        ("\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID", "GPU0\t X \tPHB\t0-7\t\t\tN/A", "GPU1\tPHB\t X \t0-7\t\t\tN/A")
    )
)  # fmt: skip
INDENTED = "".join(f"    {line}\n" for line in ("```", *dump("X P/P X", "00").splitlines(), "```"))
NODE_LISTS = (
    "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
    "GPU0\t X \tNV18\t0-71\t0,2-17\t2\nGPU1\tNV18\t X \t72-143\t1,18-33\t18\n"
)
OLD_NICS = (
    "\tGPU0\tGPU1\tmlx5_0\tib0\tCPU Affinity\nGPU0\t X \tNV2\tPIX\tPHB\t0-19,40-59\n"
    "GPU1\tNV2\t X \tSYS\tSYS\t20-39,60-79\nmlx5_0\tPIX\tSYS\t X \tPHB\t\nib0\tPHB\tSYS\tPHB\t X\n"
)


def rocm(count: int, nodes: str, link: str = "XGMI") -> str:
    """What `rocm-smi --showtopo` prints."""

    def table(title: str, own: str, other: str) -> str:
        heads = [f"GPU{g}" for g in range(count)]
        rows = [head.ljust(7) + "".join((own if head == h else other).ljust(13) for h in heads) for head in heads]
        return "\n".join([f" {title} ".center(90, "="), " " * 7 + "".join(h.ljust(13) for h in heads), *rows, ""])

    text = "\n" + " ROCm System Management Interface ".center(90, "=") + "\n"
    text += table("Weight between two GPUs", "0", "15") + "\n" + table("Hops between two GPUs", "0", "1") + "\n"
    text += table("Link Type between two GPUs", "0", link) + "\n" + " Numa Nodes ".center(90, "=") + "\n"
    for gpu, node in enumerate(nodes):
        text += f"GPU[{gpu}]\t\t: (Topology) Numa Node: {node}\nGPU[{gpu}]\t\t: (Topology) Numa Affinity: {node}\n"
    return text + " End of ROCm SMI Log ".center(90, "=") + "\n"
