"""What a statement does before its first window, told through the callback of its progress.

Between `statements` and `model_registry`, which say when a network is loaded or a device measured, and whoever shows
it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from obeql.executor.execution.progress import Progress, Unit

if TYPE_CHECKING:
    from obeql.executor.execution.progress import OnProgress

__all__ = ["Say", "StatementStatus", "no_status"]

#: Called with what is being done from now on, in words.
Say = Callable[[str], None]


def no_status(phase: str) -> None:
    """Say nothing: for callers who have nobody to tell."""


@dataclass
class StatementStatus:
    """Tells a callback what a statement is doing before it has counted anything.

    `total`, `n_images` and `shown` (the first image) are those of the progress to come. `raised` is what the callback
    raised, which is the user's own.
    """

    on_progress: OnProgress | None
    total: int = 1
    n_images: int = 1
    shown: str = ""
    unit: Unit = "windows"
    raised: BaseException | None = None
    _started: float = field(default_factory=time.perf_counter)

    def __call__(self, phase: str) -> None:
        if self.on_progress is None:
            return
        seconds = time.perf_counter() - self._started
        progress = Progress(0, self.total, 0, self.n_images, self.shown, seconds, 0.0, phase=phase, unit=self.unit)
        try:
            self.on_progress(progress)
        except BaseException as error:
            self.raised = error
            raise

    def torch(self) -> None:
        """Import PyTorch, which takes seconds the first time."""
        module = sys.modules.get("torch")
        if not hasattr(module, "inference_mode"):  # not there, or being imported by another thread
            self("loading PyTorch")
            # Ctrl-C while one waits for another thread's import can leave the locks of Python's imports taken for ever.
            while getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False):
                time.sleep(0.02)
            import torch  # noqa: F401, PLC0415
