"""Export of the maps of a run: which name is a table, a file of `registry`, or a folder of `folders`.

Comes after a result; maps are taken one after the other, so that a run of any size is exported in little memory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from obeql.errors import ImageError, QueryTypeError, nearest
from obeql.export.folders import folder_format
from obeql.export.registry import known_suffixes

if TYPE_CHECKING:
    from obeql.results.result import Result

__all__ = ["TABLES", "export_run", "is_one_file"]

#: Suffixes of tables that EXPORT RUN writes, one row a window.
TABLES = (".csv", ".json", ".parquet")
#: What other files end in; folders are called `maps.v2` or `2026.03`.
_LIKE_A_FILE = re.compile(r"\.([a-z]{2,6}|h5|hdf5|mp4|pt2)")


def is_one_file(path: str | Path) -> bool:
    """Return whether a run is exported to one file of this name, and not into a folder.

    Raises QueryTypeError for a name like that of a file which is not written.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        return False
    known = (*known_suffixes(), *TABLES)
    if suffix not in known and _LIKE_A_FILE.fullmatch(suffix):
        raise QueryTypeError(
            f"'{path.name}' needs a suffix of {' '.join(known)}; or name a folder.{nearest(suffix, known)}"
        )
    return suffix in known


def export_run(result: Result, folder: str | Path, form: str | None = None) -> list[Path]:
    """Write the maps into a folder, which is made if missing, or into one file of that name; return the files.

    Without a format, a name with the suffix of a picture, film, report or numpy file is that file, as `Result.save`
    writes it, and any other a folder of the first format of `FOLDER_FORMATS`, which says what each writes. Files of the
    same names are replaced. Raises QueryTypeError for another format and for a new folder named like a file,
    ImageError for a folder that cannot be written and for images that a format cannot be of.
    """
    if form is None and is_one_file(folder):
        if Path(folder).suffix.lower() in TABLES:
            raise QueryTypeError(
                f"'{Path(folder).name}' is a table of windows, which the database writes: "
                f"db.execute(\"EXPORT RUN {result.run_id} TO '{Path(folder).name}'\"); or name a folder"
            )
        return result.save(folder)
    written = folder_format(form)
    folder = Path(folder).expanduser()
    if is_one_file(folder):
        raise QueryTypeError(
            f"'{folder}' is named like a file, but with a format a run is exported into a folder: name a folder, "
            "or leave out the format to write this one file"
        )
    if folder.exists() and not folder.is_dir():
        raise ImageError(f"'{folder}' is a file: name a folder for FORMAT {written.name.upper()}.")
    written.check(result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot write into '{folder}': {error.strerror or error}") from None
    return written.write(result, folder)
