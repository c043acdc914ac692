"""Runs in the store: one row a statement that was executed, and events that say what became of it.

Before it: models and images are stored. After it: `maps` adds what a run found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from obeql.errors import InternalError, StoreError, UnknownNameError, nearest
from obeql.planner.cells import FailedImage
from obeql.store.codec import dump, load, naive_utc, utc_now
from obeql.store.driver import Database
from obeql.store.histogram_rows import LACKING, HistogramRows
from obeql.store.schema import table_definition
from obeql.store.shards.external import PlacedRows
from obeql.store.shards.folder import Folder

__all__ = ["RunRecord", "RunRows", "RunStatus", "unknown_run"]

RunStatus = Literal["running", "done", "interrupted", "failed"]

_COLUMNS = (
    "run.run_id, live.run_name, run.query, run.model, run.model_hash, run.preprocessing_hash, run.score, run.options, "
    "run.plan, run.versions, run.started_at, live.status, live.ended_at, live.measured, live.n_images, live.n_maps, "
    "live.n_failed"
)
_LIVE = f"SELECT {_COLUMNS} FROM main.runs AS live JOIN obeql_store.run_rows AS run USING (run_id)"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One executed statement. What follows `started_at` is filled by the store; times are UTC without a zone.

    `query` is the canonical text, `options` the WITH options with every default written out, `versions` those of
    the programs used. `name` is None for a run without INTO, a failed one, and a replacing one that is not done.
    """

    query: str
    model: str
    model_hash: str
    preprocessing_hash: str
    score: str
    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    plan: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    started_at: datetime = field(default_factory=utc_now)
    run_id: int | None = None
    status: RunStatus = "running"
    ended_at: datetime | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    n_images: int = 0
    n_maps: int = 0
    n_failed: int = 0
    #: images and cells that were asked for, where that is known
    asked: tuple[int, int] | None = None


