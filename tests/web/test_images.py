"""Images that come in, and what is seen of them: uploads, pictures, the patch under the hand."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import obeql
from obeql.web.uploads import MOST_BYTES


def png(size: tuple[int, int] = (70, 50), color: Any = (10, 200, 90)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, format="PNG")
    return buffer.getvalue()


def put(site: Any, content: bytes, name: str = "my scan.png", status: int = 201) -> Any:
    answer = site.client.post("/api/images", files={"file": (name, content)})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_an_image_that_is_dropped_has_a_name_and_a_picture(site: Any, tmp_path: Path) -> None:
    taken = put(site, png())
    assert taken["name"] == "my_scan" and (taken["height"], taken["width"]) == (50, 70)
    assert (tmp_path / taken["path"]).exists() and "my" not in Path(taken["path"]).name
    assert put(site, png()) == taken  # the same bytes again
    other = put(site, png(color=(0, 0, 0)))
    assert other["name"] == "my_scan_2"
    picture = site.client.get(f"/api/images/{taken['image_id']}/picture", params={"size": 32})
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).size == (32, 23)
    assert site.run("EXPLAIN OCCLUDE my_scan USING net WITH patch=32 stride=32")["state"] == "done"
    listed = site.get("/api/images", words="my_scan")
    assert [each["name"] for each in listed["images"]] == ["my_scan_2", "my_scan"] and listed["total"] == 2
    assert site.get("/api/runs")["runs"][0]["image"] == "my_scan"


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/passwd", "C:\\x\\y.png", "a\x00b.png", "'; DROP.png", "", "2024.png", "ü ö.png"]
)
def test_no_name_from_outside_becomes_a_path(site: Any, tmp_path: Path, name: str) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    taken = put(site, png(), name or "x")
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert [path.parent.name for path in new if path.suffix == ".png"] == ["heat.images"]
    assert taken["name"].isidentifier()
    assert site.run(f"PREDICT {taken['name']} USING net")["state"] == "done"


def bomb(width: int, height: int) -> bytes:
    """A PNG file of few bytes and many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(1 + -(-width // 8)) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"hello, this is a text", "is no image"),
        (b"", "empty"),
        (png()[:60], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "none of"),
        (bomb(10_000, 10_000), "the page takes at most 50 megapixels"),
        (bomb(60_000, 60_000), "the page takes at most 50 megapixels"),
    ],
)
def test_what_is_no_image_or_too_large_gets_a_sentence(site: Any, tmp_path: Path, content: bytes, says: str) -> None:
    refused = put(site, content, "scan.png", 400)
    assert says in refused["error"] and str(tmp_path) not in refused["error"]
    folder = tmp_path / "heat.images"
    assert not folder.exists() or list(folder.iterdir()) == []
    assert site.get("/api/images", words="scan.png")["total"] == 0


def test_a_file_of_too_many_bytes_is_refused_unread(site: Any) -> None:
    answer = site.client.post("/api/images", content=b"x", headers={"content-length": str(MOST_BYTES * 2)})
    assert answer.status_code == 400 and "64 MB" in answer.json()["error"]
    answer = site.client.post("/api/images", content=iter([b"x"]))
    assert answer.status_code == 400 and "how long" in answer.json()["error"]
    answer = site.client.post("/api/images", data={"file": "text"})
    assert answer.status_code == 400


def test_a_dicom_file_is_taken_by_its_content(site: Any) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 40, 30, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = np.arange(1200, dtype=np.uint16).reshape(40, 30).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    taken = put(site, buffer.getvalue(), "IM0001")
    assert taken["path"].endswith(".dcm") and (taken["height"], taken["width"]) == (40, 30)
    assert site.client.get(f"/api/images/{taken['image_id']}/picture").status_code == 200


def test_a_database_in_memory_keeps_images_for_as_long_as_the_page(
    make_site: Callable[..., Any], network: Path
) -> None:
    with obeql.connect() as session:
        session.execute(f"CREATE MODEL net FROM '{network}'")
        site = make_site(session)
        taken = put(site, png())
        assert Path(taken["path"]).exists()
        assert site.run(f"EXPLAIN OCCLUDE {taken['name']} USING net WITH patch=32 stride=32")["state"] == "done"
        assert site.post("/api/sql", sql="SELECT count(*) FROM heatmaps")["rows"] == [[1]]
        site.page.close()
        assert not Path(taken["path"]).exists()


