"""What the planner knows of the world: models, images and image sets, as plain records.

The session fills a `Catalog` from the store; binding resolves names against it. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from obeql.planner.geometry import Network
from obeql.planner.input_kinds import InputKind, kind_of

if TYPE_CHECKING:
    from obeql.planner.binding.image_paths import Parts

__all__ = [
    "NO_YES",
    "Activation",
    "Catalog",
    "ImageRecord",
    "ImageSet",
    "ModelRecord",
    "Preprocessing",
    "RawOutputs",
    "StoredGrid",
    "StoredMaps",
]

#: How the network's K logits become probabilities. `softmax`: classes exclude each other; `sigmoid`: each class is
#: judged alone; `none`: the outputs are values in a unit of their own, and there are no probabilities.
Activation = Literal["softmax", "sigmoid", "none"]

#: What a module returns, before it is read.
RawOutputs = Literal["logits", "probabilities", "value"]

#: The two classes of a network with one output, where nobody has named them.
NO_YES = ("no", "yes")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a source becomes the model's input: resize, channels, values mapped to 0..1, (x - mean) / std.

    `size` is the model's input along its spatial axes: (height, width) of images, (length,) of signals, (depth, height,
    width) of volumes. `resize` is `squash` (every side to `size`), `shortest` (shorter side to `edge` pixels, then
    centre crop to `size`), `none` (a source has that size) or `crop_pad` (its middle, with zeros around it where it is
    shorter).
    `channels` are the colors of an image, or the names of the channels of what is none; `mean` and `std` are in their
    order. `range` of signals and volumes are the values that become 0 and 1; None leaves values as they are.
    `crop` says which pixel a crop starts at whose margin is odd: the even one of two, as torchvision, or the lower.
    """

    size: tuple[int, ...]
    resize: Literal["squash", "shortest", "none", "crop_pad"] = "squash"
    edge: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = "bicubic"
    channels: Literal["rgb", "bgr", "gray"] | tuple[str, ...] = "rgb"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    crop: Literal["even", "down"] = "even"
    range: tuple[float, float] | None = None

    @property
    def kind(self) -> InputKind:
        """Return what kind of input the model takes: signals, images or volumes."""
        return kind_of(len(self.size))

    @property
    def is_signal(self) -> bool:
        """Return whether the model takes signals, (N, C, length)."""
        return len(self.size) == 1

    @property
    def is_image(self) -> bool:
        """Return whether the model takes images, (N, C, height, width): colors in 0..1, not values of a unit."""
        return len(self.size) == 2

    @property
    def map_size(self) -> tuple[int, ...]:
        """Return the size of the model's input as the engine and the store have it: a signal has one row."""
        return (1, *self.size) if self.is_signal else self.size

    @property
    def n_channels(self) -> int:
        """Return the channels C of the model's input."""
        if isinstance(self.channels, tuple):
            return len(self.channels)
        return 1 if self.channels == "gray" else 3

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Return what the channels are called, in the order of the model's input."""
        if isinstance(self.channels, tuple):
            return self.channels
        return {"gray": ("gray",), "rgb": ("red", "green", "blue"), "bgr": ("blue", "green", "red")}[self.channels]

    @property
    def size_text(self) -> str:
        """Return the size of the input as people read it: `240x320`, or `length 1024` of signals."""
        return f"length {self.size[0]}" if self.is_signal else "x".join(map(str, self.size))

    def to_json(self) -> str:
        data = asdict(self)
        # The digests of stored cells are from before there was another.
        if self.crop == "even":
            del data["crop"]
        if self.range is None:
            del data["range"]
        return json.dumps(data, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        data = json.loads(text)
        for name, value in data.items():
            data[name] = tuple(value) if isinstance(value, list) else value
        return cls(**data)

    def digest(self) -> str:
        """Return the hex SHA-256 of every setting."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model as the catalog knows it. `uri` is None for a live Python module, whose weights are not stored.

    `options` are the WITH options a loader needs to build the same module again from `uri`.
    `model_hash` is the model's identity: what its network computes. `content_hash` is of what its source held, weights,
    structure and settings; empty where an earlier version stored the model, whose `model_hash` is that hash.
    """

    name: str
    model_hash: str
    uri: str | None
    options: Mapping[str, Any]
    classes: tuple[str, ...]
    activation: Activation
    preprocessing: Preprocessing
    network: Network
    content_hash: str = ""

    @property
    def n_classes(self) -> int:
        return self.network.n_classes

    @property
    def yes_no(self) -> bool:
        """Return whether the network has one output, which says yes or no: class 1 or class 0."""
        return self.network.layers[-1].kind == "yes_no"

    @property
    def has_values(self) -> bool:
        """Return whether the outputs are values in a unit of their own, not classes."""
        return self.activation == "none"

    def class_name(self, class_id: int) -> str:
        if class_id < len(self.classes):
            return self.classes[class_id]
        return "value" if self.has_values and self.n_classes == 1 else str(class_id)

    @property
    def classes_text(self) -> str:
        """Return how many classes, or values, the model has, and what its outputs are unless they are plain logits."""
        layers = self.network.layers
        n = self.n_classes
        if self.has_values:
            return f"{n} value{'s' if n != 1 else ''} (as the network returns {'them' if n != 1 else 'it'})"
        if self.yes_no:
            is_probability = layers[-2].kind == "probabilities"
            what = "a probability, yes from 0.5 on" if is_probability else "a logit, yes where it is above 0"
            no, yes = (self.class_name(i) for i in range(2))
            return f"2 classes, 0 = {no} and 1 = {yes} (one output: {what})"
        if layers[-1].kind != "probabilities":
            return f"{n} classes{' (each judged alone)' if self.activation == 'sigmoid' else ''}"
        alone = self.activation == "sigmoid"
        return f"{n} classes (probabilities{', each class judged alone' if alone else ' that sum to 1'})"

    @property
    def outputs_text(self) -> str:
        """Return which of several outputs is read, `read from 'out' (4) of the outputs ..`; else nothing."""
        outputs = self.network.outputs
        if len(outputs) < 2:
            return ""
        shown = [f"'{each.name}' ({'x'.join(map(str, each.shape)) or 'a number'})" for each in outputs]
        chosen = next((text for text, each in zip(shown, outputs, strict=True) if each.chosen), "?")
        return f"read from {chosen} of the outputs {', '.join(shown)}"

    def __repr__(self) -> str:
        said = self.classes_text if "(" in self.classes_text else f"{self.classes_text} (logits)"
        names = f": {', '.join(self.classes[:4])}{', ..' if len(self.classes) > 4 else ''}" if self.classes else ""
        read = f", {self.outputs_text}" if self.outputs_text else ""
        size = self.preprocessing.size_text
        return f"<model {self.name}: {said}{'' if self.yes_no else names}, input {size}{read}>"


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image. `path` is None for an image handed over from Python; `key` then finds it in the session.

    `columns` are further columns of the SELECT that named the image; they pass through to the result. An image that a
    source names in several rows has the labels of the others in `further_labels`.
    """

    path: str | None
    image_id: int | None = None
    label: str | None = None
    key: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    further_labels: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """Return the name used in messages and titles."""
        return self.path if self.path is not None else (self.key or f"image {self.image_id}")


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A named list of images, fixed when it was created; `source` is the glob or SELECT it came from."""

    name: str
    source: str
    images: tuple[ImageRecord, ...]


@dataclass(frozen=True, slots=True, eq=False)
class StoredGrid:
    """The windows of a stored map: what planning needs to know of it.

    `axes` are the starts and lengths of the windows along each axis, the slowest first. `exact`, of the grid's shape,
    says which cells are exact, None that all are. `run` is how the oldest run that has the map is shown. `channels` are
    those that its windows hide; None: all of them.
    """

    class_id: int
    patch: tuple[int, ...]
    axes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    clean_top_class: int
    run: str
    exact: npt.NDArray[np.bool_] | None = None
    channels: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StoredMaps:
    """The maps, oldest first, that are stored of each of some images: `images` are their places in the statement.

    Thousands of images that one run explained alike are one such record.
    """

    images: Sequence[int]
    maps: Sequence[StoredGrid]


@dataclass(frozen=True, slots=True, eq=False)
class WindowTable:
    """Windows as a table lists them: names of its columns in small letters, and its rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Catalog(Protocol):
    """What binding asks of the session. Names match case-insensitively; unknown names return None."""

    def model(self, name: str) -> ModelRecord | None: ...

    def model_names(self) -> Sequence[str]: ...

    def image_set(self, name: str) -> ImageSet | None: ...

    def image_named(self, name: str) -> Sequence[ImageRecord]:
        """Return all known images whose file stem (or key) is `name`."""
        ...

    def image_names(self) -> Sequence[str]: ...

    def images_at(self, pattern: str, n_axes: int | None = None) -> Sequence[ImageRecord]:
        """Return the file at a path, or the files a glob matches, sorted; empty when there is none.

        A folder of slices is one volume to a model of three axes.
        """
        ...

    def images_selected(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[ImageRecord]:
        """Return the images a SELECT yields through its `path` or `image_id` column.

        `parameters` bind by name; a `?` or `$1` has its number, from 1, as name (DuckDB takes both that way).
        """
        ...

    def windows_selected(self, sql: str, parameters: Mapping[str, Any]) -> WindowTable:
        """Return the rows of a SELECT that lists windows; parameters as of `images_selected`."""
        ...

    def label_picture(self, path: str) -> npt.NDArray[Any]:
        """Return the values of a picture of labels, (height, width). Raises ImageError."""
        ...

    def segments(self, image: ImageRecord, call: str, how: Preprocessing) -> npt.NDArray[Any]:
        """Return the segments of an image as the model sees it, by a call such as `slic(100)`: labels from 1 on.

        (height, width) of the model's input. Raises ImageError, and UnsupportedError without the library.
        """
        ...

    def in_parts(self, images: Sequence[ImageRecord], parts: Parts) -> Sequence[ImageRecord]:
        """Return parts of the images' files: pages, counted from 1, or `all`, or frames; others as they are."""
        ...

    def run_exists(self, name: str) -> bool: ...

    def stored_grids(
        self, images: Sequence[ImageRecord], model: ModelRecord, fill: str, precision: str
    ) -> Sequence[StoredMaps]:
        """Return the stored maps of the images as they were seen last; images of which none are stored are left out."""
        ...

    def setting(self, name: str) -> Any:
        """Return the value of `obeql.<name>` or its default."""
        ...
