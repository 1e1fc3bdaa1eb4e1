"""What a point's figures follow from: read once, known by its content, and all that a worker process needs."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sim.hardware import Profile, to_plain
from sim.inputs import units
from sim.policies import Policy, loaded_contents
from sim.run import Result, simulate
from sim.scenario import Scenario
from sim.timeline.settling import MAX_STEPS
from sim.workloads.named import remembered

_SHOWING = ("cli", "cli.py", "report")
"""Parts of the package that only show figures: rows do not depend on them."""


NAMING = ("model", "program")
"""Keys of a workload that name a file, or something shipped."""


class Job(NamedTuple):
    """A scenario with the content of its hardware profile and models by name, and the digest of the code to run it."""

    scenario: Scenario
    profile: Profile
    models: dict[str, Any]
    """Models and recorded programs."""
    code: str
    causes: bool = False
    """Whether the causes of the critical path are wanted, too."""
    shortcuts: bool | None = None
    """Whether layers that are found to repeat may be left out; None: as `sim.run.simulate` does by itself."""
    max_steps: int = MAX_STEPS
    """Steps that are simulated to see them settle, at most."""

    @classmethod
    def of(cls, scenario: Scenario, profile: Profile | None = None, causes: bool = False) -> Job:
        """What is run for a scenario, on its own profile unless another is given. Reads its model and profile.

        Raises:
            InputError: one of them cannot be read, or does not fit the scenario.
        """
        with remembered({}) as models:
            scenario.workload.resolve(scenario.world_size)
        return cls(scenario, profile or scenario.profile(), models, code_digest(), causes)

    def with_policy(self, policy: Policy) -> Job:
        """The same workload on the same host under another policy."""
        return self._replace(scenario=msgspec.structs.replace(self.scenario, policy=policy))

    def key(self) -> str:
        """Of the content that its figures follow from: equal for scenarios that say the same in other words.

        The names by which a scenario calls its profile and its model do not count, their content does.
        """
        plain = msgspec.to_builtins(self.scenario, enc_hook=units.plain)
        del plain["hardware"]
        for key in NAMING:
            plain["workload"].pop(key, None)
        models = list(self.models.values())
        content = [
            plain,
            to_plain(self.profile),
            models,
            self.code,
            self.causes,
            self.shortcuts,
            self.max_steps,
            sys.version,
        ]
        return hashlib.sha256(canonical(content)).hexdigest()

    def simulate(self) -> Result:
        """Run it on the simulated machine; no file is read.

        Raises:
            StaleCodeError: this process has loaded other code.
            Exception: whatever `sim.run.simulate` raises.
        """
        if self.code != code_digest():
            raise StaleCodeError("the code of chunkflow-sim was changed while this ran")
        with remembered(self.models):
            if self.shortcuts is None:
                return simulate(self.scenario, self.profile, max_steps=self.max_steps)
            return simulate(self.scenario, self.profile, shortcuts=self.shortcuts, max_steps=self.max_steps)


class StaleCodeError(Exception):
    """Processes of one run have different code."""


class Identity(NamedTuple):
    """Digests of all that a point's figures follow from: its plain data, and the content of everything it names."""

    scenario: str
    profile: str
    model: str
    code: str

    def __str__(self) -> str:
        return "-".join(self)

    @classmethod
    def parse(cls, text: str) -> Identity | None:
        """What `str` gave; None for anything else."""
        parts = text.split("-")
        return cls(*parts) if len(parts) == len(cls._fields) else None

    def changes(self, old: Identity) -> list[str]:
        """What is not as in `old`, in words."""
        words = ("scenario", "hardware profile", "model", "version or code of chunkflow-sim")
        return [word for word, new, was in zip(words, self, old, strict=True) if new != was]


def canonical(data: object) -> bytes:
    """`data` as JSON in which equal data are equal bytes."""
    return msgspec.json.encode(msgspec.to_builtins(data, str_keys=True, enc_hook=units.plain), order="sorted")


def digest(data: bytes) -> str:
    """Twelve hexadecimal digits that other data hardly share."""
    return hashlib.sha256(data).hexdigest()[:12]


def profile_digest(profile: Profile) -> str:
    """Of all that the profile holds, what it has from others included."""
    return digest(canonical(to_plain(profile)))


def models_digest(models: dict[str, Any]) -> str:
    """Of the shapes of `models`, by name; a file's path does not count, so that it can be moved."""
    return digest(canonical({as_named(name): model for name, model in models.items()}))


def as_named(model: str) -> str:
    """The name by which a digest knows a model: without the folder of a path, which says where a file lies today."""
    return Path(model).name if Path(model).is_absolute() else model


def scenario_digest(plain: Mapping[str, Any]) -> str:
    """Of a scenario's plain data, wherever the file of its model lies."""
    workload = plain.get("workload")
    if isinstance(workload, Mapping):
        named = {key: as_named(name) for key in NAMING if isinstance(name := workload.get(key), str)}
        plain = {**plain, "workload": {**workload, **named}}
    return digest(canonical(plain))


def _package_digest() -> str:
    root = Path(__file__).parents[1]
    code = hashlib.sha256(_version().encode())
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root)
        if name.parts[0] not in _SHOWING:
            code.update(f"\0{name.as_posix()}\0".encode() + file.read_bytes())
    return code.hexdigest()[:12]


def _version() -> str:
    try:
        return version("chunkflow-sim")
    except PackageNotFoundError:  # run from its folder
        return ""


_PACKAGE = _package_digest()
"""Of the version and the code of this package, as they were when this process loaded it."""


def code_digest() -> str:
    """Of the version and the code of this package and of policies of one's own, as this process loaded them."""
    return digest(_PACKAGE.encode() + b"".join(sorted(loaded_contents()))) if loaded_contents() else _PACKAGE
