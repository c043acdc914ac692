"""From a model URI, or a live module, to a checked classifier.

The entry of this package: options are checked, the URI's family builds the module, preprocessing and class names are
filled in, one forward pass is tried. `obeql.executor.network` captures the result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from obeql.errors import ModelError, ObeqlError, nearest
from obeql.executor.models.bound_inputs import bind_module
from obeql.executor.models.classes import resolve_classes
from obeql.executor.models.forward import check_forward, reason
from obeql.executor.models.found import Found
from obeql.executor.models.identity.snapshot import snapshot
from obeql.executor.models.loaded import LoadedModel
from obeql.executor.models.one_row import OneRow
from obeql.executor.models.onnx.file import load_onnx
from obeql.executor.models.options import ModelOptions, parse_options
from obeql.executor.models.preprocessing import declared_by, resolve_preprocessing
from obeql.executor.models.python_factory import load_factory
from obeql.executor.models.weights.exported_program import load_exported
from obeql.executor.models.weights.pickled_module import load_pickled, refuse_weights
from obeql.executor.models.zoo.hf_zoo import load_hf
from obeql.executor.models.zoo.timm_zoo import load_timm
from obeql.executor.models.zoo.torchvision_zoo import load_torchvision
from obeql.executor.models.zoo.xrayvision import with_xrayvision
from obeql.executor.network.capture.reading import require_fitting

__all__ = ["FILES", "SCHEMES", "adopt", "load"]

Family = Callable[[str, ModelOptions], Found]

#: URIs of the form scheme:target.
SCHEMES: Mapping[str, Family] = {
    "torchvision": load_torchvision,
    "timm": load_timm,
    "hf": load_hf,
    "python": load_factory,
}

#: Files, by what their name ends with.
FILES: Mapping[str, Family] = {
    ".onnx": load_onnx,
    ".pt2": load_exported,
    ".pt": load_pickled,
    ".pth": load_pickled,
    ".pkl": load_pickled,
    ".safetensors": refuse_weights,
}

_ALLOWED = (
    "torchvision:<name>, timm:<name>, hf:<folder or owner/name>, python:<package.module>:<factory>, "
    "an .onnx file or a torch.export .pt2 file"
)


def load(uri: str, options: Mapping[str, Any] | None = None) -> LoadedModel:
    """Return the classifier that a URI names, checked by one forward pass of a zero batch.

    `options` are those of CREATE MODEL (`obeql.executor.models.options.OPTION_NAMES`).

    Raises: UnknownNameError and QueryTypeError for options, ModelError for everything about the model.
    """
    parsed = parse_options(options or {})
    text = uri.strip()
    scheme, colon, target = text.partition(":")
    if colon and scheme.lower() in SCHEMES:
        if not target.strip():
            raise ModelError(f"The model URI {uri!r} names nothing after the colon; allowed are {_ALLOWED}.")
        return _finish(_guarded(SCHEMES[scheme.lower()], uri, target.strip(), parsed), parsed)
    suffix = PurePath(text).suffix.lower()
    if "://" in text or (re.match(r"[A-Za-z][\w+-]+:(?!\\)", text) and suffix not in FILES):
        raise ModelError(f"Models cannot be loaded from {uri!r}: allowed are {_ALLOWED}.{nearest(scheme, SCHEMES)}")
    if suffix not in FILES:
        hint = f" For a network of torchvision, say 'torchvision:{text}'." if text.isidentifier() else ""
        raise ModelError(f"{uri!r} is not a model that can be loaded: allowed are {_ALLOWED}.{hint}")
    return _finish(_guarded(FILES[suffix], uri, text, parsed), parsed)


def adopt(module: nn.Module, **options: Any) -> LoadedModel:
    """Return a checked classifier from a live module. `options` are those of CREATE MODEL; `size` is needed.

    The module is copied, so that it can be trained on, or stay in training mode, without changing the model.
    DataParallel and compiled modules are unwrapped.

    Raises: as `load`.
    """
    parsed = parse_options(options)
    if not isinstance(module, nn.Module):
        raise ModelError(f"A model is a torch.nn.Module or a uri, not {type(module).__name__}.")
    if parsed.weights is not None:
        raise ModelError("A live module carries its weights; the option weights does not apply to it.")
    if isinstance(module, nn.DataParallel):
        module = module.module
    original = getattr(module, "_orig_mod", module)  # torch.compile's wrapper
    _require_weights(original)
    from_code = not isinstance(original, torch.jit.ScriptModule)
    return _finish(Found(snapshot(original), declared_by(original), from_code=from_code), parsed)


def _guarded(family: Family, uri: str, target: str, options: ModelOptions) -> Found:
    """Return what the family finds. Families report what they foresee; damaged files also break in other ways."""
    try:
        return family(target, options)
    except ObeqlError:
        raise
    except Exception as error:
        raise ModelError(f"The model {uri!r} cannot be loaded: {type(error).__name__}: {reason(error)}.") from error


def _require_weights(module: nn.Module) -> None:
    """Raise ModelError where weights have no values: those of a lazy module, or on the meta device."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                f"The module's {name!r} has no values yet: it is lazy. Run it once on an image, and load or train its "
                "weights, before creating the model."
            )
        if tensor.is_meta:
            raise ModelError(f"The weights {name!r} are on the meta device: load them before creating the model.")


def _finish(found: Found, options: ModelOptions) -> LoadedModel:
    found = with_xrayvision(found) if found.from_code else found
    if not found.binds_inputs:
        found = replace(found, module=bind_module(found.module, options.inputs))
    _require_weights(found.module)
    if getattr(found.module, "num_classes", None) == 0:  # as timm marks networks without a head
        raise ModelError(
            "The network has no classifier (num_classes=0): its outputs are features. Give it a head, or name weights "
            "that have one."
        )
    module = found.module.eval()
    said = resolve_classes(options.classes)
    how = resolve_preprocessing(options, found.declared)
    checked = check_forward(
        LoadedModel(
            module=OneRow(module).eval() if how.is_signal else module,
            found=module,
            classes=said,
            activation=options.activation or found.activation,
            raw_outputs=found.raw_outputs or options.outputs,
            preprocessing=how,
            notes=found.notes,
            outputs=found.outputs,
            from_code=found.from_code,
        ),
        None if found.outputs else options.output,  # else it is chosen
    )
    require_fitting(checked.n_classes, options.activation, found.activation)
    classes = said if said or len(found.classes) != checked.n_classes else found.classes
    return replace(checked, classes=classes, meaning=_meaning(checked, found))


def _meaning(loaded: LoadedModel, found: Found) -> bytes:
    """Return what was said of the outputs, in the words of earlier versions, which stored its hash."""
    activation = "sigmoid" if loaded.n_classes == 1 else loaded.activation or "softmax"
    chosen = next((n for n, output in enumerate(loaded.outputs) if output.chosen), 0)
    which = f" output {chosen}" if chosen else ""  # the first is what earlier versions read
    return f"{activation} {loaded.raw_outputs or found.hashed_outputs}{which}".encode()
