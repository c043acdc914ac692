"""The module that knows DuckDB's Python API: connections, transactions, Arrow batches, error texts.

Before it: `opening` has opened the file. After it: the other modules of `obeql.store`, which speak SQL through a
`Database`. DuckDB 1.5 and 2.0 differ in when an error is raised; that is handled here and only here.
"""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import duckdb
import pyarrow as pa

from obeql.errors import StoreError
from obeql.signals import defer_sigint
from obeql.store import fresh
from obeql.store.opening import MEMORY, STORAGE_VERSION, connect, first_sentence

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["MEMORY", "OPENING", "STORAGE_VERSION", "Database", "Lane"]

# DuckDB 2 warns that the first way copies every row once more; on 1.5 the second takes 30 s for 10,000 maps, not 1 s.
_ARROW_FROM_EXECUTE = int(duckdb.__version__.split(".")[0]) < 2

#: How DuckDB 2 words that another thread is inside a call on the same connection; DuckDB 1.5 waits for it.
_BUSY = "busy with another call"
_BUSY_PAUSE_S = 0.005

_T = TypeVar("_T")
#: Statements with their parameters, to be committed together.
Lane: TypeAlias = Sequence[tuple[str, Sequence[Any]]]

#: How systems word a full disk, a quota, and a limit on the size of files.
_NO_SPACE = ("No space left on device", "quota exceeded", "File too large", "not enough space on the disk")

# How many stores of this process hold a file: the first one knows that no run of it can be under way.
_open_files: Counter[str] = Counter()
#: Held while a file is opened, brought up to date or closed: DuckDB refuses a file that another thread just opens.
OPENING = threading.RLock()

# One writer of a file at a time in this process: what a transaction found to be stored is then still there when it
# commits a reference to it.
_writers: dict[str, threading.RLock] = {}


