"""The options of WITH: a table for each statement that has them; a new option is a new row.

Binding, completion and the documentation read these tables. Rows hold what a value may be by itself, as `option_values`
and `values` parse it; `options` reads what a statement gives by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from obeql.planner.binding.channels import channel_value
from obeql.planner.binding.input_values import input_values
from obeql.planner.binding.option_values import (
    above_zero,
    classes_drawn,
    fill_of,
    input_channels,
    input_size,
    names_of_classes,
    numbers,
    output_of,
    pages,
    patch_sizes,
    seed,
    segmentation,
    worker_count,
)
from obeql.planner.binding.values import Parser, axis_sizes, choice, flag, size_bytes, text_value, whole
from obeql.planner.borders import BORDER_NAMES, BORDERS
from obeql.planner.fills import FILL_VALUES
from obeql.planner.scores import SCORE_KINDS

__all__ = [
    "EVALUATE_OPTIONS",
    "EXPLAIN_OPTIONS",
    "IMAGES_OPTIONS",
    "MODEL_OPTIONS",
    "PREDICT_OPTIONS",
    "RENDER_OPTIONS",
    "OptionInfo",
]


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """A row of the table. `default` None means that planning or the loader decides; `takes` is for people."""

    name: str
    parse: Parser
    default: Any
    takes: str
    doc: str


#: Which pages of the files of a source are images.
_PAGE = OptionInfo("page", pages, None, "3, [1, 2], all", "Pages of files of several, counted from 1; the first.")


#: Which frames of a clip are read, also behind `#` of its path.
_FRAMES = (
    OptionInfo("frames", whole(1), None, "16", "Frames of a clip that are read; all of them."),
    OptionInfo("every", whole(1), None, "2", "Which frames of a clip are read: each, or every second one."),
    OptionInfo("start", whole(0), None, "30", "The first frame of a clip that is read, counted from 0."),
)

EXPLAIN_OPTIONS: tuple[OptionInfo, ...] = (
    OptionInfo(
        "patch",
        patch_sizes,
        ((16,),),
        "16, 16x24, [8, 16, 32]",
        "Pixels hidden at once, height x width, of signals samples; a list gives one map for each size.",
    ),
    OptionInfo("stride", axis_sizes, None, "4, 4x8", "Pixels from one window to the next; a quarter of the patch."),
    OptionInfo(
        "fill",
        fill_of,
        "mean",
        FILL_VALUES,
        "What hides the pixels: the image's mean, a color in 0..1, 0 after normalization, or the blurred image.",
    ),
    OptionInfo(
        "channel",
        channel_value,
        None,
        "2, 'V1', [0, 1], each",
        "Channels that the windows hide, by number from 0 or by name, all without it; each: a map of every channel.",
    ),
    OptionInfo(
        "score",
        choice(*SCORE_KINDS),
        "probability",
        ", ".join(SCORE_KINDS),
        "What a cell shows; all of a classifier are stored. value: the output itself, of models with outputs=value.",
    ),
    OptionInfo(
        "border",
        choice(*BORDER_NAMES),
        "cover",
        ", ".join(BORDER_NAMES),
        f"Last window of an axis: {', '.join(rule.does for rule in BORDERS.values())}.",
    ),
    OptionInfo(
        "workers",
        worker_count,
        0,
        "0, 4",
        "Workers that share the images; 0: none, or one a GPU of cuda:*, or all that Ray has room for.",
    ),
    OptionInfo(
        "precision",
        choice("float32", "tf32", "bfloat16", "float16", "float64"),
        "float32",
        "float32, tf32, bfloat16, float16, float64",
        "Number format of the network's arithmetic.",
    ),
    OptionInfo("batch", whole(1), None, "64", "Windows computed at once; planned from the memory at hand."),
    OptionInfo(
        "memory",
        size_bytes,
        None,
        "'2GB', '512MiB'",
        "Most memory for activations, beyond an unoccluded pass; kB, MB, GB, TB count by 1000, KiB and so on by 1024.",
    ),
    OptionInfo("seed", seed, 0, "0", "Seed of random choices; exact maps make none."),
    _PAGE,
    *_FRAMES,
    OptionInfo("mask", text_value, None, "'organs.png'", "A picture of labels: a window for each but 0, and no grid."),
    OptionInfo(
        "segments",
        segmentation,
        None,
        "slic(100)",
        "Segments of each image, about so many: a window each, and no grid.",
    ),
)


PREDICT_OPTIONS: tuple[OptionInfo, ...] = (_PAGE, *_FRAMES)


IMAGES_OPTIONS: tuple[OptionInfo, ...] = (_PAGE, *_FRAMES)


MODEL_OPTIONS: tuple[OptionInfo, ...] = (
    OptionInfo(
        "size",
        input_size,
        None,
        "224, 240x320, (1024)",
        "Model input in pixels, height x width; of signals their length, in brackets.",
    ),
    OptionInfo(
        "resize",
        choice("squash", "shortest", "none", "crop_pad"),
        None,
        "squash, shortest; none, crop_pad",
        "Both sides, or shorter side and crop; of signals as long as they are, or their middle with zeros around it.",
    ),
    OptionInfo("edge", whole(1), None, "256", "Shorter side in pixels before the centre crop of resize=shortest."),
    OptionInfo(
        "interpolation",
        choice("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
        None,
        "nearest, bilinear, bicubic, box, hamming, lanczos",
        "How resizing interpolates; bicubic unless the weights declare another.",
    ),
    OptionInfo(
        "mean", numbers, None, "(0.485, 0.456, 0.406)", "Subtracted from pixels in 0..1, in model channel order."
    ),
    OptionInfo("std", numbers, None, "(0.229, 0.224, 0.225)", "Divides after the mean, in the model's channel order."),
    OptionInfo(
        "channels",
        input_channels,
        None,
        "rgb, bgr, gray; 12, ['I', 'II']",
        "Channel order of the model's input; of signals how many channels they have, or their names.",
    ),
    OptionInfo("range", numbers, None, "(-1, 1)", "Of signals: the values that become 0 and 1, before mean and std."),
    OptionInfo("classes", names_of_classes, None, "'names.txt', ['cat', 'dog']", "Names of the classes, in order."),
    OptionInfo(
        "weights", text_value, None, "DEFAULT, 'file.safetensors', 'file.pt'", "Where the parameters come from."
    ),
    OptionInfo(
        "activation",
        choice("softmax", "sigmoid"),
        None,
        "softmax, sigmoid",
        "Whether classes exclude each other or are judged one by one.",
    ),
    OptionInfo(
        "outputs",
        choice("logits", "probabilities", "value"),
        None,
        "logits, probabilities, value",
        "What the network returns; where it is not said, it is looked at. value: no classifier, but a regression.",
    ),
    OptionInfo(
        "output", output_of, None, "'logits', 1", "Which of several outputs to read, by name or number (from 0)."
    ),
    OptionInfo(
        "inputs",
        input_values,
        None,
        "{'age': 0.5, 'site': [1, 0]}",
        "Values of the network's other inputs, the same for every image.",
    ),
    OptionInfo("trust", flag, None, "true, false", "Allow files that can run code when loaded, such as pickles."),
)


EVALUATE_OPTIONS: tuple[OptionInfo, ...] = (
    OptionInfo("steps", whole(1), 50, "50", "Steps of a curve, each of an equal number of pixels."),
    OptionInfo("fill", fill_of, None, FILL_VALUES, "What hides pixels; that of the run."),
    OptionInfo("batch", whole(1), 32, "32", "Pictures that the network is given at once."),
)


RENDER_OPTIONS: tuple[OptionInfo, ...] = (
    OptionInfo("map", whole(0), None, "0", "The number of one map, counted from 0; all of them without it."),
    OptionInfo("class", classes_drawn, None, "'cat', 2, ['cat', 'dog']", "Only the maps of these classes."),
    OptionInfo("opacity", above_zero(1), None, "0.75", "Opacity of the map at the ends of the scale."),
    OptionInfo("limit", above_zero(None), None, "2.5", "Where the scale ends; at the largest importance without it."),
    OptionInfo("cmap", text_value, None, "coolwarm, inferno", "A colormap of matplotlib in place of blue to red."),
    OptionInfo(
        "view",
        choice("slices", "montage"),
        None,
        "slices, montage",
        "Of a volume: three slices through the most important window, or its planes one after another.",
    ),
    OptionInfo(
        "sign",
        choice("all", "positive", "negative", "absolute"),
        None,
        "all, positive, negative, absolute",
        "Which evidence is colored.",
    ),
    OptionInfo("shared", flag, None, "true, false", "Whether maps of one score share a scale."),
    OptionInfo("columns", whole(1), None, "4", "Maps per row of a figure grid; else a matrix of images by classes."),
    OptionInfo("colorbar", flag, None, "true, false", "Whether the scale stands beside the map."),
    OptionInfo("dpi", whole(1), None, "300", "Pixels an inch of a picture."),
)
