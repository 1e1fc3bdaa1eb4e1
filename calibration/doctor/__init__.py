"""What is wrong with a host before anything is measured on it, and which path its collectives will take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from calibration.doctor import gpus, links, nccl, system
from calibration.doctor.findings import SEVERITIES, Finding, Severity
from calibration.host import Host

__all__ = ["SEVERITIES", "Finding", "Severity", "examine", "print_findings", "to_plain", "worst"]

CHECKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (
    gpus.check_gpus,
    gpus.check_processes,
    links.check_links,
    links.check_uplinks,
    nccl.check_collectives,
    links.check_isolation,
    gpus.check_power,
    system.check_memory,
    system.check_processors,
    system.check_software,
    system.check_environment,
)


def examine(host: Host) -> list[Finding]:
    """Everything that `host` shows, in the order of the checks."""
    return [finding for check in CHECKS for finding in check(host)]


def worst(findings: Iterable[Finding]) -> Severity:
    """The gravest severity; ok if there is nothing."""
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")


def to_plain(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """For JSON."""
    plain: list[dict[str, str]] = msgspec.to_builtins(findings)
    return plain


def print_findings(findings: Sequence[Finding]) -> None:
    """A table, the gravest last, where a terminal shows it."""
    from sim.report.terminal import show, styled, table

    styles = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
    made = table("", "topic", title="this host")
    for column in ("seen", "what to do"):
        made.add_column(column, overflow="fold")
    made.columns[1].justify = "left"
    for finding in sorted(findings, key=lambda f: SEVERITIES.index(f.severity)):
        severity = styled(finding.severity, styles[finding.severity])
        made.add_row(severity, finding.topic, finding.seen, finding.advice)
    show(made)
