"""Sensitivity of a metric to the numbers of its profile, and the metric's interval, on the terminal."""

from __future__ import annotations

from collections import Counter
from math import floor, log10

from sim.analysis.computed_kernels import IF_COMPUTED
from sim.analysis.model_error import host_kind, known_errors, model_error
from sim.analysis.sensitivity import NUDGE_S, Interval, Sensitivity
from sim.hardware import Profile
from sim.inputs.units import show_bytes, show_seconds
from sim.report.terminal import say, show, styled, table


def print_sensitivity(name: str, found: Sensitivity) -> None:
    """The parameters that move a metric, the largest effect first, and how many have no effect."""
    change = f"{100 * found.change:g} %"
    title = f"sensitivity of {found.metric} of {name} to each parameter"
    made = table("number", "value", "elasticity", f"+{change} moves", "uncertain", "1 sd moves", title=title)
    for factor, elasticity, moved, deviation, remark in found.effects:
        made.add_row(
            " +\n".join(factor.paths),
            "table" if factor.value is None else f"{factor.value:.5g}",
            "" if elasticity is None else f"{elasticity:+.4f}",
            "" if moved is None else _amount(found.metric, moved),
            "" if factor.uncertainty is None else f"{100 * factor.uncertainty:.2g} %",
            "" if deviation is None else "± " + _amount(found.metric, abs(deviation)).lstrip("+"),
        )
        zero = f"is 0: raised by {show_seconds(NUDGE_S)}" if factor.value == 0 else ""
        if about := "; ".join(part for part in (zero, remark) if part):
            made.add_row(styled(f"  {about}", "dim"))
    if found.effects:
        show(made)
    sections = Counter(name.split(".")[0] for name in found.unmoved)
    parts = ", ".join(f"{count} in {section}" for section, count in sections.items())
    say(f"{len(found.unmoved)} parameters have no effect: {parts}")
    known = sum(e.deviation is not None for e in found.effects)
    at, together = (_amount(found.metric, value).lstrip("+") for value in (found.value, found.deviation))
    if known:
        say(f"{found.metric} is {at}; 1 sd of the {known} parameters with a known uncertainty: ± {together}")
    else:
        say(f"{found.metric} is {at}; no parameter that moves it has a known uncertainty")


def _amount(metric: str, value: float) -> str:
    sign = "-" if value < 0 else "+"
    return sign + (show_seconds(abs(value)) if metric.endswith("_s") else show_bytes(abs(value)))


def unknown_error(profile: Profile, ranks: int) -> str:
    """Why there is no interval about a step time on `ranks` GPUs of a profile whose `model_error` is None."""
    return (
        f"how far the model is off is not known for {profile.name} ({host_kind(profile, ranks)}). It is known for "
        f"profiles of measured hosts with {', '.join(known_errors())}."
    )


def print_interval(found: Interval | None, profile: Profile, ranks: int, computed: bool = False) -> None:
    """The step time on `ranks` GPUs of a profile with its interval, or why there is none; `computed`: kernel times."""
    known = model_error(profile, ranks)
    if found is None or known is None:
        say(f"no interval: {unknown_error(profile, ranks)}")
        return
    unit, factor = next(((u, f) for u, f in (("s", 1.0), ("ms", 1e-3)) if found.value >= f), ("us", 1e-6))
    centre, low, high = (_digits(found.high - found.low, value, factor) for value in found[:3])
    errors = f"one standard deviation {100 * known.deviation:.2g} %, largest {100 * known.largest:.2g} %"
    given = f", {IF_COMPUTED}" if computed else ""
    say(
        f"step {centre} {unit} ({low} to {high}, {100 * found.level:g} %){given}, by the model's error on {known.host} "
        f"({errors} of {known.cases} measured cases) and the {found.known} numbers of the profile whose uncertainty is "
        f"known; {found.unknown} other numbers and given times are taken as exact"
    )


def _digits(width: float, value: float, unit: float) -> str:
    """`value` to a tenth of the interval's width, or six digits."""
    reference, spare = (width, 1) if width > 0 else (value, 5)
    places = spare - floor(log10(reference / unit)) if reference > 0 else 0
    return f"{value / unit:.{min(max(places, 0), 9)}f}"
