"""GPUs by name: what a profile says of the device, and its links, where a file only names it.

Shipped profiles give their devices; others have their vendor's datasheet, and the efficiencies of the profile that an
imported one is like.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sim.hardware.profile_files import profile_file, read_profile
from sim.importers.pci_links import PciLink, parse_link

SHEET = "vendor datasheet"


class Card(NamedTuple):
    """A GPU: GB, dense bf16 TFLOP/s, GB/s; `nvlinks` (xGMI links) of `nvlink` B/s each way; `p2p`: if drivers allow it
    over PCIe."""

    name: str
    pattern: str
    """What holds all of its words, and no others', in lower case without blanks and hyphens."""
    memory: float = 0.0
    flops: float = 0.0
    hbm: float = 0.0
    pcie: str = "gen4x16"
    nvlinks: int = 0
    nvlink: float = 25e9
    p2p: bool = True
    shipped: str = ""
    """A shipped profile whose device it is, but for memory and rates that are given here."""
    duplex: tuple[float, float, str] | None = None
    """Rates of H2D and D2H copies at once, B/s, and who measured them, where that is known of the card."""

    @property
    def link(self) -> PciLink:
        """Its PCIe link."""
        return parse_link(self.pcie, f"{SHEET} of {self.name}")

    def device(self) -> dict[str, Any]:
        """A profile's `device`, or what it says other than the profile that it is like."""
        own: dict[str, Any] = {}
        if self.memory:
            own["memory"] = {"value": f"{self.memory:g} GB", "source": SHEET}
        if self.flops:
            own["peak_flops"] = {"value": f"{self.flops:g} TFLOP/s", "source": f"{SHEET}, dense bf16"}
        if self.hbm:
            own["hbm_bandwidth"] = {"value": f"{self.hbm:g} GB/s", "source": SHEET}
        if not self.shipped:
            return {"name": self.name, **own}
        device = read_profile(profile_file(self.shipped))["device"]
        kept = {k: {"inherited_from": self.shipped, **v} if isinstance(v, dict) else v for k, v in device.items()}
        return kept | own | {"name": self.name}


_A100 = (11e9, 25e9, "nvbandwidth of A100s, issues 11 and 53: H2D 11 to 13 GB/s beside D2H 24 to 25")
_A100S = "a100x8-nvlink"