class Database:
    """A DuckDB database with two connections: `user`, on which users' SQL runs untouched, and one of its own.

    With a connection of its own, a store's statements neither end a result the user is still reading nor depend on
    the user's `USE`, and what a run commits stays committed whatever becomes of a transaction the user has open.
    Methods may be called from several threads.
    """

    def __init__(self, path: str | Path = MEMORY, read_only: bool = False) -> None:
        self.path = str(path)
        self.read_only = read_only
        self._lock = threading.RLock()
        self._closed = False
        self._protocols: set[str] = set()
        self._file = "" if self.path == MEMORY else str(Path(self.path).resolve())
        with OPENING:
            self.user = connect(self.path, read_only)
        self._own = self.user.cursor()
        self._complete = bool(self._file)
        if not read_only:
            # A checkpoint rewrites the row group that was appended to, and what it frees stays in the file. With 10,000
            # maps of 53x53 the file is 544 MB at a threshold of 64 MB, 445 MB at this one (449 MB are the planes).
            self._own.execute("SET checkpoint_threshold = '256MB'")
            self._own.execute("SET write_buffer_row_group_count = 1")
        with OPENING:
            self.first_here = not self._file or not _open_files[self._file]
            _open_files[self._file] += 1
            self._writer = _writers.setdefault(self._file, threading.RLock()) if self._file else threading.RLock()

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Close both connections; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with OPENING:
                _open_files[self._file] -= 1
                own, user = self._own, self.user
                own.close()
                _when_free(user.close, user.interrupt)
            # A traceback that somebody keeps holds this object, too; when the interpreter ends, DuckDB's module
            # complains of connections that are alive, closed or not.
            del self._own, self.user

    def complete(self) -> None:
        """Make, in a new database in memory, what only users' SQL reads: macros, and what columns hold.

        Most programs never ask such a database in SQL, and it costs as much as all the rest.
        """
        if self._complete:
            return
        with self.transaction():
            if not self._complete:  # by another thread meanwhile
                self.change(fresh.complete)
                self._complete = True

    def on_user(self, call: Callable[[duckdb.DuckDBPyConnection], _T]) -> _T:
        """Call something with the user's connection, once no other thread reads a result there.

        Raises StoreError when the database is closed, errors of DuckDB as they are, and KeyboardInterrupt for Ctrl-C.
        """
        self.require_open()
        user = self.user
        with _interruptible(), _ctrl_c_interrupts(user):
            return _when_free(lambda: call(user))

    def user_in_transaction(self) -> bool:
        """Return whether the user's connection is inside BEGIN ... COMMIT; asks without aborting that transaction."""
        try:
            # not execute(..), whose result other threads would find unfinished between that call and fetchall()
            first, second = (self.on_user(lambda user: user.sql("SELECT txid_current()").fetchall()) for _ in range(2))
        except duckdb.TransactionException:
            return True  # begun, and aborted by an earlier error
        return first == second

    def reads(self, protocol: str) -> None:
        """Let SQL of this process read addresses of a protocol that fsspec knows, on both connections."""
        if protocol in self._protocols:
            return
        import fsspec  # noqa: PLC0415 - only where it is used

        with self._lock, OPENING, self._explained("read"):
            try:
                system = fsspec.filesystem(protocol)
            except (ImportError, ValueError, OSError) as error:
                raise StoreError(f"addresses of {protocol}:// cannot be read: {error}") from error
            name = system.protocol if isinstance(system.protocol, str) else system.protocol[0]
            if not self.user.filesystem_is_registered(name):  # by another session of this process on the file
                self.user.register_filesystem(system)
        self._protocols.add(protocol)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._lock, self._explained("read"):
            return self._fetched(sql, parameters)

    def rows_beside(self, sql: str, batch: pa.Table, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query that names an Arrow table as `obeql_batch`."""
        with self._lock, self._explained("read"), self._registered(batch):
            return self._fetched(sql, parameters)

    def _fetched(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            return self._own.execute(sql, list(parameters)).fetchall()
        except (KeyboardInterrupt, RuntimeError):
            # Ctrl-C may come between the two calls; DuckDB 2 would refuse other work until the result is read.
            getattr(self._own, "abort", lambda: None)()
            raise

    def arrow(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Return the result of a query as an Arrow table."""
        with self._lock, self._explained("read"):
            # Not execute(...).to_arrow_table(): DuckDB 2 warns that it copies every row once more.
            if _ARROW_FROM_EXECUTE:
                return self._own.execute(sql, list(parameters)).to_arrow_table()
            return self._own.sql(sql, params=list(parameters)).to_arrow_table()

    def arrow_beside(self, sql: str, batch: pa.Table) -> pa.Table:
        """Return the result of a query that names an Arrow table as `obeql_batch`, as an Arrow table."""
        with self._lock, self._registered(batch):
            return self.arrow(sql)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Execute a statement that returns nothing; several of them separated by `;` when there are no parameters."""
        with self._lock, self._explained("write"):
            if parameters:
                self._own.execute(sql, list(parameters))
            else:
                self._own.execute(sql)

    def change(self, call: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
        """Call something that writes with the store's own connection, inside a transaction."""
        with self._lock, self._explained("write"):
            call(self._own)

    def append(self, table: str, batch: pa.Table) -> None:
        """Append an Arrow table to a base table; columns it lacks become NULL."""
        columns = ", ".join(f'"{name}"' for name in batch.column_names)
        with self._lock, self._explained("write"), self._registered(batch):
            self._own.execute(f"INSERT INTO obeql_store.{table} ({columns}) SELECT {columns} FROM obeql_batch")

    def insert_side_by_side(self, lanes: Sequence[Lane], cache: int, into_file: bool) -> None:
        """Execute INSERTs with their parameters: the lanes at once, each with one thread and in a commit of its own.

        (Several threads that share an INSERT would each leave a row group that is not full.) Meanwhile, DuckDB holds
        no more than `cache` bytes beyond what it holds now, as far as that suffices and nobody else works with the
        database. `into_file`, for a single lane, writes rows that do not fill a row group into the file at once, and
        not into the log first, where no other transaction prevents it. What other lanes have committed stays where
        one fails.
        """
        changed, limit = {"threads": "1"}, {}
        if into_file:  # where a commit is estimated to write so many bytes into the log, there is a checkpoint instead
            changed |= {"checkpoint_threshold": "'1KB'", "auto_checkpoint_skip_wal_threshold": "0"}
        with self.writing(), self._explained("write"):
            if self._alone():
                ((held,),) = self._own.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchall()
                limit = {"memory_limit": f"'{int(held) + cache} bytes'"}
            with self._changed(changed | limit):
                failed = self._commit_lanes(lanes)
            if failed and all(isinstance(error, duckdb.OutOfMemoryException) for _, error in failed):
                with self._changed(changed):
                    failed = self._commit_lanes([lane for lane, _ in failed])
            for _, error in failed:
                raise error

    def _commit_lanes(self, lanes: Sequence[Lane]) -> list[tuple[Lane, duckdb.Error]]:
        """Execute and commit the lanes, all at once; returns those that failed."""
        with ExitStack() as cursors, ThreadPoolExecutor(len(lanes)) as threads:
            connections = [cursors.enter_context(self._own.cursor()) for _ in lanes]
            others = [threads.submit(_commit, *each) for each in zip(connections[1:], lanes[1:], strict=True)]
            errors = [_commit(connections[0], lanes[0]), *(other.result() for other in others)]
        return [(lane, error) for lane, error in zip(lanes, errors, strict=True) if error is not None]

    def empty_cache(self) -> None:
        """Let go of the parts of the file that are in memory and not in use; DuckDB keeps them up to its limit.

        Temporary tables of users go to DuckDB's temporary folder meanwhile. Of a database in memory that would be all.
        """
        if not self._file:
            return
        with self._lock, self._explained("read"), self._changed({"memory_limit": "'1KB'"}):
            return  # refused, unless nothing is in memory

    def append_row(self, table: str, **values: Any) -> None:
        """Append one row to a base table; columns not given become NULL."""
        columns = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join("?" for _ in values)
        self.run(f"INSERT INTO obeql_store.{table} ({columns}) VALUES ({marks})", list(values.values()))

    def rewrite(self, table: str, definition: str) -> None:
        """Write the rows of a base table anew, without the places of deleted ones; inside a transaction.

        `definition` is its CREATE TABLE: what DuckDB 1.5 remembers of that lacks how columns are compressed.
        """
        for statement in (
            definition.replace(f"obeql_store.{table}", f"obeql_store.{table}_anew", 1),
            f"INSERT INTO obeql_store.{table}_anew FROM obeql_store.{table} ORDER BY rowid",
            f"DROP TABLE obeql_store.{table}",
            f"ALTER TABLE obeql_store.{table}_anew RENAME TO {table}",
        ):
            self.run(statement)

    def next_ids(self, sequence: str, count: int = 1) -> list[int]:
        """Return the next `count` numbers of a sequence of the store, ascending."""
        rows = self.rows(f"SELECT nextval('obeql_store.{sequence}') FROM range(?)", [count])
        return sorted(number for (number,) in rows)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let no other store of this process write to the file inside the block. Ctrl-C waits for its end."""
        with self._writer, self._lock, defer_sigint():
            self._require_writable()
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything in the block or nothing of it; blocks do not nest. Ctrl-C waits for its end."""
        with self.writing():
            self.run("BEGIN")
            try:
                yield
                self.run("COMMIT")
            except BaseException:
                # COMMIT itself may have ended the transaction; there is then nothing left to roll back.
                with _ignoring(duckdb.Error):
                    self._own.execute("ROLLBACK")
                raise

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file, unless another transaction of this process prevents it now."""
        with self._lock, self._explained("write"), _ignoring(duckdb.TransactionException):
            self._own.execute("CHECKPOINT")

    def checkpoint_when_worth_it(self) -> None:
        """Call `checkpoint` once the log is a twentieth of the file: it rewrites the maps that were added last.

        What is committed is durable either way; closing the last connection moves what is left. Where the disk has no
        room for the log there is none: DuckDB gives a database up whose checkpoint fails.
        """
        file, log = Path(self._file), Path(f"{self._file}.wal")
        if not self._file or not log.exists():
            return
        n_log, n_file = log.stat().st_size, file.stat().st_size
        if n_log * 20 > n_file and _has_room(file, n_file, n_log):
            self.checkpoint()

    def storage_version(self) -> str:
        """Return the storage version of the database file, such as `v1.5.0+`; empty for a database in memory."""
        ((tags,),) = self.rows("SELECT tags FROM duckdb_databases() WHERE database_name = current_database()")
        return str(dict(tags or {}).get("storage_version", ""))

    def name(self) -> str:
        """Return what DuckDB calls the database."""
        ((name,),) = self.rows("SELECT current_database()")
        return str(name)

    def n_threads(self) -> int:
        """Return how many threads DuckDB may use."""
        ((threads,),) = self.rows("SELECT current_setting('threads')")
        return int(threads)

    def _alone(self) -> bool:
        """Return whether this store has the only connections of the process to the database."""
        ((n_connections,),) = self._own.execute("FROM duckdb_connection_count()").fetchall()
        return bool(n_connections == 2)

    @contextmanager
    def _changed(self, settings: Mapping[str, str]) -> Iterator[None]:
        """Set other settings inside the block, as far as this DuckDB has them and takes them; values are SQL."""
        # Through another connection: an error, as of a statement that failed inside, has ended this one's transaction.
        with self._own.cursor() as connection, ExitStack() as restored:
            for name, value in settings.items():
                with _ignoring(duckdb.CatalogException, duckdb.OutOfMemoryException):
                    ((before,),) = connection.execute("SELECT current_setting(?)", [name]).fetchall()
                    restored.callback(connection.execute, f"SET {name} = '{before}'")
                    connection.execute(f"SET {name} = {value}")  # 1.5 shows also a value that it has refused
            yield

    @contextmanager
    def _registered(self, batch: pa.Table) -> Iterator[None]:
        self._own.register("obeql_batch", batch)
        try:
            yield
        finally:
            with _ignoring(duckdb.TransactionException):  # aborted by an error inside: the end of it does the same
                self._own.unregister("obeql_batch")

    def require_open(self) -> None:
        """Raise StoreError once the database is closed."""
        if self._closed:
            raise StoreError(f"the database {self.path!r} is closed; open it again with connect()")

    def _require_writable(self) -> None:
        self.require_open()
        if self.read_only:
            raise StoreError(f"the database {self.path!r} was opened read-only; open it without read_only to change it")

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turn an error of DuckDB into a StoreError that says what could not be done, and to which file."""
        self.require_open()
        try:
            with _interruptible():
                yield
        except duckdb.Error as error:
            raise StoreError(
                f"cannot {doing} the database {self.path!r}: {first_sentence(error)}{_way_out(error)}"
            ) from error


def _commit(connection: duckdb.DuckDBPyConnection, lane: Lane) -> duckdb.Error | None:
    """Execute the statements of a lane in one transaction; returns why that failed."""
    try:
        connection.execute("BEGIN")
        for sql, parameters in lane:
            connection.execute(sql, list(parameters))
        connection.execute("COMMIT")
    except duckdb.Error as error:  # closing the connection rolls back
        return error
    return None


@contextmanager
def _ignoring(*kinds: type[BaseException]) -> Iterator[None]:
    try:
        yield
    except kinds:
        return


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C, of which DuckDB makes a RuntimeError, into a KeyboardInterrupt again."""
    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise


@contextmanager
def _ctrl_c_interrupts(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let Ctrl-C interrupt the connection, also while DuckDB waits for threads of its own and looks at no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def watch() -> None:
        while number := ours.recv(1):
            if number[0] == signal.SIGINT:
                connection.interrupt()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()
        watcher.join()
        ours.close()


def _when_free(call: Callable[[], _T], meanwhile: Callable[[], object] = lambda: None) -> _T:
    """Call DuckDB, again as long as another thread is inside a call on the same connection."""
    while True:
        try:
            return call()
        except duckdb.Error as error:
            if _BUSY not in str(error):
                raise
        meanwhile()
        time.sleep(_BUSY_PAUSE_S)


def _way_out(error: duckdb.Error) -> str:
    """Return what to do about an error that is not the statement's fault."""
    text = str(error)
    if isinstance(error, duckdb.FatalException):
        return "; close the session and open the file again: what was committed is in it"
    if any(words in text for words in _NO_SPACE):
        return "; what is committed is kept: free some space and run the statement again"
    return ""


def _has_room(file: Path, n_bytes: int, n_more: int) -> bool:
    """Return whether a file of so many bytes may grow by `n_more`, as far as the system tells."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0] if resource is not None else -1
    is_within_limit = most < 0 or n_bytes + n_more <= most
    return is_within_limit and shutil.disk_usage(file.parent).free > n_more
