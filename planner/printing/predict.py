"""Print the plan of a PREDICT: whether images are computed from one another.

Comes after binding and `obeql.planner.physical.frames`; beside `plan`, which prints EXPLAIN OCCLUDE.
"""

from __future__ import annotations

from obeql.planner.binding.bound import BoundPredict
from obeql.planner.physical.frames import FrameUpdate
from obeql.planner.printing.numbers import digits, plural, size

__all__ = ["show_predict"]


def show_predict(bound: BoundPredict, operator: FrameUpdate, measured: tuple[int, int, float] | None = None) -> str:
    """Return the text of the plan.

    `measured` are, after a run, the images that took whole passes, those that were updated, and what the updates
    computed of the multiply-accumulates of a pass, added up.
    """
    n_images = len(bound.images)
    lines = [bound.statement, "", f"Predict  {plural(n_images, 'image')} by {bound.model.name} on {bound.device}"]
    if operator.why_whole:
        lines.append(f"└─ DenseForward  the whole network for every image: {operator.why_whole}")
    else:
        box = "x".join(str(stop - start) for start, stop in operator.largest_box())
        n_boxed, n_layers = sum(operator.regions) - 1, len(operator.regions) - 1
        lines += [
            "└─ FrameUpdate  an image from the one before where few pixels differ, else a whole pass",
            f"     boxes       {n_boxed} of {n_layers} layers; the others on whole maps",
            f"     views       {size(operator.kept_bytes)}, kept from image to image",
            f"     pays        where pixels differ in one box of up to {box} in the middle of the image",
        ]
    if measured is not None:
        whole, updated, computed = measured
        lines.append(f"     measured    {plural(updated, 'image')} updated, {whole:,} by whole passes")
        if updated:
            lines[-1] += f"; an update computed {digits(100 * computed / updated)} % of a pass"
    return "\n".join(lines) + "\n"
