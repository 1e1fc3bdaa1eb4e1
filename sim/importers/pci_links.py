"""PCIe links: what their generation and width stand for, and what copies move over them until it is measured."""

from __future__ import annotations

import re
from typing import NamedTuple

LANE = {1: 0.25e9, 2: 0.5e9, 3: 0.9846e9, 4: 1.9692e9, 5: 3.9385e9, 6: 7.5625e9}
"""B/s of one lane in one direction after line coding, by generation (PCI Express Base Specification)."""

WIDTHS = (1, 2, 4, 8, 12, 16, 32)
"""Lanes that a link may have."""

_TRANSFERS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
"""GT/s -> generation."""

_GEN4_SHARE = 25e9 / (LANE[4] * 16)
_GEN5_SHARE = 55.35e9 / (LANE[5] * 16)
_EFFICIENCY = {
    **dict.fromkeys(
        (1, 2, 3), (_GEN4_SHARE, "at the 79 % that copies move on A100s with Gen4 x16 (nvbandwidth, issue 53)")
    ),
    4: (_GEN4_SHARE, "at the 79 % that copies move on A100s with Gen4 x16 (nvbandwidth, issue 53)"),
    **dict.fromkeys((5, 6), (_GEN5_SHARE, "at the 88 % that copies move on h200x2-hostpath with Gen5 x16")),
}
"""Generation -> share of a link that copies were measured to move, and where."""


class PciLink(NamedTuple):
    """A link; `source` says who told. Without generation and width only `raw`, its B/s, is known."""

    generation: int
    width: int
    source: str
    raw: float = 0.0

    @property
    def limit(self) -> float:
        """B/s in one direction that no transfer exceeds."""
        return self.raw or LANE[self.generation] * self.width

    @property
    def kind(self) -> str:
        """Its name in a profile."""
        return f"PCIe Gen{self.generation} x{self.width}" if self.width else "PCIe"

    @property
    def rate(self) -> float:
        """B/s that copies are taken to move in one direction, to four digits."""
        share, _ = _EFFICIENCY[self._like]
        return float(f"{self.limit * share:.4g}")

    @property
    def said(self) -> str:
        """The source of `rate`."""
        _, evidence = _EFFICIENCY[self._like]
        name = self.kind.replace("PCIe Gen", "PCIe ").replace(" x", ".0 x") if self.width else "PCIe"
        return f"assumed: {name}, {self.limit / 1e9:.4g} GB/s ({self.source}), {evidence}"

    @property
    def _like(self) -> int:
        return self.generation if self.width else (5 if self.raw > 40e9 else 4)


def parse_link(text: str, source: str) -> PciLink:
    """A link as `gen4x16`, `Gen5 x8` or `5.0x16`. Raises ValueError."""
    match = re.fullmatch(
        r"(?:pcie\s*)?(?:gen\s*)?([1-6])(?:\.0)?\s*x\s*(1|2|4|8|12|16|32)", text.strip(), re.IGNORECASE
    )
    if match is None:
        raise ValueError(f"{text!r} is no PCIe link: expected a generation and a width, such as gen4x16")
    return PciLink(int(match[1]), int(match[2]), source)


def generation_of(transfers: float) -> int | None:
    """The generation of a link of so many GT/s."""
    return _TRANSFERS.get(transfers)


def link_of_rate(raw: float, source: str) -> PciLink | None:
    """The link of `raw` B/s, as hwloc has it; None if that is what an idle GPU shows, or nothing.

    Generation and width stay unknown where several make that rate: Gen3 x16 and Gen4 x8.
    """
    fits = [(g, w) for g, lane in LANE.items() for w in (1, 2, 4, 8, 16) if abs(raw / (lane * w) - 1) < 0.02]
    if not 0 < raw < 1e13 or any(g == 1 for g, _ in fits):
        return None
    return PciLink(*fits[0], source) if len(fits) == 1 else PciLink(0, 0, source, raw)
