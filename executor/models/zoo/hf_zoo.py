"""Models in Hugging Face's layout: hf:folder or hf:owner/name, an image classifier that transformers builds.

One of the URI families of `obeql.executor.models.load`. No code of a model's folder is ever run.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from obeql.errors import ModelError, install, nearest
from obeql.executor.models.classes import resolve_classes
from obeql.executor.models.forward import reason
from obeql.executor.models.found import Found
from obeql.executor.models.options import ModelOptions
from obeql.executor.models.paths import existing_file
from obeql.executor.models.seeded import seeded
from obeql.executor.models.weights.weights_file import State, read_tensors
from obeql.executor.models.zoo.hf_folder import HfFolder, class_names, open_folder
from obeql.executor.models.zoo.hf_preprocessing import declared_by
from obeql.executor.models.zoo.import_torchvision import torchvision
from obeql.executor.models.zoo.torchvision_zoo import RANDOM_NOTE
from obeql.planner.catalog import Activation, RawOutputs

__all__ = ["load_hf"]

NO_NAMES_NOTE = "config.json names no classes (id2label): they have numbers. Say classes=['..', ..] to name them."

#: How transformers reads what a network returns (config.problem_type), for the outputs and the activation of a model.
PROBLEMS: dict[str, tuple[RawOutputs, Activation | None]] = {
    "single_label_classification": ("logits", "softmax"),
    "multi_label_classification": ("logits", "sigmoid"),
    "regression": ("value", None),
}


class ImageLogits(nn.Module):
    """A classifier of transformers as a module from images (N, C, H, W) to logits (N, K)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=image, return_dict=True).logits
        return logits


def load_hf(target: str, options: ModelOptions) -> Found:
    """Return the image classifier of a folder that `save_pretrained` wrote, or of the hub's model of that name.

    Weights are the folder's, in float32, unless the option says random or names a file of the same keys; class names
    are id2label's. Preprocessing is what preprocessor_config.json says.

    Raises: ModelError when transformers is missing, the folder is incomplete or damaged, its architecture is none that
    transformers knows or no image classifier, weights do not cover the network, or its preprocessing cannot be
    expressed and the options do not say another.
    """
    transformers = _package(target)
    folder = open_folder(target)
    names = class_names(folder)
    with _quiet(transformers):
        config = _config(transformers, folder, options)
        network, notes = _network(transformers, folder, config, options)
        declared, more = declared_by(transformers, folder, config, options)
    if not names:
        notes = (*notes, *(() if options.classes else (NO_NAMES_NOTE,)))
    setattr(network, "name_or_path", "")  # noqa: B010  where a folder lies is not what is in it; typed as a module
    outputs, activation = PROBLEMS.get(str(config.problem_type), (None, None))
    return Found(ImageLogits(network), declared, names, outputs, activation, notes=(*notes, *more))


def _package(target: str) -> Any:
    with contextlib.suppress(ModelError):
        torchvision(f"hf:{target}")  # transformers imports it where it is installed, and falls over a mismatched one
    try:
        package = importlib.import_module("transformers")
        _ = package.AutoModelForImageClassification, package.AutoImageProcessor
    except ImportError as error:
        if getattr(error, "name", None) not in ("transformers", None):
            raise ModelError(f"hf:{target}: importing transformers failed: {reason(error)}.") from error
        raise ModelError(f"hf:{target} needs transformers; {install('hf')}.") from None
    return package


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers' bars and reports off: what they tell is checked, and said in an error or a note."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _config(transformers: Any, folder: HfFolder, options: ModelOptions) -> Any:
    """Return the configuration, of an architecture that transformers has as an image classifier."""
    kind = folder.config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ModelError(_without_kind(folder))
    known = transformers.CONFIG_MAPPING
    classifiers = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    if kind not in known:
        code = " Its folder brings code of its own, which is not run." if "auto_map" in folder.config else ""
        raise ModelError(
            f"The architecture {kind!r} in {str(folder.path / 'config.json')!r} is none that transformers "
            f"{transformers.__version__} knows.{nearest(kind, known)}{code} Export the model to ONNX, or name a "
            "function that builds it with python:package.module:factory."
        )
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=False, return_dict=True
        )
    except Exception as error:  # a value of the wrong kind may fail anywhere in the class of a configuration
        raise ModelError(
            f"{str(folder.path / 'config.json')!r} is no configuration of {kind}: {reason(error)}."
        ) from error
    if type(config) not in classifiers:
        raise ModelError(f"transformers has no image classifier of the architecture {kind!r}.")
    n_said = len(resolve_classes(options.classes)) if "num_labels" not in folder.config else 0
    if "id2label" not in folder.config and n_said:
        config.num_labels = n_said
    return config


