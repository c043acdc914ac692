"""Maps of georeferenced images as GeoTIFF, read back with tifffile."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from obeql.errors import ImageError, UnsupportedError

tifffile = pytest.importorskip("tifffile")

#: Pixels of 10 m from a corner in UTM zone 32 north.
GEOREFERENCE = [
    (33550, "d", 3, (10.0, 10.0, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 5300000.0, 0.0), True),
    (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),
    (34737, "s", 0, "WGS 84 / UTM zone 32N|", True),
]


def write(path: Path, tags: Any = GEOREFERENCE) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", extratags=tags)
    return path


def test_a_map_lies_where_its_image_lies(net_db: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "field.tif")
    result = net_db.explain(source, "net", patch=8, stride=8, classes=[0, 2], into="r")
    net_db.execute(f"EXPORT RUN r TO '{tmp_path}/out' FORMAT GEOTIFF")
    with tifffile.TiffFile(source) as file:
        placed = file.geotiff_metadata
    files = sorted((tmp_path / "out").glob("*.tif"))
    for path, heat in zip(files, result, strict=True):
        with tifffile.TiffFile(path) as file:
            assert file.geotiff_metadata == placed
            assert placed["ProjectedCSTypeGeoKey"] == 32632
            assert file.pages[0].nodata != 0
            values = file.asarray()
            told = json.loads(file.pages[0].description)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, heat.to_pixels("source"))
        assert told["model_hash"] == heat.cells.key.model_hash
        with Image.open(path) as image:
            assert image.size == (48, 40)
    assert len(files) == 2 and (tmp_path / "out" / "maps.csv").is_file()


@pytest.mark.parametrize("kind", ["tif", "png", "gone"])
def test_images_without_a_place(net_db: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{'png' if kind == 'png' else 'tif'}"
    if kind == "png":
        Image.new("L", (40, 40), 90).save(path)
    else:
        write(path, GEOREFERENCE if kind == "gone" else [])
    result = net_db.explain(path, "net", patch=8, stride=8)
    if kind == "gone":
        path.unlink()
    with pytest.raises(ImageError, match="cannot be opened" if kind == "gone" else "has no georeference"):
        result.export(tmp_path / "out", "geotiff")
    assert not (tmp_path / "out").exists()


def test_without_tifffile_the_extra_is_named(net_db: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = net_db.explain(write(tmp_path / "a.tif"), "net", patch=8, stride=8)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UnsupportedError, match=r'pip install -e "\.\[geo\]"'):
        result.export(tmp_path / "out", "geotiff")