def test_a_read_only_database_takes_no_image_and_shows_its_maps(
    session: Any, make_site: Callable[..., Any], tmp_path: Path
) -> None:
    session.execute("EXPLAIN OCCLUDE scan1 USING net WITH patch=32 stride=32 INTO first")
    session.close()
    with obeql.connect(tmp_path / "heat.duckdb", read_only=True) as reader:
        site = make_site(reader)
        assert "read-only" in put(site, png(), status=409)["error"]
        assert site.get("/api/state")["read_only"] is True
        assert site.get("/api/runs")["total"] == 1
        assert "read-only" in site.run("EXPLAIN OCCLUDE scan1 USING net")["outcome"]["error"]
        site.page.close()


def test_a_picture_that_is_gone_is_said(site: Any, tmp_path: Path) -> None:
    image = next(each for each in site.get("/api/images")["images"] if each["name"] == "scan1")
    (tmp_path / "scans" / "scan1.png").unlink()
    answer = site.client.get(f"/api/images/{image['image_id']}/picture")
    assert answer.status_code == 400 and "scan1.png" in answer.json()["error"]
    assert site.client.get("/api/images/999/picture").status_code == 404


# ---- the patch under the hand ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_bars_under_the_hand_are_those_of_predict_on_the_occluded_picture(site: Any, tmp_path: Path, fill: str) -> None:
    image = next(each for each in site.get("/api/images")["images"] if each["name"] == "scan1")
    pixels = np.asarray(Image.open(tmp_path / "scans" / "scan1.png"))
    top, left, height, width = box = [20, 30, 11, 17]
    values = pixels.astype(np.float32) / np.float32(255)
    hidden = values.copy()
    mean = values.mean(axis=(0, 1), dtype=np.float64)
    hidden[top : top + height, left : left + width] = 0 if fill == "black" else mean
    expected = {row[4]: row[5] for row in site.session.execute("PREDICT ? USING net FOR TOP 3", [hidden]).fetchall()}
    said = site.post("/api/probe", model="net", image=image["image_id"], fill=fill, box=box)
    assert {each["class_name"]: each["probability"] for each in said["classes"]} == pytest.approx(expected, abs=1e-6)
    assert said["top_class"] == max(expected, key=expected.__getitem__)
    clean = site.post("/api/probe", model="net", image=image["image_id"], fill=fill)
    predicted = site.session.execute("PREDICT scan1 USING net FOR TOP 3").fetchall()
    assert [each["class_name"] for each in clean["classes"]] == [row[4] for row in predicted]
    assert clean["size"] == [64, 64] and clean["model_box"] == [0, 0, 64, 64]


def test_probes_say_what_is_wrong(site: Any) -> None:
    image = site.get("/api/images")["images"][0]["image_id"]
    for body, status, says in (
        ({"model": "nett", "image": image}, 404, "nett"),
        ({"model": "net", "image": 999}, 404, "no image 999"),
        ({"model": "net", "image": "/etc/passwd"}, 404, "no image"),
        ({"model": "net", "image": image, "box": [0, 0, 99, 1]}, 400, "does not lie"),
        ({"model": "net", "image": image, "box": [0, 0, 1]}, 400, "[top, left, height, width]"),
        ({"model": "net", "image": image, "fill": "pink"}, 400, "pink"),
        ({"model": 3, "image": image}, 400, "takes the name"),
    ):
        assert says in site.post("/api/probe", status, **body)["error"]


def test_a_model_whose_file_is_gone_is_said(network: Path, make_site: Callable[..., Any], tmp_path: Path) -> None:
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(network.read_bytes())
    with obeql.connect(tmp_path / "heat.duckdb") as first:
        first.execute(f"CREATE MODEL net FROM '{moved}'")
    moved.unlink()
    with obeql.connect(tmp_path / "heat.duckdb") as session:
        site = make_site(session)
        taken = put(site, png())
        job = site.run(f"EXPLAIN OCCLUDE {taken['name']} USING net")
        assert (
            job["state"] == "failed"
            and job["outcome"]["family"] == "ModelError"
            and "moved.onnx" in str(job["outcome"])
        )
        assert "moved.onnx" in site.post("/api/probe", 400, model="net", image=taken["image_id"])["error"]
        site.page.close()
