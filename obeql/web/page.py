"""A page: one session and all that serves it, put together once.

Between `server`, which makes and closes it, and `app`, whose addresses ask it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import obeql
from obeql.errors import QueryTypeError, UnknownNameError
from obeql.planner.fills import IMAGE_FILLS
from obeql.planner.scores import SCORE_KINDS
from obeql.web.downloads import Downloads
from obeql.web.events import Changes
from obeql.web.guard import Guard
from obeql.web.outcomes import estimates
from obeql.web.probing import Probes
from obeql.web.reader import Reader
from obeql.web.sheet import PRESETS
from obeql.web.uploads import Uploads
from obeql.web.views import VIEWS
from obeql.web.worker import BusyError, Job, Worker

if TYPE_CHECKING:
    from obeql.cli.repl.names import Names
    from obeql.session.session import Session

__all__ = ["Page"]

#: PyTorch is imported after so long, whether anybody has looked at the page or not.
_UNSEEN_S = 1.5


class Page:
    """What serves a session's page; `close` ends it and leaves the session open."""

    def __init__(self, session: Session, allow_files: bool = False) -> None:
        self.session = session
        self.allow_files = allow_files
        self.changes = Changes()
        connection = session.connection.cursor()
        self._connections = [connection, connection.cursor()]
        self.reader = Reader(session, connection)
        self.downloads = Downloads(self.reader)
        self.worker = Worker(session, Guard(session, self._connections[1], allow_files), self.changes.tell)
        self._probes = Probes(session)
        self._uploads = Uploads(session, self._source_of)
        self._n_uploads = 0
        self._seen = threading.Event()
        self._torch = threading.Thread(target=self._import_torch, name="obeql-page-torch", daemon=True)

    def warm(self) -> None:
        """Import PyTorch behind the page, once that is seen."""
        self._torch.start()

    @property
    def warming(self) -> bool:
        """Return whether PyTorch is still being imported; a process must not end in the middle of that."""
        return self._torch.is_alive()

    def close(self) -> None:
        """Stop what runs, and end all that waits; a second call does nothing."""
        self._seen.set()
        self.changes.close()
        self.worker.close()
        self._uploads.close()
        for connection in self._connections:
            with suppress(Exception):
                connection.close()

    # ---- what there is ----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what the page needs to know to begin."""
        self._seen.set()
        return {
            "version": obeql.__version__,
            "file": self.session.path,
            "read_only": self.session.read_only,
            "allow_files": self.allow_files,
            "torch": "loading" if self.warming else "ready",
            "models": self.reader.models(),
            "image_sets": self.reader.image_sets(),
            "fills": list(IMAGE_FILLS),
            "scores": list(SCORE_KINDS),
            "sheet_presets": [{"words": words, "sql": sql} for words, sql in PRESETS],
            "views": [
                {"name": view.name, "title": view.title, "module": view.module, "under": view.under} for view in VIEWS
            ],
            "jobs": [job.facts() for job in self.worker.jobs()[:20]],
        }

    def names(self) -> Names:
        """Return what the editor can complete, asked anew once a statement has ended."""
        ended = sum(job.version for job in self.worker.jobs() if job.ended)
        return self.reader.names(ended * 1000 + self._n_uploads)

    def run_facts(self, run_id: int) -> dict[str, Any]:
        """Return a run with the keys of its maps. Raises UnknownNameError."""
        rows = self.reader.rows(
            "SELECT run_id, run_name, status, model, score, query, started_at, ended_at, measured, n_maps, n_images, "
            "n_failed, share FROM runs WHERE run_id = ?",
            [run_id],
        )
        if not rows:
            raise UnknownNameError(f"There is no run {run_id}.")
        return {**rows[0], "maps": self.reader.keys_of(run_id)}

    # ---- questions to the session ------------------------------------------------------------------------------

    async def plan(self, text: str) -> dict[str, Any]:
        """Return what a statement would take, and how it would be done; `busy` while a statement runs."""

        def planned() -> dict[str, Any]:
            from obeql.grammar import parse_script, print_statement, statements  # noqa: PLC0415

            (statement,) = parse_script(text) or (None,)
            if isinstance(statement, statements.ExplainOcclude):
                statement = statements.PlanStatement(False, statement)
            if not isinstance(statement, statements.PlanStatement) or statement.analyze:
                raise QueryTypeError("Only EXPLAIN OCCLUDE has a plan.")
            self.worker.guard.check(statement)
            plan = self.session.execute(print_statement(statement))
            return {"busy": False, "estimate": estimates(plan.physical), "text": plan.text}

        try:
            return await self.worker.answer(planned)
        except BusyError:
            return {"busy": True}

    async def probe(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a model says of an image, or of it with a box hidden; `busy` while a statement runs."""
        model, image, fill = body.get("model"), body.get("image"), body.get("fill") or "mean"
        if not isinstance(model, str) or not isinstance(image, (str, int)) or not isinstance(fill, str):
            raise QueryTypeError("A probe takes the name of a model, the name or id of an image, and a fill.")
        if isinstance(image, str) and not self._is_known(image):
            raise UnknownNameError(f"There is no image {image!r} in the database.")
        box, asked = body.get("box"), tuple(i for i in body.get("asked") or () if isinstance(i, int))
        if box is not None and not (
            isinstance(box, list) and len(box) == 4 and all(isinstance(each, int) for each in box)
        ):
            raise QueryTypeError("box is [top, left, height, width].")
        try:
            if box is None:
                return {"busy": False, **await self.worker.answer(lambda: self._probes.clean(model, image, fill))}
            place = box[0], box[1], box[2], box[3]
            return {
                "busy": False,
                **await self.worker.answer(lambda: self._probes.hidden(model, image, fill, place, asked)),
            }
        except BusyError:
            return {"busy": True}

    def take_image(self, content: bytes, name: str) -> dict[str, Any]:
        """Take an image in; return its name in statements and its id."""
        taken = self._uploads.take(content, name)
        self._n_uploads += 1
        rows = self.reader.rows("SELECT max(image_id) AS image_id FROM images WHERE path = ?", [taken["path"]])
        return {**taken, **rows[0]}

    def job(self, job_id: int) -> Job | None:
        """Return a job by its number."""
        return self.worker.job(job_id)

    def _source_of(self, name: str) -> str | None:
        rows = self.reader.rows("SELECT source FROM image_sets WHERE lower(name) = lower(?) LIMIT 1", [name])
        return None if not rows else str(rows[0]["source"])

    def _is_known(self, image: str) -> bool:
        return bool(
            self.reader.rows(
                "SELECT 1 FROM image_sets WHERE lower(name) = lower($1) UNION ALL "
                "SELECT 1 FROM images WHERE lower(name) = lower($1) OR path = $1 LIMIT 1",
                [image],
            )
        )

    def _import_torch(self) -> None:
        """Import PyTorch once the page is there, or nobody came to look: both at a time would be slower for each."""
        self._seen.wait(_UNSEEN_S)
        with suppress(ImportError):  # said by the statement that needs it
            import torch  # noqa: F401, PLC0415
