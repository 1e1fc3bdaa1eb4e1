"""`chunkflow-sim plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from sim.cli.common import (
    Failure,
    OutputPath,
    check_outputs_shared,
    evaluating,
    force_option,
    main,
    no_cache_option,
    note,
    parsed,
    say,
    with_exit_codes,
    workers_option,
)
from sim.cli.plan_measure import check_machine, measure, print_measured
from sim.cli.scenario_input import Given, scenario_options


def _size(text: str) -> int:
    """Bytes, of text such as 24GiB."""
    from sim.inputs import units

    return int(units.parse(units.Bytes, text))


def _share(text: str) -> float:
    """A share, of text such as 1% or 0.01."""
    from sim.inputs import units

    percent = text.strip().removesuffix("%")
    return float(units.parse(units.Number, percent)) / (100 if percent != text.strip() else 1)


def _counts(text: str) -> tuple[int, ...]:
    """Whole numbers, of text such as 1,2,4."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"expected whole numbers, such as 1,2,4, got {text!r}")
    return tuple(dict.fromkeys(map(int, parts)))


@main.command()
@scenario_options()
@click.option("--memory", callback=parsed(_size), help="Device memory, such as 24GiB; the card's unless given.")
@click.option(
    "--reserve",
    callback=parsed(_size),
    help="Of it, for what no peak counts: CUDA context, NCCL, encoders. What calibrate measured, or 0, unless given.",
)
@click.option(
    "--host-memory",
    callback=parsed(_size),
    help="Host memory for pinned weights of all ranks together; the profile's unless given.",
)
@click.option(
    "--within", callback=parsed(_share), default="1%", show_default=True, help="How much longer the smallest may take."
)
@click.option(
    "--runtime",
    default="today",
    show_default=True,
    help="Schedules of: any, sglang, vllm-omni, diffusers, or today (any of the three named ones).",
)
@click.option("--gpus", callback=parsed(_counts), help="Numbers of GPUs to compare, such as 1,2,4.")
@click.option("--parallelism", type=click.Choice(["auto"]), help="Compare the ways to divide a named model.")
@click.option(
    "--measure",
    "measured",
    type=click.IntRange(1, 100),
    help="Run this many of the best schedules, and the runner-up, on this host's GPUs, and report the regret.",
)
@click.option(
    "--measure-out", type=OutputPath(folder=True), help="Keep what was measured as a data set in this folder."
)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="What to measure on; GPUs unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--html", type=OutputPath(), help="Write a page to this file.")
@click.option("-o", "--out", type=OutputPath(), help="Write the chosen scenario to this file.")
@workers_option
@no_cache_option
@force_option
@with_exit_codes
def plan(
    given: Given,
    memory: int | None,
    reserve: int | None,
    host_memory: int | None,
    within: float,
    runtime: str,
    gpus: Sequence[int] | None,
    parallelism: str | None,
    measured: int | None,
    measure_out: Path | None,
    device: Literal["cuda", "cpu"] | None,
    as_json: bool,
    html: Path | None,
    out: Path | None,
    workers: int | None,
    no_cache: bool,
    force: bool,
) -> None:
    """Find the fastest schedule for the scenario FILE (- for standard input) that fits, and say why.

    The policy in FILE plays no part. Exit code 1 if nothing fits.
    """
    from sim.datasets.cases import CASES
    from sim.inputs.units import show_bytes
    from sim.planning import plan as search

    scenario, profile = given.load()
    if measured is None and (measure_out is not None or device is not None):
        raise click.UsageError("--measure-out and --device are for --measure")
    if measured is not None:
        check_machine(max(gpus or [scenario.world_size]), device)
    kept = (("--measure-out", measure_out / CASES, "RECORDS"),) if measure_out is not None else ()
    check_outputs_shared(force, ("--html", html, "PAGE"), ("--out", out, "SCENARIO"), *kept)
    card = profile.memory_of(scenario.gpus)
    if memory is not None and memory > card:
        note(f"--memory {show_bytes(memory)} is more than the GPU's {show_bytes(card)}")
    with evaluating(workers, no_cache) as evaluator:
        found = search(
            scenario,
            memory,
            within,
            runtime,
            gpus or (),
            parallelism,
            reserve,
            host_memory,
            profile=profile,
            evaluator=evaluator,
        )
    results = None if measured is None or found.best is None else measure(found, measured, device, measure_out)
    try:
        if as_json:
            import json

            more = {} if results is None else results.to_plain()
            click.echo(json.dumps({**found.to_plain(), **more}, indent=2))
        else:
            from sim.report.plan_tables import print_plan

            print_plan(given.name, found)
            if results is not None:
                print_measured(results)
    finally:  # also where whoever read the answer has gone
        if html is not None:
            from sim.report.plan_page import write_page

            write_page(html, given.name, found)
            say(f"page: {html}")
        if out is not None and found.best is not None:
            from sim.inputs.atomic_files import write_atomically
            from sim.report.plan_tables import scenario_text

            write_atomically(out, scenario_text(found, given.fits.options))
            say(f"scenario: {out}")
            if given.fits.options:
                note(f"its figures need the same options: chunkflow-sim run {out} {given.fits.options}")
    if found.best is None:
        raise Failure(found.sentences[0])
    if results is not None and results.failures:
        raise Failure(f"{results.failures} of {len(results.cases)} cases failed")
