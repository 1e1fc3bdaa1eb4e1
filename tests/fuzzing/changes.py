"""Good data made odd: values at keys, keys misspelt and lost, bytes of files changed."""

from __future__ import annotations

import copy
from functools import cache
from random import Random
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from odd_values import ODD, keys, put
from strategies import plain_data

INJECTED = "<img src=x onerror=alert(1)>"
"""Text that must not become an element of a page."""

TOKENS = [
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\t", b"\r", b"\n\n", b"---\n", b"...\n", b"%YAML 9.9\n", b"? ", b"- ", b": ", b"#"),
    *(b"!!python/object/apply:os.system ", b"!!bool x", b"!!timestamp x", b"!!set {a}", b"!x ", b"&a ", b"*a", b"<<: ", b"&a {x: *a}"),
    *(b"{", b"}", b"[", b"]", b"[" * 60, b"{a: " * 60, b"'", b'"', b'"\\ud800"', b"|\n", b">\n", b"@", b"`", b"%"),
    *(b"0x" + b"f" * 5000, b"1" * 5000, b"1e400", b".nan", b"-.inf", b"~", b"null", b"yes", b"1:30", b"017", b"0b11", b"2001-01-01"),
    *(b"\x1b[31m", b"\x1b]0;x\x07", b"[/x]", b"[bold]", b"[link=http://x]", INJECTED.encode(), b"=1+1", b":smile:", "‮".encode(), "é".encode("latin-1")),
]  # fmt: skip
"""What breaks readers of YAML, JSON and terminals."""


def pool(strategy: st.SearchStrategy[Any], count: int, number: int) -> list[Any]:
    """`count` examples of a hypothesis strategy, the same for the same `number`."""
    drawn: list[Any] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(example: Any) -> None:
        drawn.append(example)

    draw()
    return drawn


@cache
def plain_pool() -> list[Any]:
    """Anything that YAML and JSON can hold."""
    return pool(plain_data(), 1500, 1)


def odd_value(random: Random) -> Any:
    """A value to put somewhere: one that is known to break things, anything, or a number of any size."""
    how = random.random()
    if how < 0.6:
        return copy.deepcopy(random.choice(ODD))
    if how < 0.8:
        return copy.deepcopy(random.choice(plain_pool()))
    number = random.choice((random.randint(-2, 12), 2 ** random.randint(0, 70), 10.0 ** random.randint(-70, 40)))
    if random.random() < 0.5:
        return number
    return f"{number} {random.choice(('B', 'KiB', 'MiB', 'GB', 's', 'ms', 'us', 'B/s', 'GB/s', 'FLOP', 'TFLOP/s', 'x', '%'))}"


def odd(random: Random, good: Any, most: int = 3) -> Any:
    """`good` plain data with up to `most` changes; often one, sometimes none."""
    data = good
    for _ in range(random.choice((0, *(1,) * 4, *range(1, most + 1)))):
        paths = list(keys(data))
        if not paths:
            return data
        path, how = random.choice(paths), random.random()
        if how < 0.75:
            data = put(data, path, odd_value(random))
            continue
        data = copy.deepcopy(data)
        at = data
        for key in path[:-1]:
            at = at[key]
        if how < 0.85:
            del at[path[-1]]
        elif how < 0.93 and isinstance(at, dict):
            name = str(path[-1])
            at[random.choice((name[:-1], name + "s", name.upper(), f"{name}.x", odd_text(random)))] = at.pop(path[-1])
        else:  # a good value at another place
            other = random.choice(paths)
            value = data
            for key in other:
                value = value[key] if isinstance(value, dict | list) else value
            at[path[-1]] = copy.deepcopy(value) if sum(1 for _ in keys(value)) < 100 else None
    return data


def odd_text(random: Random) -> str:
    """A word or a few, some of which readers take for something else."""
    parts = [random.choice(TOKENS).decode(errors="replace")[:80] for _ in range(random.randint(0, 2))]
    return "".join([*parts, random.choice(("", "a", "x y", "policy", "0"))])


def damaged(random: Random, content: bytes) -> bytes:
    """A file with bytes lost, repeated, cut off or put in."""
    for _ in range(random.randint(1, 3)):
        at = random.randint(0, len(content))
        to = min(len(content), at + random.choice((1, 2, 8, 40, 400)))
        how = random.randrange(5)
        if how == 0:
            content = content[:at] + content[to:]
        elif how == 1:
            content = content[:to] + content[at:]
        elif how == 2 and random.random() < 0.3:
            content = content[:at]
        elif how == 3 and at < len(content):
            content = content[:at] + bytes([random.randrange(256)]) + content[at + 1 :]
        else:
            content = content[:at] + random.choice(TOKENS) + content[at:]
    return content


class _Dumper(yaml.SafeDumper):
    """Writes plain data without aliases, whole numbers of thousands of digits in base 16."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _whole(dumper: _Dumper, number: int) -> yaml.ScalarNode:
    text = str(number) if abs(number) < 10**4000 else hex(number)
    return dumper.represent_scalar("tag:yaml.org,2002:int", text)


_Dumper.add_representer(int, _whole)


def to_yaml(data: object) -> bytes:
    """Plain data as a YAML file."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False).encode(errors="replace")


def flow(data: object) -> str:
    """Plain data as a value of `--set`."""
    return yaml.dump(data, Dumper=_Dumper, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
