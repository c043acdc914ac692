"""The patch under a hand: what a probe says is what PREDICT says of the picture painted over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from obeql.errors import QueryTypeError, UnknownNameError


def painted(db: Any, pixels: Any, box: tuple[int, int, int, int]) -> dict[str, float]:
    top, left, height, width = box
    hidden = pixels.copy()
    hidden[top : top + height, left : left + width] = 0
    rows = db.execute("PREDICT ? USING net FOR TOP 3", [hidden]).fetchall()
    return {row[4]: row[5] for row in rows}


@pytest.mark.parametrize("box", [(0, 0, 8, 8), (24, 24, 8, 8), (3, 5, 1, 20), (10, 0, 9, 32), (0, 0, 32, 32)])
def test_what_a_probe_says_is_what_predict_says_of_the_picture(net_db: Any, pixels: Any, box: Any) -> None:
    picture = pixels(4)
    probe = net_db.probe(picture, "net", fill="black")
    expected = painted(net_db, picture, box)
    for _ in range(20):  # every way of computing it has its turn
        said = {each.class_name: each.probability for each in probe.hide(*box)}
        assert said == pytest.approx(expected, abs=1e-6)


def test_classes_come_from_the_highest_down_and_clean_is_the_image_itself(net_db: Any, pixels: Any) -> None:
    probe = net_db.probe(pixels(4), "net")
    chances = [each.probability for each in probe.clean]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1)
    assert probe.size == (32, 32) and probe.model == "net"


def test_a_probe_takes_names_ids_and_paths(net_db: Any, folder: Any) -> None:
    net_db.create_images("first", str(folder / "scan1.png"))
    by_name = net_db.probe("first", "net").hide(0, 0, 8, 8)
    assert net_db.probe("scan1", "net").hide(0, 0, 8, 8) == by_name
    assert net_db.probe(str(folder / "scan1.png"), "net").hide(0, 0, 8, 8) == by_name
    ((image_id,),) = net_db.execute("SELECT image_id FROM images").fetchall()
    assert net_db.probe(image_id, "net").hide(0, 0, 8, 8) == by_name
    assert net_db.picture(image_id).size == (32, 32)


def test_a_network_that_runs_whole_is_probed_too(db: Any, pixels: Any) -> None:
    import torch

    class Odd(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            if float(x.sum()) > 1e9:  # no graph has this
                x = -x
            return x.mean(dim=(2, 3))

    db.create_model("net", Odd(), size=(32, 32))
    picture = pixels(4)
    said = {each.class_name: each.probability for each in db.probe(picture, "net", fill="black").hide(4, 4, 8, 8)}
    assert said == pytest.approx(painted(db, picture, (4, 4, 8, 8)), abs=1e-6)


def test_a_network_of_values_is_probed_in_its_own_order(db: Any, tiny_net: Any, pixels: Any) -> None:
    db.create_model("age", tiny_net(), size=(32, 32), outputs="value")
    said = db.probe(pixels(4), "age").hide(0, 0, 8, 8)
    assert [each.class_id for each in said] == [0, 1, 2]
    assert all(each.probability is None and np.isfinite(each.logit) for each in said)


@pytest.mark.parametrize("box", [(-1, 0, 8, 8), (0, 0, 0, 8), (25, 0, 8, 8), (0, 30, 8, 8)])
def test_a_box_outside_the_input_is_refused(net_db: Any, pixels: Any, box: Any) -> None:
    probe = net_db.probe(pixels(4), "net")
    with pytest.raises(QueryTypeError, match="does not lie in the model's input of 32x32"):
        probe.hide(*box)


def test_several_images_and_unknown_ones_are_refused(net_db: Any, folder: Any) -> None:
    net_db.create_images("scans", str(folder / "*.png"))
    with pytest.raises(QueryTypeError, match="one image, not 3"):
        net_db.probe("scans", "net")
    with pytest.raises(UnknownNameError, match="no image 99"):
        net_db.probe(99, "net")
    with pytest.raises(UnknownNameError, match="no image 99"):
        net_db.picture(99)
