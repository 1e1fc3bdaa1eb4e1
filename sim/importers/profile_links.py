"""The links of a profile's plain topology: one at a time, changed, and put together again where they are alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.hardware import Profile
from sim.inputs.config import InputError
from sim.inputs.units import Bandwidth, parse

Plain = dict[str, Any]


def rate_of(number: Any) -> float:
    """B/s of a number of a profile; 0 if it has none."""
    return float(parse(Bandwidth, number["value"])) if isinstance(number, dict) and "value" in number else 0.0


def is_assumed(number: Any) -> bool:
    """Whether a number was not measured on its host, by its source."""
    return isinstance(number, dict) and str(number.get("source", "")).startswith("assumed")


class Links:
    """Links of plain data, every `{gpu}` replaced: `(ends, link)`, and which of them copies of each GPU cross."""

    def __init__(self, plain: Plain, profile: Profile) -> None:
        self.topology: Plain = plain["topology"]
        self.profile = profile
        self.single: list[Plain] = []
        for link in self.topology["links"]:
            if link.get("mesh"):
                self.single.append(dict(link))
                continue
            first, second = link["ends"]
            templated = "{gpu}" in first + second
            for gpu in link.get("gpus", range(profile.gpus)) if templated else (None,):
                ends = [end.replace("{gpu}", str(gpu)) for end in (first, second)]
                self.single.append({**{k: v for k, v in link.items() if k != "gpus"}, "ends": ends})

    def of_gpu(self, gpu: int, source: str) -> tuple[Plain, bool]:
        """(the link by which copies reach a GPU, whether its first end is the GPU). Raises InputError of `source`."""
        route = self.profile.graph.copy(gpu, "h2d")
        names = {self.profile.graph.names[resource] for resource, _ in route}
        for link in self.single:
            if link.get("mesh") or f"gpu{gpu}" not in link["ends"]:
                continue
            a, b = link["ends"]
            if names & {f"{a}>{b}", f"{b}>{a}", f"{a}-{b}"}:
                return link, a == f"gpu{gpu}"
        raise InputError(source, "", f"{self.profile.name} has no PCIe link of gpu{gpu} with a capacity")

    def above(self, gpus: tuple[int, ...]) -> Iterator[tuple[Plain, bool, tuple[int, ...]]]:
        """Links that copies of several of `gpus` share: (link, whether H2D goes its forward way, those GPUs)."""
        graph = self.profile.graph
        users: dict[str, list[int]] = {}
        for gpu in gpus:
            for resource, _ in graph.copy(gpu, "h2d"):
                users.setdefault(graph.names[resource], []).append(gpu)
        for link in self.single:
            if link.get("mesh"):
                continue
            a, b = link["ends"]
            for forward, name in ((True, f"{a}>{b}"), (False, f"{b}>{a}")):
                if len(sharing := tuple(dict.fromkeys(users.get(name, ())))) > 1:
                    yield link, forward, sharing

    def store(self) -> None:
        """Put the links back into the topology, those that are alike as one."""
        together: list[Plain] = []
        for link in self.single:
            form, gpu = _form(link)
            if gpu is not None:
                alike = next((one for one in together if {k: v for k, v in one.items() if k != "gpus"} == form), None)
                if alike is not None and "gpus" in alike:
                    alike["gpus"].append(gpu)
                    continue
                together.append({"ends": form["ends"], "gpus": [gpu], **{k: v for k, v in form.items() if k != "ends"}})
            else:
                together.append(link)
        self.topology["links"] = together


def _form(link: Plain) -> tuple[Plain, int | None]:
    """A link with `{gpu}` for the GPU that one of its ends is, and that GPU; None where none or both are."""
    gpus = [end for end in link.get("ends") or () if end.startswith("gpu") and end[3:].isdecimal()]
    if len(gpus) != 1:
        return link, None
    ends = ["gpu{gpu}" if end == gpus[0] else end for end in link["ends"]]
    return {**link, "ends": ends}, int(gpus[0][3:])


def set_direction(link: Plain, forward: bool, number: Plain) -> None:
    """Give one direction of a link a capacity; what stood for both stays for the other."""
    both = link.pop("each_way", None)
    if both is not None:
        link["there"], link["back"] = both, both
    link["there" if forward else "back"] = number
    if link.get("there") == link.get("back"):
        link["each_way"] = link.pop("there")
        link.pop("back")


def direction(link: Plain, forward: bool) -> Any:
    """The capacity of one direction of a link; None if it has none."""
    return link.get("each_way") or link.get("there" if forward else "back")