CARDS = (
    Card("NVIDIA GH200", r"gh200", 96, 989, 4000, "gen5x16", 18),
    Card("NVIDIA H200 NVL", r"h200nvl", 141, 835, 4800, "gen5x16", 18),
    Card("NVIDIA H200", r"h200", pcie="gen5x16", nvlinks=18, shipped="h200x2-hostpath"),
    Card("NVIDIA H100 NVL", r"h100nvl", 94, 835, 3900, "gen5x16", 12),
    Card("NVIDIA H100 PCIe", r"h100(?:80gb)?pcie", pcie="gen5x16", nvlinks=12, shipped="h100x2-pcie"),
    Card("NVIDIA H100 SXM", r"h100", pcie="gen5x16", nvlinks=18, shipped="h100x8-nvlink"),
    Card("NVIDIA H800", r"h800", 80, 989, 3350, "gen5x16", 8),
    Card("NVIDIA H20", r"h20", pcie="gen5x16", nvlinks=18, shipped="h20x8-nvlink"),
    Card("NVIDIA B300", r"b300", 288, 2250, 8000, "gen6x16", 18, 50e9),
    Card("NVIDIA B200", r"b200", 180, 2250, 8000, "gen5x16", 18, 50e9),
    Card("NVIDIA A100-SXM4-40GB", r"a100sxm440gb", 40, hbm=1555, nvlinks=12, shipped=_A100S, duplex=_A100),
    Card("NVIDIA A100 80GB PCIe", r"a10080gbpcie|a100pcie80gb", 80, hbm=1935, nvlinks=12, shipped=_A100S, duplex=_A100),
    Card("NVIDIA A100-PCIE-40GB", r"a100pcie", 40, hbm=1555, nvlinks=12, shipped=_A100S, duplex=_A100),
    Card("NVIDIA A100-SXM4-80GB", r"a100", nvlinks=12, shipped=_A100S, duplex=_A100),
    Card("NVIDIA A800", r"a800", 80, nvlinks=8, shipped=_A100S),
    Card("NVIDIA A40", r"a40(?!\d)", 48, 149.7, 696, "gen4x16", 4, 14.06e9),
    Card("NVIDIA A30", r"a30(?!\d)", 24, 165, 933, "gen4x16", 4),
    Card("NVIDIA A10G", r"a10g", 24, 70, 600, "gen4x16"),
    Card("NVIDIA A10", r"a10(?!\d)", 24, 125, 600, "gen4x16"),
    Card("NVIDIA L40S", r"l40s", 48, 362, 864, "gen4x16"),
    Card("NVIDIA L40", r"l40", pcie="gen4x16", shipped="l40x8-pcie"),
    Card("NVIDIA L20", r"l20(?!\d)", 48, 119.5, 864, "gen4x16"),
    Card("NVIDIA L4", r"l4(?!\d)", 24, 121, 300, "gen4x16"),
    Card("NVIDIA V100-SXM2-32GB", r"v100.*32gb", 32, 125, 900, "gen3x16", 6),
    Card("NVIDIA V100-SXM2-16GB", r"v100", 16, 125, 900, "gen3x16", 6),
    Card("NVIDIA P100", r"p100", 16, 21.2, 732, "gen3x16", 4, 20e9),
    Card("NVIDIA T4", r"t4(?!\d)", pcie="gen3x16", shipped="t4x4-pcie"),
    Card("NVIDIA RTX PRO 6000 Blackwell", r"rtxpro6000|rtx6000d", 96, 503.8, 1792, "gen5x16"),
    Card("NVIDIA RTX 6000 Ada Generation", r"6000ada", 48, 364.2, 960, "gen4x16"),
    Card("NVIDIA RTX A6000", r"a6000", 48, 154.8, 768, "gen4x16", 4, 14.06e9),
    Card("NVIDIA RTX A5000", r"a5000", 24, 111.1, 768, "gen4x16", 4, 14.06e9),
    Card("NVIDIA RTX A4000", r"a4000", 16, 76.7, 448, "gen4x16"),
    Card("NVIDIA GeForce RTX 5090", r"5090", pcie="gen5x16", p2p=False, shipped="rtx5090x2-gen5-x8"),
    Card("NVIDIA GeForce RTX 5080", r"5080", 16, 112.6, 960, "gen5x16", p2p=False),
    Card("NVIDIA GeForce RTX 5070 Ti", r"5070ti", 16, 87.9, 896, "gen5x16", p2p=False),
    Card("NVIDIA GeForce RTX 5060 Ti", r"5060ti", 16, 47.4, 448, "gen5x8", p2p=False),
    Card("NVIDIA GeForce RTX 4090", r"4090", pcie="gen4x16", p2p=False, shipped="rtx4090x2-gen4-x8"),
    Card("NVIDIA GeForce RTX 4080", r"4080", 16, 97.5, 716.8, "gen4x16", p2p=False),
    Card("NVIDIA GeForce RTX 3090", r"3090", 24, 71, 936, "gen4x16", 4, 14.06e9, p2p=False),
    Card("NVIDIA GeForce RTX 3080", r"3080", 10, 59.5, 760, "gen4x16", p2p=False),
    Card("NVIDIA GeForce RTX 2080 Ti", r"2080ti", 11, 53.8, 616, "gen3x16", 2, p2p=False),
    Card("AMD Instinct MI355X", r"mi355", 288, 2500, 8000, "gen5x16", 7, 76.8e9),
    Card("AMD Instinct MI300X", r"mi300", 192, 1307, 5300, "gen5x16", 7, 64e9),
    Card("AMD Instinct MI250X", r"mi250", 64, 191.5, 1638, "gen4x16", 8, 50e9),
)  # fmt: skip
"""More specific names first. GeForce: dense bf16 with fp32 accumulation. V100, P100, T4, RTX 2080 Ti: fp16."""


def card_of(name: str) -> Card | None:
    """The card of a name as drivers, lspci or a user write it; None for one that is not known."""
    plain = re.sub(r"[\s_/()-]|nvidia|geforce|tesla|quadro|amd|instinct|corporation", "", name.lower())
    return next((card for card in CARDS if re.search(rf"(?<!\d)(?:{card.pattern})", plain)), None)


def known_names() -> str:
    """Names of all cards, for a message."""
    return ", ".join(card.name.removeprefix("NVIDIA ") for card in CARDS)
