"""What preprocessor_config.json says of a model's input, as our own preprocessing, compared with transformers'.

Called by `hf_zoo`. Image processors differ by class in what their settings mean, so what is read here is tried on two
images against the processor itself: what cannot be expressed is found that way, whatever the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from PIL import Image

from obeql.errors import ModelError
from obeql.executor.images.decode import decode_object
from obeql.executor.images.preprocess import preprocess
from obeql.executor.models.forward import reason
from obeql.executor.models.options import Interpolation, ModelOptions
from obeql.executor.models.preprocessing import Declared, resolve_preprocessing
from obeql.executor.models.zoo.hf_folder import PREPROCESSOR, HfFolder, read_json

__all__ = ["declared_by"]

NO_PREPROCESSOR_NOTE = (
    "The folder has no preprocessor_config.json: pixels reach the network in 0..1, both sides squashed to its input. "
    "Say size, resize, mean and std as the network was trained; PREDICT .. CHECK tries the usual ones."
)

#: Pillow's numbers, which preprocessor_config.json holds.
_RESAMPLE: Mapping[int, Interpolation] = {
    0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming",
}  # fmt: skip

#: Below this shorter side, processors with a crop_pct resize to more and crop; from it on they squash.
_CROPPED_BELOW = 384
#: LeViT's processor resizes to this share of the size that its settings name.
_LEVIT = 256 / 224

#: Longest side of an input, or of what it is cropped from; larger ones are mistakes, and nothing of that size is made.
_LONGEST = 4096
#: Longest side of the images that are tried.
_TRIED = 1024

#: Largest mean difference from transformers', in steps of 8 bits, that rounding explains.
_ROUNDING = 1.0

_REMEDY = "Say size, resize, mean and std in CREATE MODEL to choose the preprocessing yourself."


class _InexpressibleError(Exception):
    """What a processor does has no words here; the text says what it does."""


def declared_by(
    transformers: Any, folder: HfFolder, config: Any, options: ModelOptions
) -> tuple[Declared, tuple[str, ...]]:
    """Return the preprocessing that a folder declares, and notes; where the options say all of it, it is not asked.

    Raises: ModelError for a damaged file, and where what it says cannot be expressed.
    """
    channels = "gray" if getattr(config, "num_channels", 3) == 1 else "rgb"
    resized = options.resize or options.edge
    if None not in (options.size, resized, options.mean, options.std):
        return Declared(channels=options.channels or channels), ()  # type: ignore[arg-type]
    if not (folder.path / PREPROCESSOR).is_file():
        return Declared(size=_side(getattr(config, "image_size", None)), channels=channels), (NO_PREPROCESSOR_NOTE,)  # type: ignore[arg-type]
    read_json(folder.path / PREPROCESSOR, "")
    processor = _processor(transformers, folder)
    try:
        declared = _read(processor, channels)
        _require_same(processor, declared)
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(
            f"A setting in {str(folder.path / PREPROCESSOR)!r} has a wrong value: {reason(error)}. {_REMEDY}"
        ) from error
    except _InexpressibleError as does:
        raise ModelError(
            f"{str(folder.path / PREPROCESSOR)!r} cannot be followed: {type(processor).__name__.removesuffix('Pil')} "
            f"{does}. {_REMEDY}"
        ) from None
    return declared, ()


def _processor(transformers: Any, folder: HfFolder) -> Any:
    try:
        return transformers.AutoImageProcessor.from_pretrained(
            folder.path, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise ModelError(
            f"{str(folder.path / PREPROCESSOR)!r} is no image processor that transformers {transformers.__version__} "
            f"knows: {reason(error)}. {_REMEDY}"
        ) from error


def _read(processor: Any, channels: str) -> Declared:
    if not getattr(processor, "do_resize", False):
        raise _InexpressibleError("does not resize images to one size")
    mean, std = _statistics(processor)
    resample = int(getattr(processor, "resample", None) or 0)
    if resample not in _RESAMPLE:
        raise _InexpressibleError(f"resizes with a filter (resample) {resample}, which Pillow does not have")
    size, edge = _geometry(processor)
    sides = *size, edge or size[0]
    if not all(1 <= side <= _LONGEST for side in sides):
        odd = next(side for side in sides if not 1 <= side <= _LONGEST)
        raise _InexpressibleError(f"resizes to {odd} pixels; sides of 1 to {_LONGEST} are supported")
    return Declared(
        size=size,
        resize="squash" if edge is None else "shortest",
        edge=edge,
        interpolation=_RESAMPLE[resample],
        channels=cast(Any, "bgr" if getattr(processor, "do_flip_channel_order", False) else channels),
        mean=mean,
        std=std,
        crop="down",
    )


def _geometry(processor: Any) -> tuple[tuple[int, int], int | None]:
    """Return the size of the input, and the shorter side before the crop, None where both sides are squashed."""
    size = _fields(processor.size)
    crop = _fields(getattr(processor, "crop_size", None)) if getattr(processor, "do_center_crop", False) else {}
    shortest = size.get("shortest_edge")
    if shortest and not size.get("longest_edge"):
        crop_pct = getattr(processor, "crop_pct", None)
        if crop_pct and not crop:
            whole = (shortest, shortest)
            return (whole, int(shortest / crop_pct)) if shortest < _CROPPED_BELOW else (whole, None)
        if not crop:
            raise _InexpressibleError("keeps the longer side of images, so that inputs differ in size")
        edge = int(_LEVIT * shortest) if type(processor).__name__.startswith("Levit") else shortest
        if edge < max(crop["height"], crop["width"]):
            raise _InexpressibleError(f"crops to more than the shorter side of {edge} pixels")
        return (crop["height"], crop["width"]), edge
    if not size.get("height") or not size.get("width"):
        raise _InexpressibleError(f"resizes images to {size}")
    squashed = size["height"], size["width"]
    if crop and (crop["height"], crop["width"]) != squashed:
        raise _InexpressibleError("squashes images to one size and crops that to another")
    return squashed, None


def _statistics(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of pixels in 0..1 that make of them what rescaling and normalizing makes of 0..255."""
    mean, std = np.zeros(1), np.ones(1)
    scale = 255 * float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else 255.0
    std = std / scale
    if getattr(processor, "do_rescale", False) and getattr(processor, "rescale_offset", False):
        mean = mean + std
    if getattr(processor, "do_normalize", False):
        mean = mean + std * np.asarray(processor.image_mean, float)
        std = std * np.asarray(processor.image_std, float)
    if getattr(processor, "include_top", False):
        std = std * np.asarray(processor.image_std, float)
    mean, std = np.broadcast_arrays(mean, std)
    if not (std > 0).all():
        raise _InexpressibleError("divides by a standard deviation that is not above 0")
    return tuple(map(float, mean)), tuple(map(float, std))


