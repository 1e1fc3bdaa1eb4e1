"""A policy in words, as all tables, pages and sentences name it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from sim.inputs import units
from sim.inputs.config import InputError, convert
from sim.inputs.units import Bytes, Seconds
from sim.policies.base import Policy
from sim.policies.registry import union

_SHORT = {"chunk_bytes": "{}", "resident_fraction": "r={}", "prefetch_layers": "k={}"}
"""What table cells call the parameters that most policies have."""


def parameters(policy: Policy) -> dict[str, str]:
    """Keys that differ from their defaults, with values as a scenario file may give them."""
    fields = {f.name: f for f in msgspec.structs.fields(policy)}
    given = {name: getattr(policy, name) for name in fields}
    return {n: _written(v) for n, v in given.items() if fields[n].required or v != fields[n].default}


def describe(policy: Policy, short: bool = False) -> str:
    """A policy as a scenario file writes it, without what is by default: "yielding, chunk_bytes: 16 MiB, drain: true".

    Between braces, after "kind: ", this is YAML for the same policy. `short` is for cells of tables: the label, the
    chunk size, the resident fraction r and the prefetch depth k, such as "yielding+drain 16 MiB r=0.5 k=2".
    """
    if not short:
        return ", ".join([policy.kind, *(f"{name}: {value}" for name, value in parameters(policy).items())])
    shown = brief_parameters(policy)
    rest = [name for name in shown if name not in _SHORT and name not in policy.label_fields]
    words = [form.format(shown[name]) for name, form in _SHORT.items() if name in shown]
    return " ".join([policy.label(), *words, *(f"{name}={shown[name]}" for name in rest)])


def describe_plain(data: object) -> str:
    """`describe` of a policy in plain data, as an axis of a sweep holds it; what is not a policy is shown as it is."""
    if not isinstance(data, Mapping):
        return str(data)
    try:
        policy: Policy = convert(data, union(), "policy")
    except InputError:
        return json.dumps(data)
    return describe(policy, short=True)


def difference(policy: Policy, variant: Policy) -> str:
    """What `variant` changes of `policy`: "prefetch_layers: 2", or "kind: chunked, chunk_bytes: 16 MiB".

    A key that the variant leaves out is named so: "window: device_gate, without slots".
    """
    defaults = {f.name: _written(f.default) for f in msgspec.structs.fields(variant) if not f.required}
    before, after = {**defaults, **parameters(policy)}, {**defaults, **parameters(variant)}
    changed = [
        f"without {name}"
        if getattr(variant, name) is None
        else f"{name}: {_brief(getattr(variant, name), after[name])}"
        for name in variant.__struct_fields__
        if after[name] != before.get(name)
    ]
    return ", ".join([f"kind: {variant.kind}", *changed] if policy.kind != variant.kind else changed)


def brief_parameters(policy: Policy) -> dict[str, str]:
    """As `parameters`, of long rows of numbers only the ends."""
    return {name: _brief(getattr(policy, name), written) for name, written in parameters(policy).items()}


def _brief(value: object, written: str) -> str:
    """What is written of a value; of a long row of numbers only its ends."""
    if isinstance(value, tuple) and len(value) > 3 and isinstance(value[0], int):
        first, last = value[0], value[-1]
        if value == tuple(range(first, first + len(value))):
            return f"[{first}, ..., {last}]"
    return written


def _written(value: object) -> str:
    if isinstance(value, Bytes):
        return units.write_bytes(value)
    if isinstance(value, Seconds):
        return units.write_seconds(value)
    plain = msgspec.to_builtins(value, enc_hook=units.plain)
    if isinstance(plain, float):
        short = f"{plain:g}"
        return short if float(short) == plain else repr(plain)
    return plain if isinstance(plain, str) else json.dumps(plain)