class RunRows(HistogramRows, PlacedRows):
    """The part of a store that keeps runs."""

    _database: Database

    #: Runs that could not be ended when they stopped, as with a full disk, and what to note of them.
    _unended: dict[int, Mapping[str, Any]]

    def begin_run(self, record: RunRecord, replace: bool = False) -> int:
        """Store a run as `running` and return its id, larger than any before it.

        Raises StoreError when a live run has its name and `replace` is false. With `replace` the older run keeps the
        name until this one is done, and is dropped then: a statement that fails leaves it as it was.
        """
        with self._database.transaction():
            if record.name is not None and not replace and (holder := self._named(record.name)) is not None:
                if self._is_only_begun(holder):
                    self._give_way(holder)
                    holder = None
            else:
                holder = None
            if holder is not None:
                raise StoreError(
                    f"run {holder} is already named {record.name!r}; write INTO OR REPLACE, DROP RUN first, "
                    "or choose another name"
                )
            (run_id,) = self._database.next_ids("run_ids")
            self._database.append_row(
                "run_rows",
                run_id=run_id,
                name=record.name,
                replaces=replace and record.name is not None,
                query=record.query,
                model=record.model,
                model_hash=record.model_hash,
                preprocessing_hash=record.preprocessing_hash,
                score=record.score,
                border=record.options.get("border"),
                options=dump(record.options),
                plan=record.plan,
                versions=dump(record.versions),
                started_at=naive_utc(record.started_at),
            )
            if record.asked is not None:
                self._database.append_row("run_sizes", run_id=run_id, n_images=record.asked[0], n_cells=record.asked[1])
            self._event(run_id, "running")
        return run_id

    def _is_only_begun(self, run_id: int) -> bool:
        """Return whether a run was interrupted before its first image was finished."""
        return self._status(run_id) == "interrupted" and not self.explained_images(run_id)

    def _give_way(self, run_id: int) -> None:
        """Drop a run of which only pieces are there; their cells stay for the statement that takes its place."""
        self._database.run("DELETE FROM obeql_store.run_maps WHERE run_id = ?", [run_id])
        self._database.run("DELETE FROM obeql_store.piece_rows WHERE run_id = ?", [run_id])
        self._event(run_id, "dropped")

    def _delete_pieces(self, condition: str, values: Sequence[Any]) -> None:
        """Delete maps that are not finished, by a condition on piece_rows; inside a transaction."""
        pieces = self._database.rows(f"SELECT entry_id FROM obeql_store.piece_rows WHERE {condition}", values)
        if not pieces:
            return
        entries = ", ".join(str(entry) for (entry,) in pieces)
        maps = self._database.rows(f"SELECT map_id FROM obeql_store.run_maps WHERE entry_id IN ({entries})")
        self._database.run(f"DELETE FROM obeql_store.run_maps WHERE entry_id IN ({entries})")
        self._database.run(f"DELETE FROM obeql_store.piece_rows WHERE entry_id IN ({entries})")
        if maps:
            # A piece that had every cell may be the map of a run by now.
            ids = ", ".join(str(map_id) for (map_id,) in maps)
            self._database.run(
                f"DELETE FROM obeql_store.maps WHERE map_id IN ({ids}) "
                "AND map_id NOT IN (SELECT map_id FROM obeql_store.run_maps)"
            )
            self._forget_histograms()

    def unfinished_run(self, record: RunRecord) -> int | None:
        """Return the latest interrupted run of the same query, options, model and preprocessing, or None.

        To continue it, pass the id to `resume_run`; `explained_images` says what it has already.
        """
        rows = self._database.rows(
            "SELECT max(run_id) FROM main.runs WHERE status = 'interrupted' AND query = ? AND options = ? "
            "AND model_hash = ? AND preprocessing_hash = ?",
            [record.query, dump(record.options), record.model_hash, record.preprocessing_hash],
        )
        return None if rows[0][0] is None else int(rows[0][0])

    def resume_run(self, run_id: int, held: Set[int]) -> bool:
        """Mark an interrupted run that holds these images as running again.

        False, and nothing is marked, where it is not so any more: another session of this process was faster.
        """
        with self._database.transaction():
            if self._status(run_id) != "interrupted" or self.explained_images(run_id) != held:
                return False
            self._event(run_id, "running")
        return True

    def explained_images(self, run_id: int) -> set[int]:
        """Return the ids of the images whose maps the run holds; without those of which it has pieces alone."""
        rows = self._database.rows(
            "SELECT DISTINCT image_id FROM obeql_store.run_maps WHERE run_id = ? "
            "AND entry_id NOT IN (SELECT entry_id FROM obeql_store.piece_rows WHERE run_id = ?)",
            [run_id, run_id],
        )
        return {image_id for (image_id,) in rows}

    def begun_images(self, run_id: int) -> set[int]:
        """Return the ids of the images of which the run holds pieces."""
        rows = self._database.rows("SELECT DISTINCT image_id FROM obeql_store.piece_rows WHERE run_id = ?", [run_id])
        return {image_id for (image_id,) in rows}

    def fail_image(self, run_id: int, failure: FailedImage) -> None:
        """Store durably that an image of the run could not be explained, and why."""
        with self._database.transaction():
            self._require_running(run_id)
            self._delete_pieces("run_id = ? AND image_id = ?", [run_id, failure.image_id])
            self._database.append_row(
                "run_failures",
                entry_id=self._database.next_ids("entry_ids")[0],
                run_id=run_id,
                image_id=failure.image_id,
                shown=failure.shown,
                error=failure.error,
                written_at=utc_now(),
            )

    def failures(self, run_id: int) -> list[FailedImage]:
        """Return the images of a run that have no map, with the last reason for each, by image id."""
        rows = self._database.rows(
            "SELECT image_id, shown, error FROM main.failures WHERE run_id = ? ORDER BY image_id", [run_id]
        )
        return [FailedImage(*row) for row in rows]

    def finish_run(self, run_id: int, status: RunStatus, measured: Mapping[str, Any] | None = None) -> None:
        """End a run as `done`, `interrupted` or `failed`.

        A replacing run that is done takes the name over, and the run that held it is dropped in the same commit.
        """
        if status not in get_args(RunStatus) or status == "running":
            raise InternalError(f"a run cannot finish as {status!r}; use 'done', 'interrupted' or 'failed'")
        _remove(self._end(run_id, status, measured))
        self._database.checkpoint_when_worth_it()

    def _end(self, run_id: int, status: RunStatus, measured: Mapping[str, Any] | None) -> Sequence[tuple[Folder, str]]:
        """Commit how a run ended; returns the shards that nothing refers to any more."""
        left: Sequence[tuple[Folder, str]] = ()
        with self._database.transaction():
            self._require_running(run_id)
            ((name, replaces),) = self._database.rows(
                "SELECT name, replaces FROM obeql_store.run_rows WHERE run_id = ?", [run_id]
            )
            if status == "done" and replaces and (holder := self._named(name)) is not None:
                self._event(holder, "dropped")
                left = self._sweep(loose=False)
            if status == "done":
                self._delete_pieces("run_id = ?", [run_id])
            self._event(run_id, status, measured)
        return left

    def interrupt_run(self, run_id: int, measured: Mapping[str, Any]) -> None:
        """End a run as `interrupted`; where the file cannot be written to now, `end_stopped_runs` does it later."""
        try:
            if self._status(run_id) == "running":
                self._end(run_id, "interrupted", measured)  # no checkpoint: a disk that is full would not survive it
            self._unended.pop(run_id, None)
        except StoreError:
            self._unended[run_id] = measured

    def end_stopped_runs(self) -> None:
        """Try again what `interrupt_run` could not do."""
        for run_id, measured in dict(self._unended).items():
            self.interrupt_run(run_id, measured)

    def drop_run(self, name_or_id: str | int) -> None:
        """Drop a run with the maps that no other run has, and give their space in the file back."""
        with self._database.transaction():
            run_id = self._require(name_or_id)
            if self._status(run_id) == "running":
                raise StoreError(f"run {run_id} is still running and cannot be dropped; stop it first")
            self._event(run_id, "dropped")
            left = self._sweep()
        _remove(left)
        self._database.checkpoint()

    def _sweep(self, loose: bool = True) -> Sequence[tuple[Folder, str]]:
        """Delete what only dropped runs hold, and the maps that belong to no run unless `loose` is false.

        Returns the shards that nothing refers to any more, for after the commit.

        DuckDB frees the space of a row group when all of its rows are gone, which may be 122,880 maps. Where a fifth
        of the rows or more are gone, those that are left are therefore written anew; the next checkpoint frees the
        space of all others for what is written later.
        """
        ((n_places,),) = self._database.rows("SELECT coalesce(max(rowid) + 1, 0) FROM obeql_store.maps")
        gone = "run_id NOT IN (SELECT run_id FROM main.runs)"
        members = "SELECT map_id FROM obeql_store.run_maps"
        of_runs = "" if loose else f" AND map_id IN ({members})"
        self._database.run(f"DELETE FROM obeql_store.maps WHERE map_id NOT IN ({members} WHERE NOT ({gone})){of_runs}")
        self._forget_histograms()
        self._database.run(f"DELETE FROM obeql_store.run_maps WHERE {gone}")
        self._database.run(f"DELETE FROM obeql_store.run_failures WHERE {gone}")
        for table in ("evaluation_rows", "piece_rows", "run_sizes"):
            self._database.run(f"DELETE FROM obeql_store.{table} WHERE {gone}")
        self._database.run(
            "DELETE FROM obeql_store.axis_rows WHERE map_id NOT IN (SELECT map_id FROM obeql_store.maps)"
        )
        self._database.run(
            "DELETE FROM obeql_store.region_rows WHERE entry_id NOT IN (SELECT entry_id FROM obeql_store.run_maps)"
        )
        self._database.run(
            "DELETE FROM obeql_store.mask_rows "
            "WHERE digest NOT IN (SELECT unnest(digests) FROM obeql_store.region_rows)"
        )
        left = self._forget_shards()
        ((n_kept,),) = self._database.rows("SELECT count(*) FROM obeql_store.maps")
        if (n_places - n_kept) * 5 >= n_places > 0:
            self._database.rewrite("maps", table_definition("maps"))
        return left

    def run(self, name_or_id: str | int) -> RunRecord | None:
        """Return the live run of this id or name, or None.

        Case does not count; digits are an id when no run is named so.
        """
        rows = self._database.rows(f"{_LIVE} WHERE lower(live.run_name) = lower(?)", [str(name_or_id)])
        if (not rows or isinstance(name_or_id, int)) and (run_id := _as_id(name_or_id)) is not None:
            rows = self._database.rows(f"{_LIVE} WHERE live.run_id = ?", [run_id])
        return _record(rows[0]) if rows else None

    def runs(self) -> list[RunRecord]:
        """Return all live runs, oldest first."""
        return [_record(row) for row in self._database.rows(f"{_LIVE} ORDER BY run.run_id")]

    def run_names(self) -> list[str]:
        """Return the names of all live runs that have one, sorted."""
        rows = self._database.rows("SELECT run_name FROM main.runs WHERE run_name IS NOT NULL ORDER BY lower(run_name)")
        return [name for (name,) in rows]

    def run_exists(self, name: str) -> bool:
        """Return whether a live run has this name, and has finished an image or may yet."""
        holder = self._named(name)
        return holder is not None and not self._is_only_begun(holder)

    def _mend_what_was_stopped(self) -> None:
        """End what a process that is gone has left; called when the file is opened by its first holder.

        Its runs are interrupted. Maps that have no histogram, as those of a file of before, get one.
        """
        rows = self._database.rows(
            "SELECT run_id FROM obeql_store.run_events GROUP BY run_id HAVING arg_max(status, entry_id) = 'running' "
            f"UNION ALL SELECT NULL WHERE {LACKING} ORDER BY run_id"
        )
        running = [run_id for (run_id,) in rows if run_id is not None]
        if running:
            with self._database.transaction():
                for run_id in running:
                    self._event(run_id, "interrupted")
        if len(running) < len(rows):
            self._complete_histograms()

    def _event(self, run_id: int, status: str, measured: Mapping[str, Any] | None = None) -> None:
        self._database.append_row(
            "run_events",
            entry_id=self._database.next_ids("entry_ids")[0],
            run_id=run_id,
            status=status,
            measured=None if measured is None else dump(measured),
            written_at=utc_now(),
        )

    def _named(self, name: str) -> int | None:
        rows = self._database.rows("SELECT run_id FROM main.runs WHERE lower(run_name) = lower(?)", [name])
        return int(rows[0][0]) if rows else None

    def _status(self, run_id: int) -> str:
        rows = self._database.rows(
            "SELECT status FROM obeql_store.run_events WHERE run_id = ? ORDER BY entry_id DESC LIMIT 1", [run_id]
        )
        return str(rows[0][0]) if rows else "unknown to the database"

    def _require_running(self, run_id: int) -> None:
        if (status := self._status(run_id)) != "running":
            raise StoreError(f"run {run_id} is {status}; only a running run can be written to")

    def _require(self, name_or_id: str | int) -> int:
        """Return the id of a live run, or UnknownNameError with the nearest names."""
        found = self.run(name_or_id)
        if found is None or found.run_id is None:
            raise unknown_run(name_or_id, self.run_names())
        return found.run_id


