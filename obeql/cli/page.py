"""`obeql ui [file.duckdb]`: serve the page of a database until Ctrl-C.

A command in the place of the database, as `doctor` is; `obeql.web` serves.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import obeql
from obeql.cli.streams import writing
from obeql.errors import QueryError

__all__ = ["page_parser", "serve"]


def page_parser() -> argparse.ArgumentParser:
    """Return the options of `obeql ui`; the documentation is compared with it."""
    built = argparse.ArgumentParser(
        prog="obeql ui", description="Serve a page that shows maps while they are computed, and open it in the browser."
    )
    built.add_argument("file", nargs="?", help="DuckDB file, made if missing (default: in memory)")
    built.add_argument("--port", type=int, default=0, metavar="N", help="port of the page (default: 0, any free one)")
    built.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="H",
        help="address to listen at (default: 127.0.0.1, which this machine alone can reach)",
    )
    built.add_argument("--no-browser", action="store_true", help="only print the address")
    built.add_argument(
        "--allow-files", action="store_true", help="let the page's statements name files of this machine"
    )
    built.add_argument("--read-only", action="store_true", help="open the file for reading alone")
    built.add_argument("--device", metavar="D", help="the device of statements without ON")
    return built


def serve(arguments: Sequence[str]) -> int:
    """Serve the page until Ctrl-C and return the exit code. Raises ObeqlError where it cannot begin."""
    with writing():
        options = page_parser().parse_args(arguments)
    file = options.file or ":memory:"
    if file.lower().endswith(".sql"):
        raise QueryError(f"{file!r} is a script, not a database: obeql -f {file}")
    from obeql.session.late import page_server, shut_off_files  # noqa: PLC0415

    with obeql.connect(file, read_only=options.read_only) as session:
        if options.device is not None:
            session.execute(f"SET obeql.device = '{options.device.replace(chr(39), chr(39) * 2)}'")
        page = page_server(session, options.host, options.port, options.allow_files)
        if not options.allow_files:
            shut_off_files(session)
        with writing():
            shown = "in memory, nothing is kept" if options.file is None else file
            print(f"the page of {shown}: {page.address}\nCtrl-C ends it.", flush=True)
        if not page.rules.is_local:
            print(
                f"Other machines can reach it at {options.host}: whoever has the address sees and drops what is in "
                "the database, and nothing on the way is encrypted.",
                file=sys.stderr,
                flush=True,
            )
        if not options.no_browser:
            page.open_browser()
        page.run()
    if page.is_warming:  # unloading PyTorch while it is being loaded would crash
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0
