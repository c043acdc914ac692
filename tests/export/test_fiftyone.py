"""A run as a FiftyOne dataset: read by the documented layout, and by FiftyOne itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from obeql.errors import ImageError


@pytest.fixture
def result(net_db: Any, folder: Path) -> Any:
    return net_db.execute(
        f"""EXPLAIN OCCLUDE (SELECT file AS path, 'cat' AS label FROM glob('{folder}/*.png') ORDER BY file)
            USING net FOR CLASSES (0, 2) WITH patch=8 stride=8 score=log_odds INTO first"""
    )


def test_the_layout(result: Any, net_db: Any, tmp_path: Path) -> None:
    target = tmp_path / "maps"
    told = str(net_db.execute(f"EXPORT RUN first TO '{target}' FORMAT FIFTYONE"))
    assert "as fiftyone" in told
    metadata = json.loads((target / "metadata.json").read_bytes())
    assert (metadata["name"], metadata["media_type"]) == ("first", "image")
    assert "version" not in metadata  # FiftyOne takes the field types from the samples then
    assert metadata["info"]["obeql"]["statement"].startswith("EXPLAIN OCCLUDE")
    samples = json.loads((target / "samples.json").read_bytes())["samples"]
    assert [Path(sample["filepath"]).name for sample in samples] == sorted({Path(h.path).name for h in result})
    for heat in result:
        sample = next(each for each in samples if each["filepath"] == str(Path(heat.path).resolve()))
        assert sample["ground_truth"] == {"_cls": "Classification", "label": "cat"}
        field = f"class_{heat.class_id}_{heat.class_name}_8x8"
        pixels = np.nan_to_num(heat.to_pixels("source"))
        for name, values in ((field, pixels), (f"{field}_against", -pixels)):
            if name not in sample:
                assert values.max() <= 0
                continue
            label = sample[name]
            assert label["_cls"] == "Heatmap"
            assert label["range"] == [0, 255]
            assert label["map_path"].startswith(f"fields/{name}/")  # FiftyOne looks for media there
            with Image.open(target / label["map_path"]) as image:
                assert image.mode == "L"
                stored = np.asarray(image) / 255 * abs(label["limit"])
            np.testing.assert_allclose(stored, values.clip(min=0), atol=abs(label["limit"]) / 500)
            assert json.loads(label["provenance"])["model_hash"] == heat.cells.key.model_hash
    assert json.dumps(samples).count('"map_path"') == len(list((target / "fields").glob("*/*.png")))


def test_pictures_that_are_no_files_are_written(net_db: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    result = net_db.explain([pixels, pixels[::-1].copy()], "net", patch=8, stride=8, classes=[1])
    result.export(tmp_path / "maps", "fiftyone")
    samples = json.loads((tmp_path / "maps" / "samples.json").read_bytes())["samples"]
    for sample, expected in zip(samples, (pixels, pixels[::-1]), strict=True):
        assert "ground_truth" not in sample
        with Image.open(tmp_path / "maps" / sample["filepath"]) as image:
            np.testing.assert_array_equal(np.asarray(image), expected)


def test_a_folder_that_exists(result: Any, tmp_path: Path) -> None:
    first = result.export(tmp_path / "maps", "fiftyone")
    assert result.export(tmp_path / "maps", "fiftyone") == first  # its own is replaced
    for name, text in (("samples.json", "{}"), ("metadata.json", '{"version": "1"}'), ("metadata.json", "no json")):
        other = tmp_path / f"other {len(text)}"
        other.mkdir()
        (other / name).write_text(text)
        with pytest.raises(ImageError, match=r"holds another dataset.*new folder"):
            result.export(other, "fiftyone")
        assert [path.name for path in other.iterdir()] == [name]


def test_a_picture_that_is_gone(net_db: Any, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "gone.tif"
    with Image.open(folder / "scan1.png") as image:
        image.save(path)
    result = net_db.explain(path, "net", patch=8, stride=8, classes=[1])
    path.unlink()
    with pytest.raises(ImageError, match=r"gone\.tif"):
        result.export(tmp_path / "maps", "fiftyone")


@pytest.mark.skipif(importlib.util.find_spec("fiftyone") is None, reason="FiftyOne is not installed")
@pytest.mark.filterwarnings("ignore")
def test_fiftyone_reads_it(result: Any, tmp_path: Path) -> None:
    import fiftyone as fo
    from fiftyone.utils.data.importers import LegacyFiftyOneDatasetImporter  # what from_dir takes; needs no database

    result.export(tmp_path / "maps", "fiftyone")
    with LegacyFiftyOneDatasetImporter(str(tmp_path / "maps")) as importer:
        samples = {sample.filepath: sample for sample in importer}
    for heat in result:
        sample = samples[str(Path(heat.path).resolve())]
        label = sample[f"class_{heat.class_id}_{heat.class_name}_8x8"]
        assert isinstance(label, fo.Heatmap)
        expected = np.nan_to_num(heat.to_pixels("source")).clip(min=0)
        np.testing.assert_allclose(label.get_map() / 255 * label.limit, expected, atol=label.limit / 500)
