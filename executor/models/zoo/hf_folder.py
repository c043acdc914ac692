"""The folder of a model in Hugging Face's layout: found here or on the hub, its files and class names checked.

Comes before `hf_zoo`, which has transformers load what lies in it.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from obeql.errors import ModelError, nearest
from obeql.executor.models.forward import reason
from obeql.executor.models.paths import existing_file

__all__ = ["PREPROCESSOR", "HfFolder", "class_names", "open_folder"]

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"

#: Files that hold the weights or, where their name ends in .index.json, say which files do; the first found counts.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
INDEX = ".index.json"

#: What the hub calls a model: a name, or an owner and a name.
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class HfFolder:
    """A folder with a readable config.json; `config` is its content, `has_weights` whether all its shards are there."""

    path: Path
    config: Mapping[str, Any]
    has_weights: bool


def open_folder(target: str) -> HfFolder:
    """Return the folder at a path, or that of a model of the hub, which is downloaded or taken from the hub's cache.

    Raises: ModelError where there is neither, where config.json is missing or damaged, and where a shard is missing
    that the index of the weights names.
    """
    folder = Path(target).expanduser()
    if not folder.is_dir():
        folder = _downloaded(target)
    config = read_json(folder / CONFIG, "It is no model of transformers, which save_pretrained writes.")
    return HfFolder(folder, config, _has_weights(folder))


def read_json(path: Path, otherwise: str) -> dict[str, Any]:
    """Return the object in a JSON file. Raises: ModelError for a missing file, ended by `otherwise`, or another one."""
    if not path.is_file():
        raise ModelError(f"The folder {str(path.parent)!r} has no {path.name}. {otherwise}")
    existing_file(str(path), path.name)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{str(path)!r} is not valid JSON: {reason(error)}.") from None
    if not isinstance(content, dict):
        raise ModelError(f"{str(path)!r} must hold a JSON object, not a {type(content).__name__}.")
    return content


def _has_weights(folder: Path) -> bool:
    found = [name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        return False
    whole, index = WEIGHTS[:2]
    if {whole, index} <= set(found):
        raise ModelError(
            f"The folder {str(folder)!r} has both {whole} and {index}, and they may be two models: "
            "move the one away that is not meant."
        )
    if found[0].endswith(INDEX):
        _require_shards(folder, found[0])
    else:
        existing_file(str(folder / found[0]), "weights file")
    return True


def _require_shards(folder: Path, index: str) -> None:
    """Raise ModelError where a file that an index names is not beside it. Other files do not matter."""
    placed = read_json(folder / index, "").get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise ModelError(f"{str(folder / index)!r} names no shards: it must have a weight_map from tensors to files.")
    shards = sorted(set(placed.values()))
    for shard in shards:
        if PurePosixPath(shard).name != shard or "\\" in shard:
            raise ModelError(f"{str(folder / index)!r} names the shard {shard!r}, which is not a file of its folder.")
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"The folder {str(folder)!r} lacks {missing[0]}{more} of the {len(shards)} shards that {index} names: "
            "download the folder again."
        )
    for shard in shards:
        existing_file(str(folder / shard), "shard")


def class_names(folder: HfFolder) -> tuple[str, ...]:
    """Return the names in id2label in the order of their numbers; empty where config.json has none.

    Raises: ModelError where the keys are not 0, 1, 2 .. without a gap, or the names are not text.
    """
    labels = folder.config.get("id2label")
    if labels is None:
        return ()
    where = f"id2label in {str(folder.path / CONFIG)!r}"
    allowed = 'it must be an object {"0": name, "1": name, ...}'
    if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels.values()):
        raise ModelError(f"{where} is not from numbers to names: {allowed}.")
    odd = [key for key in labels if not key.isascii() or not key.isdecimal()]
    if odd:
        raise ModelError(f"{where} has the key {odd[0]!r}, which is no number: {allowed}.")
    by_number = {int(key): name for key, name in labels.items()}
    gap = next((number for number in range(len(labels)) if number not in by_number), None)
    if gap is not None:
        raise ModelError(f"{where} has {len(labels)} names, but none for class {gap}: {allowed}.")
    return tuple(by_number[number] for number in range(len(labels)))


def _downloaded(target: str) -> Path:
    """Return the folder in the hub's cache, with the files that are needed downloaded where they are not in it."""
    folder = Path(target).expanduser()
    if not _ID.fullmatch(target) or target.startswith("."):
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise ModelError(f"There is no folder {target!r} of a model.{nearest(folder.name, siblings)}")
    hub = importlib.import_module("huggingface_hub")
    patterns = [CONFIG, PREPROCESSOR, "model.safetensors", "model-*.safetensors", f"model.safetensors{INDEX}"]
    try:
        path = Path(hub.snapshot_download(target, allow_patterns=patterns))
        if not any((path / name).is_file() for name in WEIGHTS):
            path = Path(hub.snapshot_download(target, allow_patterns=[*patterns, "pytorch_model*.bin*"]))
    except Exception as error:  # the hub's client and its transport have their own errors, by version
        raise ModelError(
            f"There is no folder {target!r}, and the hub's model of that name could not be fetched: "
            f"{type(error).__name__}: {reason(error)}. Download it where the hub is reached "
            f"(hf download {target} --local-dir FOLDER) and say 'hf:FOLDER'."
        ) from error
    return path
