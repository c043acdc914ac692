"""Class names: from a list, a text or JSON file, or ImageNet's as torchvision carries them.

Read by every URI family while a model is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path

from obeql.errors import ModelError
from obeql.executor.models.paths import existing_file
from obeql.executor.models.zoo.import_torchvision import torchvision

__all__ = ["imagenet_classes", "resolve_classes"]

#: A file of class names larger than this is some other file.
MAX_BYTES = 16 * 2**20


def resolve_classes(said: tuple[str, ...] | str | None, declared: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the class names in output order; `declared` when the option was not given.

    A text is 'imagenet', the path of a file (one name a line; or JSON: a list, or an object from index to name or to
    [id, name]), or names separated by commas.

    Raises: ModelError for a file that cannot be read as names.
    """
    if said is None:
        return declared
    if isinstance(said, tuple):
        return said
    if said.lower() == "imagenet":
        return imagenet_classes()
    if "," in said and not Path(said).expanduser().is_file():
        return tuple(name.strip() for name in said.split(",") if name.strip())
    return _read_names(existing_file(said, "file of class names"))


def imagenet_classes() -> tuple[str, ...]:
    """Return the 1000 names of ImageNet-1k in the usual order. Raises: ModelError without torchvision."""
    weights = torchvision("classes='imagenet'").models.ResNet18_Weights.DEFAULT
    return tuple(weights.meta["categories"])


def _read_names(path: Path) -> tuple[str, ...]:
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"The file of class names {str(path)!r} is larger than {MAX_BYTES // 2**20} MB.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ModelError(f"The file of class names {str(path)!r} is not UTF-8 text.") from None
    names = _json_names(path, text) if path.suffix.lower() == ".json" else text.splitlines()
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        place = f"line {names.index('') + 1} is empty" if names else "it is empty"
        raise ModelError(f"The file of class names {str(path)!r} must hold one name a line, but {place}.")
    return tuple(names)


def _json_names(path: Path, text: str) -> list[str]:
    allowed = 'a list of names or an object {"0": name, "1": name, ...}'
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise ModelError(f"The file of class names {str(path)!r} is not valid JSON; it must be {allowed}.") from None
    if isinstance(data, dict):
        # Keras writes {"0": ["n01440764", "tench"], ...}; the last item is the readable name.
        entries = [data.get(str(index)) for index in range(len(data))]
        data = [entry[-1] if isinstance(entry, list) and entry else entry for entry in entries]
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise ModelError(f"The file of class names {str(path)!r} must be {allowed}.")
    return data
