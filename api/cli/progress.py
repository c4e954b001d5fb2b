"""Progress bars on a terminal, and nothing where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.sources import FetchProgress, OnProgress
from corral.core.scheduling.load_progress import LoadListener
from corral.core.wording.printable import one_line

__all__ = ("convert_progress", "load_progress", "spinner", "transfer_progress")

_BAR_WIDTH = 14


@contextmanager
def transfer_progress() -> Iterator[OnProgress]:
    """For pulls and imports: a line per status, and a bar with bytes and speed where bytes are counted."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, DownloadColumn, ProgressColumn, Task, TaskID, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    class Counted(ProgressColumn):
        """Another column, empty where no bytes are counted; never narrower than what it shows."""

        def __init__(self, column: ProgressColumn, width: int) -> None:
            super().__init__(Column(no_wrap=True, min_width=width))
            self._column = column

        def render(self, task: Task) -> RenderableType:
            return "" if task.total is None else self._column(task)

    with Bars(
        # A status may be long: it gives way to the figures.
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
        Counted(BarColumn(bar_width=_BAR_WIDTH), _BAR_WIDTH),
        Counted(DownloadColumn(), len("100.0/100.0 MB")),
        Counted(TransferSpeedColumn(), len("100.0 MB/s")),
        console=Console(stderr=True),
        expand=True,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(progress: FetchProgress) -> None:
            if progress.status not in tasks:
                tasks[progress.status] = bars.add_task(one_line(progress.status), total=progress.total_bytes)
            bars.update(tasks[progress.status], total=progress.total_bytes, completed=progress.completed_bytes or 0)

        yield show


@contextmanager
def load_progress(model: str) -> Iterator[LoadListener]:
    """For loading: one bar that goes away when it is full; its text says where the model is converted first."""
    with _share_bar(f"loading {model}") as show:
        yield lambda progress: show(f"{progress.stage} {model}", progress.share)


@contextmanager
def convert_progress(model: str) -> Iterator[OnLoadProgress]:
    """For conversions: one bar that goes away when it is full."""
    text = f"converting {model}"
    with _share_bar(text) as show:
        yield lambda share: show(text, share)


def spinner() -> AbstractContextManager[object]:
    """Turns while something is waited for whose share nobody knows, such as the first word of an answer."""
    if not (sys.stderr.isatty() and sys.stdout.isatty()):
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("")


@contextmanager
def _share_bar(text: str) -> Iterator[Callable[[str, float], None]]:
    """A bar for a share of 0 to 1, with a text that may change."""
    if not sys.stderr.isatty():
        yield lambda text, share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        task = bars.add_task(one_line(text), total=1.0)

        def show(text: str, share: float) -> None:
            bars.update(task, description=one_line(text), completed=share)

        yield show
