"""What workers write instead of sending their maps through pipes: shards, files that hold the maps of several images.

For whoever starts workers, whether processes of this machine or of others. A worker that is given a `ShardWriter` (in
its `Order`) speaks so:

    Computed(number)          an image is computed and waits in the worker's memory; the worker asks for the next one
    Shard(name, numbers)      a file with the maps of these images is complete and durable under its final name
    Flush()                   from the coordinator, in place of a Job: nothing is to be had now, so write what waits and
                              ask again

`Failed` and `Kept` go through the pipe as ever, and so does `Finished` where there is no writer. The coordinator hands
the name to `ShardSink.take`; an image is done when the sink has committed it. Of a worker that dies, the images that
were computed but are in no shard that it has told of are computed again; should its file be there all the same, the
maps in it are known by their content and counted once. A file whose writing was cut short keeps a name that nobody
reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from obeql.executor.execution.context import CellSink, ExplainedImage
from obeql.planner.catalog import ImageRecord

__all__ = ["ShardSink", "ShardWriter"]


class ShardWriter(Protocol):
    """Writes finished maps into files, many images a file. Pickled on its way to a worker while it holds nothing."""

    def add(self, explained: ExplainedImage) -> None:
        """Take the maps of an image. They wait in memory."""
        ...

    def has_room(self, n_maps: int) -> bool:
        """Return whether an image of so many maps can go into the file with what waits."""
        ...

    @property
    def due(self) -> bool:
        """Return whether what waits has become much, or has waited long."""
        ...

    def flush(self) -> str:
        """Write what waits into a file, durably; return its name in the folder. Raises StoreError."""
        ...


class ShardSink(CellSink, Protocol):
    """A sink that takes whole files of maps."""

    @property
    def shards(self) -> ShardWriter | None:
        """Return what workers are to write with; None: they send their maps."""
        ...

    def note_pages(self, image: ImageRecord, n_pages: int) -> None:
        """Remember how many pages the file of an image has of which the first was taken."""
        ...

    def take(self, name: str, images: Sequence[ImageRecord]) -> None:
        """Take the shard of a name, which holds the maps of these images; they are durable after a `settle`."""
        ...
