"""The page of a session, imported when it is first asked for: a server takes longer to load than a statement.

The session stands below `web`, which serves it; here alone it reaches up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from obeql.errors import UnsupportedError, install

if TYPE_CHECKING:
    from obeql.session.session import Session
    from obeql.web.server import PageServer

__all__ = ["page_server", "shut_off_files"]


def page_server(session: Session, host: str, port: int, allow_files: bool) -> PageServer:
    """Return the server of a session's page, not started yet. Raises UnsupportedError without the extra `ui`."""
    try:
        from obeql.web.server import PageServer
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("obeql"):
            raise
        raise UnsupportedError(f"the page needs {missing.name}, which is not installed; {install('ui')}") from None
    return PageServer(session, host, port, allow_files)


def shut_off_files(session: Session) -> None:
    """Keep the session's database away from files for as long as this process lives."""
    from obeql.web.server import shut_off_files as shut_off

    shut_off(session)