def _require_same(processor: Any, declared: Declared) -> None:
    """Raise where our preprocessing gives other numbers than the processor, on an image that is wide and a tall one."""
    how = resolve_preprocessing(ModelOptions(), declared)
    longest = min(_TRIED // 2, declared.edge or max(how.size))
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (23, 31, 3), dtype=np.uint8))
    wide = coarse.resize((int(longest * 1.9) + 3, int(longest * 1.3)), Image.Resampling.BICUBIC)
    for image in (wide, wide.transpose(Image.Transpose.ROTATE_90)):
        picture = image.convert("L") if how.channels == "gray" else image
        try:
            theirs = np.asarray(processor(images=picture, return_tensors="np")["pixel_values"][0], float)
        except Exception as error:
            raise _InexpressibleError(
                f"fails on an image of {picture.width}x{picture.height}: {reason(error)}"
            ) from None
        ours = preprocess(decode_object(picture, "the test image"), how).values
        if theirs.shape != ours.shape:
            raise _InexpressibleError(f"makes inputs of shape {theirs.shape}")
        steps = np.abs(theirs - ours).mean(axis=(1, 2)) * np.asarray(how.std) * 255
        if steps.max() > _ROUNDING:
            raise _InexpressibleError("does more than resize, crop, rescale and normalize")


def _fields(value: Any) -> dict[str, int]:
    """Return what a size holds, a dict or transformers' own class, without what is not set."""
    items = dict(value) if isinstance(value, Mapping) else {key: getattr(value, key) for key in vars(value or object())}
    return {key: int(item) for key, item in items.items() if item is not None}


def _side(value: Any) -> tuple[int, int] | None:
    if isinstance(value, list | tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    return (value, value) if isinstance(value, int) else None
