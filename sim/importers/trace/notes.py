"""What an import found, assumed and left out, in words."""

from __future__ import annotations


class Notes:
    """Sentences of an import, each once, in the order in which they came up."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.assumed: list[str] = []
        self.left_out: list[str] = []

    def find(self, text: str) -> None:
        """Say what is in the trace."""
        self._add(self.found, text)

    def assume(self, text: str) -> None:
        """Say what is taken as so, although the trace does not say it."""
        self._add(self.assumed, text)

    def leave_out(self, text: str) -> None:
        """Say what is in the trace and not in the scenario."""
        self._add(self.left_out, text)

    @staticmethod
    def _add(to: list[str], text: str) -> None:
        if text not in to:
            to.append(text)

    def lines(self) -> list[str]:
        """All of them, each with what it is."""
        parts = (("found", self.found), ("assumed", self.assumed), ("left out", self.left_out))
        return [f"{what}: {text}" for what, texts in parts for text in texts]
