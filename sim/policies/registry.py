"""The kinds of policies that there are: found in this folder, in files of one's own, or registered by a program.

`kinds()` is what everything else asks. Files of one's own are named by the environment variable `FILES` (separated as
in PATH), so that worker processes know the same policies as the process that started them. A scenario file cannot name
them: to read a scenario never runs anything.
"""

from __future__ import annotations

import copyreg
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, reduce
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from operator import or_
from pathlib import Path
from pkgutil import iter_modules
from traceback import extract_tb
from typing import Any, NamedTuple, TypeVar, cast

from sim.inputs.config import InputError
from sim.inputs.input_files import read_bytes
from sim.policies.base import Policy
from sim.program import ProgramError

FILES = "CHUNKFLOW_SIM_POLICIES"
"""Environment variable that names files with policies of one's own."""

P = TypeVar("P", bound=Policy)


class _Loaded(NamedTuple):
    """What a user's file contained when it was run: the kinds that it registered, and its content."""

    kinds: tuple[str, ...]
    content: bytes


_KINDS: dict[str, type[Policy]] = {}
_LOADED: dict[Path, _Loaded] = {}


def register(policy: type[P]) -> type[P]:
    """Make a kind of policy known under its tag; to be used as a decorator.

    Raises:
        TypeError: it is not a policy, is not frozen, or has no tag of its own.
        ValueError: another class is known under its tag.
    """
    config = getattr(policy, "__struct_config__", None)
    if not issubclass(policy, Policy) or config is None or not config.frozen or not isinstance(config.tag, str):
        raise TypeError(f"{policy.__name__} is not a policy: expected class X(Policy, frozen=True, tag='x')")
    if config.tag == policy.__name__:
        raise TypeError(f"{policy.__name__} has no kind of its own: give the class tag='...'")
    known = _KINDS.get(config.tag)
    if known is not None and (known.__module__, known.__qualname__) != (policy.__module__, policy.__qualname__):
        raise ValueError(f"a policy of kind {config.tag!r} is there already, from {known.__module__}")
    _KINDS[config.tag] = policy
    copyreg.pickle(policy, _reduce)  # a worker process finds the class by its kind, wherever its module lies
    return policy


def unregister(kind: str) -> None:
    """Forget a kind of policy; no error if there is none."""
    _KINDS.pop(kind, None)


def load_policies(file: str | Path) -> tuple[str, ...]:
    """Run a Python file that registers policies; returns the kinds that it added.

    Worker processes that are started later run it too. A file that was loaded is not run again.

    Raises:
        InputError: the file cannot be read, fails, or registers nothing.
    """
    path = Path(file).resolve()
    if path in _LOADED:
        return _LOADED[path].kinds
    before = set(_KINDS)
    name = f"chunkflow_sim_policies_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = spec_from_file_location(name, path) if path.suffix == ".py" and path.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(str(file), "", "is not a Python file (.py) with policies")
    content = read_bytes(path)
    sys.modules[name] = module_from_spec(spec)  # annotations of structs are looked up there
    try:
        spec.loader.exec_module(sys.modules[name])
    except Exception as error:
        del sys.modules[name]
        for kind in set(_KINDS) - before:
            unregister(kind)
        raise InputError(str(file), "", f"fails: {type(error).__name__}: {error}") from error
    added = tuple(kind for kind in _KINDS if kind not in before)
    if not added:
        del sys.modules[name]
        raise InputError(str(file), "", "registers no policy: put @register above the class")
    _LOADED[path] = _Loaded(added, content)
    # workers may run in another folder
    listed = [str(Path(part).resolve()) for part in os.environ.get(FILES, "").split(os.pathsep) if part]
    os.environ[FILES] = os.pathsep.join(dict.fromkeys([*listed, str(path)]))
    return added


@contextmanager
def naming_own_file(policy: Policy) -> Iterator[None]:
    """Turn what a policy of one's own raises into an error that says where in its file.

    Raises:
        InputError: of the file, with the line of it that was run last.
    """
    file = getattr(sys.modules.get(type(policy).__module__), "__file__", None)
    try:
        yield
    except (InputError, ProgramError, MemoryError):
        raise
    except Exception as error:
        if file is None or Path(file) not in _LOADED:
            raise
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == file]
        where = f"line {lines[-1]}: " if lines else ""
        raise InputError(file, "", f"{where}{type(error).__name__}: {error}") from error


def loaded_contents() -> tuple[bytes, ...]:
    """Contents of the files of one's own that were loaded: results depend on them."""
    kinds()
    return tuple(loaded.content for loaded in _LOADED.values())


def kinds() -> dict[str, type[Policy]]:
    """Kind -> class of every known policy, those of this folder first. Raises `InputError` for a file that fails."""
    _import_shipped()
    for file in filter(None, os.environ.get(FILES, "").split(os.pathsep)):
        load_policies(file)
    return dict(_KINDS)


@cache
def _import_shipped() -> None:
    import sim.policies

    for module in iter_modules(sim.policies.__path__):
        import_module(f"sim.policies.{module.name}")


def fields_of(kind: object) -> frozenset[str] | None:
    """Keys that a policy of `kind` has in a scenario file; None for an unknown kind."""
    policy = kinds().get(kind) if isinstance(kind, str) else None
    return None if policy is None else frozenset({"kind", *policy.__struct_fields__})


def all_fields() -> frozenset[str]:
    """Keys that a policy of any kind has in a scenario file."""
    return frozenset({"kind"}.union(*(policy.__struct_fields__ for policy in kinds().values())))


def union() -> Any:
    """The type that a scenario's key `policy` is read as: any of the kinds known now."""
    return reduce(or_, cast(Any, kinds().values()))


def _reduce(policy: Policy) -> tuple[Any, ...]:
    return _restore, (policy.kind, {name: getattr(policy, name) for name in policy.__struct_fields__})


def _restore(kind: str, fields: dict[str, Any]) -> Policy:
    return kinds()[kind](**fields)
