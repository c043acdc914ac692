"""A session: one database, the models in use, and the statements that run against them.

The whole pipeline meets here: text is cut and parsed (`grammar`), bound and planned (`planner`), executed
(`executor`), stored (`store`), and returned. Everything that is not an OBEQL statement goes to DuckDB untouched.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import duckdb

from obeql.errors import QueryError, QueryTypeError
from obeql.grammar import parse_script
from obeql.planner import FollowingStatements, ImageSet, ModelRecord
from obeql.planner.binding.file_parts import axes_of_parts
from obeql.planner.binding.image_paths import as_text
from obeql.planner.binding.options import images_parts
from obeql.results.messages import Message, Plan
from obeql.results.result import Result
from obeql.session.call import Call
from obeql.session.cancellation import Cancellation
from obeql.session.derived_tables import DerivedTables
from obeql.session.file_locations import FileLocations
from obeql.session.image_registry import ImageRegistry, is_pixels
from obeql.session.keyword_form import explain_statement, live_model, predict_statement
from obeql.session.late import page_server
from obeql.session.model_registry import ModelRegistry
from obeql.session.parameters import Parameters, check_parameters
from obeql.session.placed_rows import PlacedRows
from obeql.session.probe import Probe
from obeql.session.statement_context import Outcome, StatementContext
from obeql.session.statements import Statements
from obeql.store import MEMORY, Store

if TYPE_CHECKING:
    from torch import nn

    from obeql.executor.execution.progress import OnProgress
    from obeql.executor.images import SourceImage
    from obeql.web.server import PageServer

__all__ = ["Message", "Outcome", "Parameters", "Plan", "Session", "connect"]


def connect(path: str | Path = MEMORY, *, read_only: bool = False, allow_python: bool = False) -> Session:
    """Open or create a database and return a session on it; `:memory:` keeps everything in memory.

    `allow_python` says whether models may run Python code without being asked again: `CREATE MODEL .. FROM
    'python:..'` imports and calls it, and a stored model that was created with `trust=true` unpickles it. Raises
    StoreError when the file cannot be used.
    """
    return Session(path, read_only=read_only, allow_python=allow_python)


#: Sessions that are in use.
_sessions: WeakSet[Session] = WeakSet()
#: How long the end of the process waits for the statement of a daemon thread.
_END_SECONDS = 10.0


@atexit.register
def _end_statements() -> None:
    """Stop what daemon threads still run: one that computes while Python ends takes the process down with it."""
    for session in list(_sessions):
        session._statements.end(_END_SECONDS)


class Session:
    """Statements against one database, one at a time. Use it as a context manager, or call `close`.

    Threads may share a session: a statement waits until that of another thread is done. What `execute` returns for SQL
    is read from DuckDB when it is fetched; threads that fetch at the same time need sessions of their own, of which a
    file may have several in one process.
    """

    def __init__(self, path: str | Path = MEMORY, *, read_only: bool = False, allow_python: bool = False) -> None:
        self._store = Store(path, read_only)
        places = FileLocations(self._store)
        tables = DerivedTables()
        self._image_registry = ImageRegistry(self._store, places, tables)
        cancellation = Cancellation()
        self._model_registry = ModelRegistry(self._store, places, allow_python, cancellation.check)
        self._context = StatementContext(self._store, self._image_registry, self._model_registry, cancellation)
        self._statements = Statements(self._context, tables)
        self._page: PageServer | None = None
        _sessions.add(self)

    # ---- statements ------------------------------------------------------------------------------------------

    def execute(self, text: str, parameters: Parameters = None, on_progress: OnProgress | None = None) -> Any:
        """Run a statement, or a script of several, and return what the last one yields.

        EXPLAIN OCCLUDE yields a `Result`, PLAN a `Plan`, everything with rows a DuckDB relation, other statements a
        `Message` or None. `parameters` stand for `?` (a list) or `$name` (a dict), counted anew in each statement;
        an image parameter may be a path, an array, a tensor, a PIL image or a list of them. `on_progress` is called
        with `Progress` while maps are computed. Raises ObeqlError subclasses, and KeyboardInterrupt after `cancel`
        or Ctrl-C; nothing of a statement that fails is kept, except finished images of a run.
        """
        text = as_text(text) if isinstance(text, str) else text
        outcome: Outcome = None
        for outcome in self.run_script(text, parameters, on_progress):  # noqa: B007  the last one counts
            pass
        if isinstance(outcome, duckdb.DuckDBPyRelation):
            return PlacedRows(outcome, self._statements.errors_of_rows(text))
        return outcome

    def run_script(
        self, text: str, parameters: Parameters = None, on_progress: OnProgress | None = None
    ) -> Iterator[Outcome]:
        """Run a script statement by statement, yielding what each one yields. Parse errors come before any runs."""
        check_parameters(parameters)
        text = as_text(text) if isinstance(text, str) else text
        statements = parse_script(text)
        ahead = FollowingStatements(statements)
        for place, statement in enumerate(statements):
            call = Call(text, parameters, on_progress, len(statements) == 1, place, ahead)
            yield self._statements.run(statement, call)

    def explain(
        self,
        source: Any,
        model: str | ModelRecord | nn.Module,
        *,
        on_progress: OnProgress | None = None,
        **options: Any,
    ) -> Result:
        """Return the keyword form of EXPLAIN OCCLUDE: `db.explain("scan.png", "tumour", patch=16, stride=4)`.

        `source` is a name, path or glob, an image as pixels, a batch (N, C, H, W), or a list of paths and pixels; a
        text is a name if the database knows it, else a path. Keywords are the options of WITH and the clauses: classes
        ("predicted", "label", "all", a class or a list of them), top (k classes), region (top, left, height, width),
        approx, metric, confidence, exact, top_cells, within, device, reuse, into, replace. None leaves a keyword out.

        `model` is a name, or a live module, which becomes a model called after its class. Options of `create_model`,
        such as size, mean and std, may then be given too; without size, arrays and tensors are of the model's size.
        """
        self._context.require_open()
        source = as_text(source) if isinstance(source, str) else source
        if _is_module(model):
            live = live_model(model, source, options)
            model, options = self._adopted(live.name, model, live.options), live.rest
        if not isinstance(model, (str, ModelRecord)):
            raise QueryTypeError(f"model is a name or a torch.nn.Module, not {type(model).__name__}.")
        is_name = isinstance(source, str) and self._is_name(source)
        name = model.name if isinstance(model, ModelRecord) else model
        statement, parameters = explain_statement(source, name, options, is_name)
        # A tree without a text: errors speak of keywords, and point nowhere.
        result = self._statements.run(statement, Call("", parameters, on_progress, alone=True))
        assert isinstance(result, Result)
        return result

    def predict(
        self,
        source: Any,
        model: str,
        *,
        top: int | None = None,
        page: int | Sequence[int] | str | None = None,
        check: bool = False,
        on_progress: OnProgress | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return the keyword form of PREDICT: the `top` classes of each image, one a row.

        With `check`, the usual preprocessings instead, one a row, and what the network makes of the images with each.
        `source` is what `explain` takes.
        """
        self._context.require_open()
        source = as_text(source) if isinstance(source, str) else source
        is_name = isinstance(source, str) and self._is_name(source)
        statement, parameters = predict_statement(source, model, top, page, check, is_name)
        found = self._statements.run(statement, Call("", parameters, on_progress, alone=True))
        assert isinstance(found, duckdb.DuckDBPyRelation)
        return found

    def error_of_rows(self, error: duckdb.Error, script: str, start: int) -> QueryError:
        """Return an error of DuckDB's that came while the rows were read of the statement at an offset of a script."""
        return self._statements.error_of_rows(error, script, start)

    def cancel(self) -> None:
        """Ask the running statement to stop after its current batch; may be called from another thread."""
        self._statements.cancel()

    # ---- models and images from Python ------------------------------------------------------------------------

    def create_model(
        self, name: str, module: nn.Module | str | Path, *, replace: bool = False, **options: Any
    ) -> ModelRecord:
        """Give a live module (or a model URI) a name; `options` are those of CREATE MODEL, such as size and classes.

        `size` is (height, width) of the model's input. The module is copied; its weights are not stored, only their
        hash: a session that opens the file later asks for it again. Raises ModelError, QueryTypeError, and StoreError
        when the name stands for another model and `replace` is false, or for a new one in a read-only database.
        """
        self._context.require_open()
        _check_name("Model", name)
        with self._statements.turn():
            if isinstance(module, (str, os.PathLike)):
                record = self._model_registry.create(name, os.fspath(module), options)
            else:
                record = self._model_registry.adopt(name, module, options)
            self._statements.catalog.put_model(record, replace or self._model_registry.renews(record))
        return record

    def create_images(
        self,
        name: str,
        images: Any,
        *,
        replace: bool = False,
        page: int | Sequence[int] | str | None = None,
        frames: int | None = None,
        every: int | None = None,
        start: int | None = None,
    ) -> ImageSet:
        """Give a list of images a name: a path, glob or folder, or a list of paths, arrays, tensors, PIL images.

        `page` takes pages of files of several, counted from 1, or "all"; without it, the first is taken. `frames`,
        `every` and `start` are those of clips, as in CREATE IMAGES: videos and folders of pictures are one each then.
        """
        parts = images_parts({"page": page, "frames": frames, "every": every, "start": start})
        self._context.require_writable("create_images")
        _check_name("Image set", name)
        source: str | None = None
        if isinstance(images, (str, os.PathLike)):
            source = os.fspath(images)
        if source is None and not is_pixels(images) and not isinstance(images, Iterable):
            raise QueryTypeError(f"Images are a path or a list of paths and pixels, not {type(images).__name__}.")
        items = [images] if source is not None or is_pixels(images) else list(images)
        found = self._image_registry.in_parts(
            self._image_registry.listed(items, name, "images", n_axes=axes_of_parts(parts)), parts
        )
        if not found:
            raise QueryTypeError("The list of images is empty.")
        return self._image_registry.put_set(
            ImageSet(name, as_text(source or "images from Python"), tuple(found)), replace
        )

    def run(self, name_or_id: str | int) -> Result:
        """Return the maps of a stored run. Raises UnknownNameError."""
        self._context.require_open()
        return self._context.stored_run(name_or_id)

    def ui(
        self, *, host: str = "127.0.0.1", port: int = 0, allow_files: bool = False, open_browser: bool = True
    ) -> PageServer:
        """Serve the page of this session in the background and open it in a browser; `obeql ui` does it for a file.

        `print` what is returned to see the address. `close` on it, or on the session, ends the page; a second call
        returns the page that is there. `allow_files` lets the page's statements name files of this machine. Raises
        UnsupportedError without the extra `ui`, ExecutionError where the address is taken.
        """
        self._context.require_open()
        if self._page is None or not self._page.is_running:
            self._page = page_server(self, host, port, allow_files)
            self._page.start()
        if open_browser:
            self._page.open_browser()
        return self._page

    def probe(self, image: Any, model: str, *, fill: str = "mean") -> Probe:
        """Return a probe: what `model` says of an image with any box of it hidden, one window at a time.

        `image` is a name, an id, a path or pixels. Raises UnknownNameError, ImageError, QueryTypeError for several.
        """
        self._context.require_open()
        return self._statements.probe(image, model, fill)

    def picture(self, image_id: int) -> SourceImage:
        """Return the picture of an image of the database. Raises UnknownNameError, and ImageError where it is gone."""
        return self._statements.picture(image_id)

    # ---- the database -----------------------------------------------------------------------------------------

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """Return the DuckDB connection that SQL statements run on."""
        return self._store.connection

    @property
    def path(self) -> str:
        """Return the path of the database as given, `:memory:` without a file."""
        return self._store.path

    @property
    def read_only(self) -> bool:
        """Return whether the database was opened for reading alone."""
        return self._store.read_only

    def setting(self, name: str) -> Any:
        """Return the value of `obeql.<name>` in this session.

        None means that planning decides. Raises UnknownNameError.
        """
        return self._context.setting(name)

    def close(self) -> None:
        """Close the database; a second call does nothing. A statement that runs in another thread is stopped first.

        Raises QueryError in a callback of a statement: `cancel` there, and close after it.
        """
        if self._page is not None:
            self._page.close()
        with self._statements.stopped():
            self._model_registry.release()
            self._store.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<obeql session on {self.path}>"

    def _adopted(self, name: str, module: Any, options: dict[str, Any]) -> ModelRecord:
        """Return a live module as a model of this name; where that stands for another, with its hash behind it."""
        with self._statements.turn():
            record = self._statements.catalog.with_free_name(self._model_registry.adopt(name, module, options))
            self._statements.catalog.put_model(record, False)
        return record

    def _is_name(self, source: str) -> bool:
        if self._statements.is_image_name(source):
            return True
        return source.isidentifier() and not os.path.exists(source)  # noqa: PTH110  Path's raises for long texts


def _is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")  # a module can only exist once torch has been imported
    return torch is not None and isinstance(model, torch.nn.Module)


def _check_name(what: str, name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise QueryTypeError(f"{what} names are texts that are not empty, not {name!r}.")
