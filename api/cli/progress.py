"""Progress bars, shown only on a terminal."""

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
    """For pulls and imports: a line per status, with a bar, size and speed if its bytes are counted."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, DownloadColumn, ProgressColumn, Task, TaskID, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    class Counted(ProgressColumn):
        """Wraps a column: empty if no bytes are counted, and never narrower than its content."""

        def __init__(self, column: ProgressColumn, width: int) -> None:
            super().__init__(Column(no_wrap=True, min_width=width))
            self._column = column

        def render(self, task: Task) -> RenderableType:
            return "" if task.total is None else self._column(task)

    with Bars(
        # A long status is cut to leave room for the figures.
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
    """For loading: a bar that disappears when it is full. Its text says if the model is converted first."""
    with _share_bar(f"loading {model}") as show:
        yield lambda progress: show(f"{progress.stage} {model}", progress.share)


@contextmanager
def convert_progress(model: str, doing: str = "converting") -> Iterator[OnLoadProgress]:
    """For conversions and comparisons: a bar that disappears when it is full."""
    text = f"{doing} {model}"
    with _share_bar(text) as show:
        yield lambda share: show(text, share)


def spinner() -> AbstractContextManager[object]:
    """Shown during a wait of unknown length, such as for the first word of an answer."""
    if not (sys.stderr.isatty() and sys.stdout.isatty()):
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("")


@contextmanager
def _share_bar(text: str) -> Iterator[Callable[[str, float], None]]:
    """A bar for a share from 0 to 1, with a text that can change."""
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