def _as_id(name_or_id: str | int) -> int | None:
    """Return a run id, or None for what cannot be one (text that is no number, or a number beyond BIGINT)."""
    text = str(name_or_id)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _record(row: tuple[Any, ...]) -> RunRecord:
    (run_id, name, query, model, model_hash, preprocessing_hash, score, options, plan, versions, started_at) = row[:11]
    status, ended_at, measured, n_images, n_maps, n_failed = row[11:]
    return RunRecord(
        query=query,
        model=model,
        model_hash=model_hash,
        preprocessing_hash=preprocessing_hash,
        score=score,
        name=name,
        options=load(options),
        plan=plan,
        versions=load(versions),
        started_at=started_at,
        run_id=run_id,
        status=status,
        ended_at=None if status == "running" else ended_at,
        measured=load(measured),
        n_images=n_images,
        n_maps=n_maps,
        n_failed=n_failed,
    )


def _remove(files: Sequence[tuple[Folder, str]]) -> None:
    """Remove shards that nothing in the database refers to any more, after the commit that says so."""
    for folder, name in files:
        folder.remove(name)


def unknown_run(name_or_id: str | int, names: Sequence[str]) -> UnknownNameError:
    """Return the error about a run that is not among those of these names, with what to do."""
    way_out = "SHOW RUNS lists them." if names else "No run has a name yet; SHOW RUNS lists what there is."
    return UnknownNameError(f"There is no run {name_or_id!r}.{nearest(str(name_or_id), names)} {way_out}")
