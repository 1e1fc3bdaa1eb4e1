"""A plan on the terminal, and the scenario file of its choice."""

from __future__ import annotations

from pathlib import Path

from sim.inputs.units import show_bytes, show_seconds
from sim.planning import Plan
from sim.planning.result import COLUMNS
from sim.policies import describe
from sim.report.tables import print_waterfall
from sim.report.terminal import only_words_wrap, say, show, styled, table
from sim.scenario import with_files_of
from sim.timeline.memory_components import COMPONENTS


def print_plan(name: str, plan: Plan) -> None:
    """The answer in words, the front, runtimes' flags, what would help, and what it cost to find out."""
    title = f"{name} on {plan.profile.name}"
    say(styled(title, "bold"))
    for sentence in plan.sentences:
        say(styled(f"- {sentence}", "bold red" if plan.best is None else ""))
    if plan.pareto:
        made = table(*COLUMNS, title="memory against step time: no other schedule beats these in both")
        for row in plan.rows():
            made.add_row(*row, style="bold" if row[0] else None)
        show(made)
    if plan.nearest:
        made = table("runtime", "step time", "longer", "peak memory", title="the nearest of each runtime")
        made.add_column("flags", style="dim")
        for near in plan.nearest:
            lacks = f" (lacks {near.lacks})" if near.lacks else ""
            made.add_row(
                near.runtime,
                show_seconds(near.point.step_time_s),
                f"{100 * near.cost:+.2f} %",
                show_bytes(near.point.peak_memory_bytes),
                near.flags + lacks,
            )
        show(made)
    if plan.suggestions:
        made = table("with", "step time", "change", "peak memory", title="what would help, each simulated")
        made.add_column("schedule", style="dim")
        for tip in plan.suggestions:
            made.add_row(
                tip.words,
                show_seconds(tip.step_time_s),
                "" if tip.gain is None else f"{-100 * tip.gain:+.2f} %",
                show_bytes(tip.peak_memory_bytes),
                describe(tip.policy, short=True) + ("" if tip.fits_memory else ", does not fit"),
            )
        show(only_words_wrap(made))
    if plan.best is not None:
        made = table("peak memory by component", "", title=f"memory of {plan.best.words}")
        for part, size in plan.best.memory_bytes.items():
            if size:
                made.add_row(COMPONENTS[part], show_bytes(size))
        if pinned := plan.best.host_memory_bytes:
            made.add_row("pinned in host memory, all ranks together", show_bytes(pinned))
        show(made)
    if plan.fall is not None:
        print_waterfall(plan.fall)
    known = len(plan.evaluated)
    say(
        f"{known} schedules, {plan.simulated} simulations (others were in the cache), {plan.pruned} ruled out by the "
        f"floor, {plan.seconds:.1f} s"
    )


def scenario_text(plan: Plan, options: str = "") -> str:
    """The chosen scenario as YAML for `run`, wherever it lies. `options` made the plan's figures what they are."""
    import yaml

    chosen = plan.chosen()
    assert plan.best is not None
    step, peak = show_seconds(plan.best.step_time_s), show_bytes(plan.best.peak_memory_bytes)
    allowed = show_bytes(plan.memory_limit_bytes)
    head = f"# Chosen by chunkflow-sim plan: step {step}, peak memory {peak} of {allowed}"
    if options:
        head += f"\n# These figures need the same options: chunkflow-sim run {options}"
    plain = with_files_of(Path(), chosen.to_plain())
    return f"{head}\n{yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)}"
