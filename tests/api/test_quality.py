"""What is stated of maps and cells, in words."""

from __future__ import annotations

from obeql.quality import quality_text, top_class_text


def test_a_map_in_words() -> None:
    assert quality_text({}, 100) == "exact"
    stated = {"approx": True, "metric": "ssim", "bound": 0.9312, "n_exact": 12}
    assert quality_text(stated, 100) == "ssim >= 0.931, 12% of cells computed"
    more = {"n_reduced": 30, "reduced_precision": "bfloat16"}
    assert quality_text(stated | more, 100).endswith(", 30% in bfloat16")


def test_an_estimated_cell_has_no_class_that_wins() -> None:
    assert [top_class_text(k, ("ant", "bee")) for k in (-1, 1, 7)] == ["", "bee", "7"]
