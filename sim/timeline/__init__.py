"""What a machine gives back: spans of commands, and what is read off them."""

from sim.timeline.instrumented import between_events
from sim.timeline.intervals import Intervals, clip, measure, overlap, union
from sim.timeline.sections import Sections
from sim.timeline.spans import HostSpan, Repeat, Span, Timeline, accesses

__all__ = [
    "HostSpan",
    "Intervals",
    "Repeat",
    "Sections",
    "Span",
    "Timeline",
    "accesses",
    "between_events",
    "clip",
    "measure",
    "overlap",
    "union",
]
