"""`chunkflow-sim plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from sim.cli.common import (
    Failure,
    OutputPath,
    check_outputs_shared,
    evaluating,
    force_option,
    main,
    no_cache_option,
    say,
    with_exit_codes,
    workers_option,
)
from sim.cli.scenario_input import Given, scenario_options


class Quantity(click.ParamType):
    """A size such as 24GiB; a share such as 1% or 0.01; whole numbers such as 1,2,4."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number. Fails for anything else."""
        from sim.inputs import units

        if not isinstance(value, str):
            return value
        try:
            if self.name == "size":
                return int(units.parse(units.Bytes, value))
            if self.name == "share":
                percent = value.strip().removesuffix("%")
                return float(units.parse(units.Number, percent)) / (100 if percent != value.strip() else 1)
            return tuple(int(part) for part in value.split(","))
        except ValueError as error:
            expected = "expected whole numbers, such as 1,2,4" if self.name == "numbers" else str(error)
            self.fail(expected, param, ctx)


@main.command()
@scenario_options()
@click.option("--memory", type=Quantity("size"), help="Device memory, such as 24GiB; the card's unless given.")
@click.option(
    "--reserve",
    type=Quantity("size"),
    default="0",
    help="Of it, for what no peak counts: CUDA context, NCCL, encoders.",
)
@click.option("--host-memory", type=Quantity("size"), help="Host memory for pinned weights of all ranks together.")
@click.option(
    "--within", type=Quantity("share"), default="1%", show_default=True, help="How much longer the smallest may take."
)
@click.option(
    "--runtime",
    default="today",
    show_default=True,
    help="Schedules of: any, sglang, vllm-omni, diffusers, or today (any of the three named ones).",
)
@click.option("--gpus", type=Quantity("numbers"), help="Numbers of GPUs to compare, such as 1,2,4.")
@click.option("--parallelism", type=click.Choice(["auto"]), help="Compare the ways to divide a named model.")
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
    reserve: int,
    host_memory: int | None,
    within: float,
    runtime: str,
    gpus: Sequence[int] | None,
    parallelism: str | None,
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
    from sim.planning import plan as search

    scenario, profile = given.load()
    check_outputs_shared(force, ("--html", html, "PAGE"), ("--out", out, "SCENARIO"))
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
    if as_json:
        import json

        click.echo(json.dumps(found.to_plain(), indent=2))
    else:
        from sim.report.plan_tables import print_plan

        print_plan(given.name, found)
    if html is not None:
        from sim.report.plan_page import write_page

        write_page(html, given.name, found)
        say(f"page: {html}")
    if found.best is None:
        raise Failure(f"nothing fits: {found.sentences()[0]}")
    if out is not None:
        from sim.inputs.atomic_files import write_atomically
        from sim.report.plan_tables import scenario_text

        write_atomically(out, scenario_text(found))
        say(f"scenario: {out}")