def _without_kind(folder: HfFolder) -> str:
    """Return what to say of a config.json without a model_type, of which timm writes some as well."""
    says = f"{str(folder.path / 'config.json')!r} does not say its architecture: it has no model_type"
    timm = folder.config.get("architecture")
    if isinstance(timm, str) and {"pretrained_cfg", "num_features"} & folder.config.keys():
        weights = folder.path / "model.safetensors"
        return f"{says}, since it is timm's. Say 'timm:{timm}' with weights='{weights}' in place of the folder."
    return (
        f'{says}, which save_pretrained of transformers writes, such as "vit" or "resnet". Add it, export the model to '
        "ONNX, or name a function that builds it with python:package.module:factory."
    )


def _network(
    transformers: Any, folder: HfFolder, config: Any, options: ModelOptions
) -> tuple[nn.Module, tuple[str, ...]]:
    weights = options.weights
    if weights is not None and weights.lower() == "random":
        build = transformers.AutoModelForImageClassification.from_config
        return seeded(lambda: build(config, trust_remote_code=False)), (RANDOM_NOTE,)
    if weights is not None and weights.upper() != "DEFAULT":
        path = existing_file(weights, "weights file")
        return _pretrained(transformers, folder, config, path, read_tensors(path, options.trust)), ()
    if not folder.has_weights:
        raise ModelError(
            f"The folder {str(folder.path)!r} has no weights (model.safetensors, or shards with an index); "
            "say weights='file.safetensors' or weights=random."
        )
    return _pretrained(transformers, folder, config, folder.path), ()


def _pretrained(
    transformers: Any, folder: HfFolder, config: Any, source: Path, state: State | None = None
) -> nn.Module:
    """Return the network with weights, every tensor of which must be there and fit: those of the folder, or `state`."""
    network, told = _load(transformers, config, source, state)
    shapes = told["mismatched_keys"]
    unsaid = "id2label" not in folder.config and "num_labels" not in folder.config
    heads = {held[0] for _, held, wanted in shapes if wanted[:1] == (config.num_labels,) and held[1:] == wanted[1:]}
    if unsaid and len(heads) == 1:
        config.num_labels = heads.pop()  # where nothing is said, transformers takes two classes
        network, told = _load(transformers, config, source, state)
        shapes = told["mismatched_keys"]
    if shapes:
        key, held, wanted = min(shapes)
        raise ModelError(
            f"The weights in {str(source)!r} do not fit config.json: {key!r} is {tuple(held)} in the file and "
            f"{tuple(wanted)} in the network."
        )
    missing = sorted(told["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"The weights in {str(source)!r} lack {missing[0]!r}{more} of {type(network).__name__}: "
            "they are of a network without this classifier, or incomplete."
        )
    return network


def _load(transformers: Any, config: Any, source: Path, state: State | None) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network and what transformers tells of its loading; it knows the names that tensors had earlier."""
    build = transformers.AutoModelForImageClassification.from_pretrained
    if state is not None:
        build = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)].from_pretrained
    try:
        network, told = build(
            source if state is None else None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # told of, and refused with the shapes
            output_loading_info=True,
        )
    except Exception as error:  # damaged files break in many ways
        raise ModelError(
            f"transformers cannot load {str(source)!r}: {type(error).__name__}: {reason(error)}."
        ) from error
    return network, told
