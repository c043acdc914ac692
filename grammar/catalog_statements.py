"""The statements about what a session knows: models, images, runs by their names, and settings.

Listed in `statements`, with a handler each in the module of this name in `obeql.session`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias, get_args

from obeql.grammar.statement_node import About, StatementNode, Words, with_options
from obeql.grammar.syntax import (
    Name,
    Option,
    Parameter,
    ParameterSource,
    PathSource,
    Reference,
    SelectSource,
    Span,
    Text,
    Value,
)

__all__ = [
    "CATALOG_STATEMENTS",
    "CreateImages",
    "CreateModel",
    "Describe",
    "Drop",
    "Kind",
    "ResetSetting",
    "SetSetting",
    "Show",
]


def _create(replace: bool) -> str:
    return "CREATE OR REPLACE" if replace else "CREATE"


@dataclass(frozen=True, slots=True)
class CreateModel(StatementNode):
    """CREATE [OR REPLACE] MODEL name FROM uri [WITH options]."""

    name: Name
    uri: Text | Parameter
    options: tuple[Option, ...] = ()
    replace: bool = False

    about: ClassVar[About] = About(
        "CREATE MODEL",
        "gives a network a name",
        "CREATE [OR REPLACE] MODEL name FROM 'uri' [WITH option=value ..];",
        (
            ("'file.onnx', 'file.pt2'", "an ONNX graph, an archive of torch.export"),
            ("'torchvision:name'", "an architecture of torchvision; 'timm:name' of timm"),
            ("'hf:folder or owner/name'", "an image classifier of transformers"),
            ("'python:module:function'", "what a function returns; needs --allow-python"),
            ("OR REPLACE", "lets the name stand for another network"),
        ),
        "CREATE MODEL tumour FROM 'vgg16.onnx' WITH classes=['glioma', 'notumor'];",
        "model",
        inside=True,
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return _create(self.replace), "MODEL", self.name, "FROM", self.uri, *with_options(self.options)


@dataclass(frozen=True, slots=True)
class CreateImages(StatementNode):
    """CREATE [OR REPLACE] IMAGES name FROM glob, SELECT or parameter [WITH options]."""

    name: Name
    source: PathSource | SelectSource | ParameterSource
    replace: bool = False
    options: tuple[Option, ...] = ()

    about: ClassVar[About] = About(
        "CREATE IMAGES",
        "gives a list of images a name",
        "CREATE [OR REPLACE] IMAGES name FROM 'path or glob' | (SELECT ..) | parameter [WITH option=value ..];",
        (("(SELECT ..)", "names images by a column path or image_id; label becomes the label"),),
        "CREATE IMAGES scans FROM 'scans/*.jpg';",
        "images",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return _create(self.replace), "IMAGES", self.name, "FROM", self.source, *with_options(self.options)


Kind: TypeAlias = Literal["model", "images", "run"]


@dataclass(frozen=True, slots=True)
class Drop(StatementNode):
    """DROP MODEL | IMAGES | RUN name; only a run's reference is ever anything but a Name."""

    kind: Kind
    name: Reference

    about: ClassVar[About] = About(
        "DROP",
        "forgets a model, a list of images, or a run with its maps",
        "DROP MODEL | IMAGES | RUN name;",
        (),
        "DROP RUN first;",
        second=get_args(Kind),
        inside=True,
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "DROP", self.kind.upper(), self.name


Shown: TypeAlias = Literal["models", "images", "runs", "devices", "operators"]


@dataclass(frozen=True, slots=True)
class Show(StatementNode):
    """SHOW MODELS | IMAGES | RUNS | DEVICES | OPERATORS."""

    what: Shown

    about: ClassVar[About] = About(
        "SHOW",
        "lists what there is",
        "SHOW MODELS | IMAGES | RUNS | DEVICES | OPERATORS;",
        (),
        "SHOW RUNS;",
        second=get_args(Shown),
        inside=True,
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "SHOW", self.what.upper()


@dataclass(frozen=True, slots=True)
class Describe(StatementNode):
    """DESCRIBE MODEL | IMAGES | RUN name; only a run's reference is ever anything but a Name."""

    kind: Kind
    name: Reference

    about: ClassVar[About] = About(
        "DESCRIBE",
        "shows the layers of a model, the files of images, the maps of a run",
        "DESCRIBE MODEL | IMAGES | RUN name;",
        (),
        "DESCRIBE MODEL tumour;",
        second=get_args(Kind),
        inside=True,
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "DESCRIBE", self.kind.upper(), self.name


@dataclass(frozen=True, slots=True)
class SetSetting(StatementNode):
    """SET obeql.name = value; the name in lower case, without `obeql.`, and where it stands."""

    name: str
    value: Value
    name_span: Span = field(default=Span(0, 0), compare=False, repr=False, kw_only=True)

    about: ClassVar[About] = About(
        "SET",
        "changes a setting for this session",
        "SET obeql.setting = value;",
        (),
        "SET obeql.device = 'cpu';",
        "settings",
        ("obeql",),
        inside=True,
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return f"SET obeql.{self.name} =", self.value


@dataclass(frozen=True, slots=True)
class ResetSetting(StatementNode):
    """RESET obeql.name."""

    name: str
    name_span: Span = field(default=Span(0, 0), compare=False, repr=False, kw_only=True)

    about: ClassVar[About] = About(
        "RESET",
        "gives a setting its default again",
        "RESET obeql.setting;",
        (),
        "RESET obeql.device;",
        "settings",
        ("obeql",),
        inside=True,
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return (f"RESET obeql.{self.name}",)


#: In the order in which help lists them.
CATALOG_STATEMENTS: tuple[type[StatementNode], ...] = (
    CreateModel,
    CreateImages,
    Drop,
    Show,
    Describe,
    SetSetting,
    ResetSetting,
)
