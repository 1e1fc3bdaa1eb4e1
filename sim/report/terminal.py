"""The terminal: a console that takes text as it is, tables in the house style, progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from sim.inputs.safe_text import printable


class Console(RichConsole):
    """A console that shows strings as they are: no markup, no emoji codes, no control characters.

    Styles come with `styled`, never as marks inside of a string: what is printed may come from a file.
    """

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)
        if not self.is_terminal:
            self.width = 120

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string that goes to the terminal passes through this, cells and titles of tables too."""
        return super().render_str(printable(text), **options)


def styled(text: str, style: str) -> Text:
    """Text in a style of rich's, such as "dim" or "bold red"."""
    return Text(printable(text), style=style)


def table(*columns: str, title: str | None = None) -> Table:
    """A table in the house style; columns after the first are right-aligned."""
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if i else "left", no_wrap=not i)
    return made


def only_words_wrap(made: Table) -> Table:
    """The first and the last column, of words, wrap where a terminal is narrow; the figures between do not."""
    for at, column in enumerate(made.columns):
        column.no_wrap = 0 < at < len(made.columns) - 1
    return made


def show(*tables: Table) -> None:
    """Print tables to standard output."""
    console = Console()
    for made in tables:
        console.print(made)


def say(text: str | Text) -> None:
    """Print a sentence to standard output; it is the reader's terminal that wraps it."""
    Console(soft_wrap=True).print(text)


@contextmanager
def progress(total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar with the remaining time on standard error, where that is a terminal; yields its setter."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit, markup=False), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
