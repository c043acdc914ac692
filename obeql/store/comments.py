"""What DuckDB shows of views, their columns and macros: `COMMENT ON`, which SQL tools and `duckdb_columns()` read.

`schema` applies them when it makes the views. A column of one name means the same in every view; `_OTHERWISE` has the
few that mean something else, `docs/language.md` the views.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from obeql.planner.borders import BORDER_NAMES
from obeql.planner.scores import SCORE_KINDS

__all__ = ["COLUMNS", "MACROS", "TABLE_MACROS", "TEXTS", "VIEWS", "comment_of", "comments_on"]

#: One row of each view is ..
VIEWS: Mapping[str, str] = {
    "models": "One row per model: where it comes from, its classes, how images are prepared for it",
    "images": "One row per image that any statement named, as it was when it was read last",
    "image_sets": "One row per image of a named set, in the order of the set",
    "predictions": "One row per class of an image that PREDICT ranked; of the same image and model the latest",
    "runs": "One row per statement EXPLAIN OCCLUDE that ran, or is running",
    "failures": "One row per image that a run could not explain, and why",
    "heatmaps": "One row per heat map; its planes are lists of rows of cells, NULL where a cell was not computed",
    "flat_maps": "One row per heat map, each in one value, for questions over many of them",
    "coarse_maps": "One row per heat map by its histogram, for bounds on counts of cells without reading its planes",
    "evaluations": "One row per curve of EVALUATE: how the probability changes as pixels are hidden or shown",
    "cells": "One row per window of a map, for joins by id; NULL where it was not computed",
    "windows": "One row per window that has a value, with names in place of ids: what hiding it costs the class",
    "regions": "One row per window that a query listed (WINDOWS), by its name: what hiding it costs the class",
}

#: What macros of values give ..
MACROS: Mapping[str, str] = {
    "box_mean": "Mean of the computed cells of a box of a plane; NULL where it holds none",
    "cells_between": "Number of cells of a box of a plane with low <= value < high",
    "count_between": "Number of cells of flat_maps.map, or of a box of it, with low <= importance < high",
    "at_least": "1 for each cell of flat_maps.map, or of a box of it, whose importance reaches low, else 0; row by row",
    "iou_at_least": "Cells whose importance reaches low in both of two flat_maps.map, divided by those in either",
    "count_bounds": "Bounds on what count_between gives, {'least', 'most'}, from coarse_maps.map",
    "iou_bounds": "Bounds on what iou_at_least gives, {'least', 'most', 'is_sure'}, from two coarse_maps.map",
    "cells_in_box": "What the scores of a box of flat_maps.map are made of, row by row",
    "map_iou": "Cells that reach the threshold in both planes, divided by those that do in either",
    "map_difference": "plane_a - plane_b, cell by cell; NULL where the planes differ in shape",
    "score_of": "A score of a kind, such as 'probability', from a cell's logit and log-odds",
    "importance_of": "The importance of a cell by a kind of score, from logits and log-odds of the image and the cell",
    "centre_of_mass": "Where the positive part of an image's map lies: row and col of the mean cell, or y and x",
    "run_of": "The id of a run by its name or id; an error where there is none",
    "image_of": "The id of an image by its name, path or id; an error where there is none",
}
#: .. and the rows of macros of tables.
TABLE_MACROS: Mapping[str, str] = {
    "maps_of": "The maps of an image in a run: their ids, classes and score",
    "cells_of": "All cells with a value of the maps of an image in a run",
    "top_cells": "The k most important cells of each map of an image in a run; those that are not exact are estimated",
    "pixel_map": "Importance of each pixel of the model's input: the mean of the windows that cover it",
    "deletion_order": "The pixels of the maps of an image in a run by importance, largest first, with rank and share",
    "lowest_iou": "The k images of two runs whose maps overlap least where importance reaches low",
    "highest_iou": "The k images of two runs whose maps overlap most where importance reaches low",
    "lowest_share": "The k maps with the smallest share of the cells of low <= importance < high in the image's box",
    "highest_share": "The k maps with the largest share of the cells of low <= importance < high in the image's box",
    "box_cells": "A box of cells of every map: scores, importance and exact as lists, row by row",
}

COLUMNS: Mapping[str, str] = {
    # what something is
    "map": "The map in one value for count_between, at_least and iou_at_least, which are fast on it",
    "run": "Name of the run, or its id as text where it has none; macros and RENDER take both",
    "run_id": "Id of the run",
    "run_name": "Name given by INTO; NULL without one",
    "image": "Name of the image: its file without folder and suffix, or what Python called it",
    "image_id": "Id of the image",
    "name": "Name of the image: its file without folder and suffix, or what Python called it",
    "path": "Path of the image file; NULL for pixels handed over from Python",
    "label": "Label that came with the image; NULL without one",
    "columns": "Further columns of the SELECT that named the image, as JSON",
    "class_id": "Number of the class that the map is about, from 0",
    "class_name": "Name of the class that the map is about",
    "model": "Name of the model when the run was made",
    "map_id": "Id of the stored map; runs that asked for the same cells share it",
    "query": "The statement as it was written",
    "status": "running, done, interrupted or failed",
    "shown": "What messages call the image",
    "error": "Why there is no map",
    "source": "The path, glob or SELECT that the set was made from",
    "place": "Place of the image in the set, from 0",
    "uri": "Where the network comes from; NULL for a live module",
    "classes": "Names of the classes, in the order of their numbers",
    "activation": "softmax: classes exclude each other; sigmoid: each is judged alone; none: values, no classes",
    "preprocessing": "How images are prepared, as JSON",
    # numbers of a map and of its cells
    "importance": "Score of the image - score with the window hidden; positive is evidence for the class",
    "score": "Score of the class with the window hidden, a number; which one, score_kind of the run says",
    "score_kind": f"Which score importance is of: {', '.join(SCORE_KINDS[:-1])} or {SCORE_KINDS[-1]}",
    "score_unit": "Unit of score and importance: 0 to 1 (probabilities), nats (natural logarithms) or of the output",
    "clean_score": "Score of the class on the image itself, nothing hidden",
    "clean_probability": "Probability of the class on the image itself",
    "clean_log_odds": "Log-odds of the class on the image itself",
    "clean_logit": "Logit of the class on the image itself",
    "clean_top_class": "Number of the class that the image itself is given",
    "probability": "Probability of the class with the window hidden, 0 to 1",
    "log_probability": "Natural logarithm of the probability",
    "log_odds": "logit - others: natural logarithm of probability / (1 - probability)",
    "logit": "The network's output for the class with the window hidden",
    "others": "Logsumexp of the outputs for all other classes; 0 where classes do not exclude each other",
    "top_class": "Number of the class that the model names with the window hidden",
    "top_class_name": "Name of the class that the model names with the window hidden",
    "exact": "Whether the network computed the cell in the precision of the statement; else it is estimated",
    # where windows lie
    "row": "Row of the window in the map, from 0",
    "plane": "Plane of the window in the map of a volume, from 0; 0 of images",
    "front_px": "First plane of the window, in voxels of the model's input; 0 of images",
    "depth_px": "Depth of the window, in voxels of the model's input; 1 of images",
    "source_front_px": "Front of the window, in planes of the volume's file; 0 of images",
    "source_depth_px": "Depth of the window, in planes of the volume's file; 1 of images",
    "col": "Column of the window in the map, from 0",
    "top_px": "First row of the window, in pixels of the model's input",
    "left_px": "First column of the window, in pixels of the model's input",
    "height_px": "Height of the window, in pixels of the model's input",
    "width_px": "Width of the window, in pixels of the model's input",
    "source_top_px": "Upper edge of the window, in pixels of the image file",
    "source_left_px": "Left edge of the window, in pixels of the image file",
    "source_height_px": "Height of the window, in pixels of the image file",
    "source_width_px": "Width of the window, in pixels of the image file",
    "region": "Name of the window, of those that a query listed; NULL on a grid",
    "regions": "Names of the windows that a query listed; NULL of a grid",
    "rows": "Rows of the map",
    "cols": "Columns of the map",
    "tops": "First pixel row of the windows of each row, in pixels of the model's input",
    "lefts": "First pixel column of the windows of each column, in pixels of the model's input",
    "heights": "Heights of the windows of each row, in pixels",
    "widths": "Widths of the windows of each column, in pixels",
    "shape": "Shape of the grid: windows along each axis, the slowest first",
    "fronts": "First planes of the windows of each plane of a volume's map; NULL of images",
    "depths": "Depths of the windows of each plane of a volume's map, in voxels; NULL of images",
    "input_depth": "Depth of the model's input in voxels; NULL of images and signals",
    "source_front": "First plane of the part of a volume's file that the model sees; NULL of images",
    "source_depth": "Depth of the part of a volume's file that the model sees, in planes; NULL of images",
    "depth": "Depth of a volume in voxels; NULL of images",
    "pixel_depth_mm": "Distance of the planes of a volume in millimetres, as its file says",
    "patch_depth": "Depth of a whole window of a volume in voxels; NULL of images",
    "stride_depth": "Voxels from one plane of windows to the next; NULL of images",
    "input_height": "Height of the model's input in pixels",
    "input_width": "Width of the model's input in pixels",
    "source_top": "Upper edge of the part of the image file that the model sees, in its pixels",
    "source_left": "Left edge of the part of the image file that the model sees, in its pixels",
    "source_height": "Height of the part of the image file that the model sees, in its pixels",
    "source_width": "Width of the part of the image file that the model sees, in its pixels",
    "height": "Height of the image in pixels",
    "width": "Width of the image in pixels",
    "pixel_height_mm": "Height of a pixel in millimetres, as a DICOM file says",
    "pixel_width_mm": "Width of a pixel in millimetres, as a DICOM file says",
    "series_uid": "UID of the series, as a DICOM file says",
    # how a map was computed
    "patch": "Size of the window as it is written in WITH, height x width in pixels",
    "channel": "Name of the channel that windows hide, of several separated by commas; NULL where they hide all",
    "patch_height": "Height of a whole window in pixels",
    "patch_width": "Width of a whole window in pixels",
    "stride_height": "Pixels from one row of windows to the next; NULL for a map of one row",
    "stride_width": "Pixels from one column of windows to the next; NULL for a map of one column",
    "fill": "What hides the window",
    "border": f"What happens to the last window of an axis: {', '.join(BORDER_NAMES)}",
    "precision": "Number format of the network's arithmetic",
    "options": "Options with their values, defaults included, as JSON",
    "image_hash": "Hash of the image's pixels",
    "model_hash": "Hash of what the network computes: its identity, whatever its name",
    "preprocessing_hash": "Hash of how images are prepared",
    # what is stated of an approximate map
    "approx": "Whether some cells are estimated or left out",
    "metric": "What bound bounds: ssim, top10pct, pearson, maxerr, top_cells or aggregates",
    "target": "Quality that was asked for",
    "confidence": "Confidence at which bound holds",
    "bound": "Lower bound on the quality against the exact map",
    "n_exact": "Cells computed in the precision of the statement",
    "n_audit": "Cells drawn at random to measure the quality",
    "seed": "Seed of the random choices",
    "quality": "All that is stated of the map, as JSON",
    # of runs, sets and models
    "scores": "Plane: score of the class with each window hidden, of the kind that score_kind names",
    "n_images": "Images of which the run has maps",
    "n_maps": "Maps of the run",
    "n_failed": "Images that could not be explained",
    "share": "Share of the cells asked for that is stored, from 0 to 1; 1 of a run that is done",
    "started_at": "When the statement began, UTC",
    "ended_at": "When it ended, UTC; NULL while it runs",
    "created_at": "When it was created, UTC",
    "measured": "Seconds and cells, as measured, as JSON",
    "versions": "Versions of the programs used, as JSON",
    "plan": "The plan as PLAN prints it",
    "n_classes": "Number of classes, or of outputs that are values",
    "rank": "Rank of the class among all, from 1",
    # of curves
    "measure": "deletion or insertion",
    "auc": "Area under the curve over the share of pixels taken: 0 to 1, or in the unit of an output that is a value",
    "steps": "Steps of the curve",
    "shares": "Shares of the pixels taken, one a point of the curve",
    "probabilities": "Probabilities of the class, one a point of the curve; the values themselves of outputs=value",
}

_OLD_NAME = "Older name of score_kind, a word; the numbers are in"
#: Columns that mean something else in one view than in the others.
_OTHERWISE: Mapping[tuple[str, str], str] = {
    ("models", "name"): "Name of the model",
    ("image_sets", "name"): "Name of the set",
    ("image_sets", "n_images"): "Images of the set",
    ("predictions", "class_id"): "Number of the class, from 0",
    ("predictions", "class_name"): "Name of the class",
    ("predictions", "probability"): "Probability of the class, 0 to 1",
    ("predictions", "logit"): "The network's output for the class",
    ("coarse_maps", "map"): "The map by its histogram, for count_bounds and iou_bounds",
    ("regions", "name"): "Name of the window; windows of one name are told apart by their places",
    ("regions", "place"): "Place of the window in the list, from 0",
    ("runs", "score"): f"{_OLD_NAME} the views cells and windows",
    ("heatmaps", "score"): f"{_OLD_NAME} scores",
    ("evaluations", "score"): f"{_OLD_NAME} probabilities",
    ("heatmaps", "importance"): "Plane: clean_score - scores, cell by cell; positive is evidence for the class",
    ("heatmaps", "log_odds"): "Plane: log-odds of the class with each window hidden, in nats",
    ("heatmaps", "logit"): "Plane: the network's output for the class with each window hidden",
    ("heatmaps", "others"): "Plane: logsumexp of the outputs for all other classes; 0 for sigmoids",
    ("heatmaps", "top_class"): "Plane: number of the class that the model names with each window hidden",
    ("heatmaps", "exact"): "Plane: whether the network computed each cell; NULL where all computed cells are exact",
}

#: All of it.
TEXTS = repr((VIEWS, MACROS, TABLE_MACROS, COLUMNS, _OTHERWISE))


def comment_of(view: str, column: str) -> str:
    """Return what a column of a view holds."""
    return _OTHERWISE.get((view, column)) or COLUMNS[column]


def comments_on(columns: Iterable[tuple[str, str]]) -> str:
    """Return the statements that put a comment on views and macros, and on columns of views, (view, column) each."""
    of = {"VIEW": VIEWS, "MACRO": MACROS, "MACRO TABLE": TABLE_MACROS}
    statements = [
        f"COMMENT ON {kind} {name} IS {_literal(text)}" for kind, texts in of.items() for name, text in texts.items()
    ]
    statements += [
        f'COMMENT ON COLUMN {view}."{column}" IS {_literal(comment_of(view, column))}' for view, column in columns
    ]
    return ";\n".join(statements)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
