"""Open a DuckDB file for a store: created so that older DuckDBs read it, with row groups that suit heat maps.

Before it: a path from the user. After it: `driver` works on the connection. Why a file cannot be opened is said here in
our own words; DuckDB 1.5 and 2.0 word it differently.

The row group is what DuckDB holds, compresses and rewrites as a whole: 122,880 rows, which is 5 GB of maps of 53x53
cells. A smaller size is taken by ATTACH alone, and holds only as long as the file is attached. The file is therefore
opened by its path, which makes later connections of this process to that path join this one, and then attached anew
under the same name.

A new file gets its tables, views and macros here, before it is opened for good; the next ones of this process are
copies of the first. A new database in memory gets what the store itself reads; `driver` adds the rest when SQL of users
comes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import duckdb

from obeql.errors import StoreError
from obeql.store import fresh

__all__ = ["MEMORY", "ROW_GROUP_SIZE", "STORAGE_VERSION", "connect", "first_sentence"]

MEMORY = ":memory:"

#: New files are written so that every DuckDB from this version on reads them, whichever version writes.
STORAGE_VERSION = "v1.5.0"

#: Rows of a row group, the least that DuckDB allows.
ROW_GROUP_SIZE = 2048

#: What is attached while the file is not.
_MEANWHILE = "obeql_opening"

#: The bytes of a new file, once this process has made one.
_new_file = b""

_LOCKED = re.compile(r"lock is held in (?P<process>.+?) \(PID (?P<pid>\d+)\)")


def connect(path: str, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open `path`, creating the file when it is missing; raise StoreError with the reason in our own words."""
    if path == MEMORY:
        if read_only:
            raise StoreError("a database in memory starts empty, so it cannot be opened read-only; name a file instead")
        connection = duckdb.connect(MEMORY)
        with connection.cursor() as own:
            _in_one_commit(own, fresh.make)
        return connection
    file = Path(path)
    try:
        is_folder = file.is_dir()
    except OSError as error:
        raise StoreError(f"the database {path!r} cannot be reached: {error.strerror or error}") from None
    if is_folder:
        raise StoreError(f"{path!r} is a folder; a database is one file, such as {str(file / 'heat.duckdb')!r}")
    if not file.exists():
        if read_only:
            raise StoreError(f"there is no database {path!r}; without read_only it would be created")
        if not file.absolute().parent.is_dir():
            raise StoreError(f"the folder {str(file.absolute().parent)!r} of the database {file.name!r} does not exist")
    try:
        if not file.exists():
            _create(file)
        connection = duckdb.connect(path, read_only=read_only)
        if not read_only:
            try:
                _attach_anew(connection, path)
            except BaseException:
                connection.close()
                raise
        return connection
    except duckdb.Error as error:
        raise StoreError(_why_not_opened(path, error)) from error


def _create(file: Path) -> None:
    """Create a file with all that a database of ours has; of one that is there by now, nothing is changed."""
    global _new_file  # noqa: PLW0603 - what the first file cost the next ones need not
    if _new_file and _copied(file):
        return
    # The format is chosen when the file is created. A setting given to the lasting connection would keep plain
    # duckdb.connect(path) in this process from joining it ("different configuration").
    with duckdb.connect(str(file), config={"storage_compatibility_version": STORAGE_VERSION}) as connection:
        try:
            _in_one_commit(connection, fresh.make, fresh.complete)
        except duckdb.Error:
            return  # `schema` says what is wrong: with the name, with what another process has just made, with the disk
    # Read only now: closing a file that DuckDB holds would let go of its lock.
    _new_file = file.read_bytes()


def _copied(file: Path) -> bool:
    """Put a copy of an empty database where nothing is, whole or not at all; returns whether it is there."""
    copy = file.with_name(f".{file.name}.{uuid4().hex}.new")
    try:
        copy.write_bytes(_new_file)
        os.link(copy, file)  # fails where another process was faster, and on file systems without links
    except OSError:
        return False
    finally:
        with suppress(OSError):
            copy.unlink()
    return True


def _in_one_commit(connection: duckdb.DuckDBPyConnection, *steps: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
    connection.execute("BEGIN")
    for step in steps:
        step(connection)
    connection.execute("COMMIT")


def _attach_anew(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """Attach the file with small row groups, unless this process has it open already, however it was opened."""
    if connection.execute("FROM duckdb_connection_count()").fetchall() != [(1,)]:
        return
    ((name,),) = connection.execute("SELECT current_database()").fetchall()
    database = '"' + name.replace('"', '""') + '"'
    file = "'" + path.replace("'", "''") + "'"
    for statement in (
        # Else a log that a killed process has left would be written into large row groups here.
        "PRAGMA disable_checkpoint_on_shutdown",
        f"ATTACH ':memory:' AS {_MEANWHILE}",
        f"USE {_MEANWHILE}",
        f"DETACH {database}",
        f"ATTACH {file} AS {database} (ROW_GROUP_SIZE {ROW_GROUP_SIZE})",
        f"USE {database}",
        f"DETACH {_MEANWHILE}",
        "PRAGMA enable_checkpoint_on_shutdown",
    ):
        connection.execute(statement)


def _why_not_opened(path: str, error: duckdb.Error) -> str:
    text = str(error)
    if held := _LOCKED.search(text):
        return (
            f"the database {path!r} is in use by process {held['pid']} ({held['process']}); close it there, "
            "or read a copy or an export of it"
        )
    if "lock" in text.lower() and isinstance(error, duckdb.IOException):
        return f"the database {path!r} is in use by another process; close it there, or read a copy or an export of it"
    if "Permission denied" in text or "Read-only file system" in text:
        return (
            f"the database {path!r} may not be written here ({first_sentence(error)}); open it with read_only=True "
            "(--read-only on the command line), or copy it to where it may be"
        )
    if "not a valid DuckDB database" in text:
        return f"{path!r} is not a DuckDB database file"
    if "different configuration" in text:
        return (
            f"the database {path!r} is already open in this process in another mode (read-only or with other "
            "settings); close it there first"
        )
    if "version number" in text or "newer version of DuckDB" in text:
        return f"{path!r} was written by a DuckDB this one ({duckdb.__version__}) cannot read: {first_sentence(error)}"
    return f"cannot open the database {path!r}: {first_sentence(error)}"


def first_sentence(error: BaseException) -> str:
    """Return DuckDB's message without its family prefix, hints and drawing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # DuckDB 1.5 wraps an error met while fetching in one about its own pending result.
    line = lines[1] if len(lines) > 1 and "pending query result" in lines[0] else lines[0]
    return re.sub(r"^(Error: )?[A-Z][A-Za-z/ -]* Error: ", "", line)
