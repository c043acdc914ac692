"""What is stated of maps and cells, in words."""

from __future__ import annotations

from obeql.results.quality_text import estimated_note, importance_text, quality_sentence, quality_text, top_class_text


def test_a_map_in_words() -> None:
    assert quality_text({}, 100) == "exact"
    stated = {"approx": True, "metric": "ssim", "bound": 0.9312, "n_exact": 12}
    assert quality_text(stated, 100) == "ssim >= 0.931, 12% of cells computed"
    more = {"n_reduced": 30, "reduced_precision": "bfloat16"}
    assert quality_text(stated | more, 100).endswith(", 30% in bfloat16")


def test_an_estimated_cell_has_no_class_that_wins() -> None:
    assert [top_class_text(k, ("ant", "bee")) for k in (-1, 1, 7)] == ["", "bee", "7"]


def test_a_search_says_what_it_found() -> None:
    stated = {"approx": True, "metric": "top_cells", "bound": 1.0, "confidence": 0.95, "n_exact": 20, "k": 10}
    assert quality_text(stated, 100) == "the 10 most important cells found (0.95 confidence), 20% of cells computed"
    assert quality_sentence(stated, 100).endswith("20% of the cells computed, the others left out")
    assert quality_text(stated | {"bound": 0.7}, 100).startswith("at least 7 of the 10 most important cells found")
    without = {name: value for name, value in stated.items() if name not in ("k", "bound")}
    assert quality_text(without, 100).startswith("the most important cells, as far as the search came")


def test_what_was_not_computed_is_marked() -> None:
    assert [importance_text(1.25, exact) for exact in (True, False)] == ["+1.25", "~+1.25"]
    assert estimated_note({"n_reduced": 0, "reduced_precision": "bfloat16"}) == "estimated"
    assert estimated_note({"n_reduced": 3, "reduced_precision": "bfloat16"}).endswith("computed in bfloat16")


def test_a_largest_error_is_told_as_one() -> None:
    quality = {"approx": True, "metric": "maxerr", "bound": 0.93, "n_exact": 50}
    assert quality_text(quality, 100) == "errors of at most 0.07 of the range, 50% of cells computed"
    assert "1 - largest error / range of the exact map (maxerr) is at least 0.93" in quality_sentence(quality, 100)
