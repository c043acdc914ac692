"""DICOM Parametric Maps of a run, read back with pydicom; images that they cannot be of."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from obeql.errors import ImageError, UnsupportedError

pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")

PLACE: dict[str, Any] = {
    "FrameOfReferenceUID": "1.2.7",
    "ImagePositionPatient": [-10.0, 5.0, 30.0],
    "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    "PixelSpacing": [0.5, 0.75],
    "SliceThickness": 2.0,
}


def write(path: Path, number: int = 1, color: bool = False, **elements: Any) -> Path:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, f"1.2.{number}"
    meta.MediaStorageSOPClassUID = CTImageStorage
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, f"1.2.{number}"
    file.StudyInstanceUID, file.SeriesInstanceUID, file.Modality = "1.2.3.4", "1.2.3.5", "CT"
    file.PatientID, file.PatientName, file.PatientBirthDate, file.PatientSex = "p", "Some^One", "", ""
    file.StudyID, file.StudyDate, file.StudyTime, file.AccessionNumber = "1", "20200101", "120000", ""
    file.ReferringPhysicianName, file.SeriesNumber, file.InstanceNumber = "", 3, number
    file.Manufacturer, file.ImageType = "", ["ORIGINAL", "PRIMARY", "AXIAL"]
    file.Rows, file.Columns = 40, 48
    file.SamplesPerPixel, file.PhotometricInterpretation = (3, "RGB") if color else (1, "MONOCHROME2")
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    if color:
        file.PlanarConfiguration = 0
    shape = (40, 48, 3) if color else (40, 48)
    file.PixelData = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8).tobytes()
    for key, value in (PLACE | elements).items():
        if value is not None:
            setattr(file, key, value)
    file.save_as(path, enforce_file_format=True)
    return path


def run(net_db: Any, source: Any) -> Any:
    return net_db.execute(f"EXPLAIN OCCLUDE '{source}' USING net FOR CLASSES (0, 2) WITH patch=8 score=log_odds INTO r")


def test_a_map_lies_where_its_image_lies(net_db: Any, tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"s{number}.dcm", number)
    result = run(net_db, tmp_path / "*.dcm")
    message = net_db.execute(f"EXPORT RUN r TO '{tmp_path}/out' FORMAT DICOM")
    assert str(message).startswith("4 heat maps exported")
    files = sorted((tmp_path / "out").glob("*.dcm"))
    assert len(files) == 4 and (tmp_path / "out" / "maps.csv").is_file()
    read = [pydicom.dcmread(file) for file in files]
    for file, heat in zip(read, result, strict=True):
        assert file.SOPClassUID.name == "Parametric Map Storage"
        assert (file.FrameOfReferenceUID, file.StudyInstanceUID, file.PatientID) == ("1.2.7", "1.2.3.4", "p")
        values = np.frombuffer(file.FloatPixelData, "<f4").reshape(40, 48)
        np.testing.assert_allclose(values, heat.to_pixels("source"), rtol=1e-5, atol=1e-7)
        shared, frame = file.SharedFunctionalGroupsSequence[0], file.PerFrameFunctionalGroupsSequence[0]
        where = {**{e.keyword: e for e in shared}, **{e.keyword: e for e in frame}}
        assert list(where["PixelMeasuresSequence"][0].PixelSpacing) == [0.5, 0.75]
        assert list(where["PlanePositionSequence"][0].ImagePositionPatient) == [-10.0, 5.0, 30.0]
        mapping = where["RealWorldValueMappingSequence"][0]
        quantities = [item.ConceptCodeSequence[0].CodeMeaning for item in mapping.QuantityDefinitionSequence]
        assert quantities == ["Class activation"] and mapping.LUTLabel == heat.class_name
        told = json.loads(file.ImageComments)
        assert told["statement"].startswith("EXPLAIN OCCLUDE") and told["class"] == heat.class_name
        assert told["model_hash"] == heat.cells.key.model_hash and told["bound"] == heat.bound
        assert set(told["versions"]) == {"obeql", "torch", "duckdb", "numpy"}
    assert len({file.SeriesInstanceUID for file in read}) == 1 and len({file.SOPInstanceUID for file in read}) == 4
    assert len(result[:1].export(tmp_path / "python", "dicom")) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"FrameOfReferenceUID": None}, "no frame of reference (it lacks FrameOfReferenceUID)"),
        ({"ImagePositionPatient": None, "PixelSpacing": None}, "lacks ImagePositionPatient, PixelSpacing"),
        ({"color": True}, "is in color"),
    ],
)
def test_images_that_have_no_place_for_a_map(net_db: Any, tmp_path: Path, changes: Any, words: str) -> None:
    write(tmp_path / "a.dcm")
    write(tmp_path / "b.dcm", 2, **changes)
    run(net_db, tmp_path / "*.dcm")
    with pytest.raises(ImageError) as caught:
        net_db.execute(f"EXPORT RUN r TO '{tmp_path}/out' FORMAT DICOM")
    assert words in str(caught.value) and "b.dcm" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_images_that_are_no_dicom_files_or_gone(net_db: Any, tmp_path: Path) -> None:
    Image.new("L", (40, 40), 90).save(tmp_path / "a.png")
    run(net_db, tmp_path / "a.png")
    with pytest.raises(ImageError, match="is no DICOM file"):
        net_db.execute(f"EXPORT RUN r TO '{tmp_path}/out' FORMAT DICOM")
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match="cannot be opened"):
        net_db.execute(f"EXPORT RUN r TO '{tmp_path}/out' FORMAT DICOM")


@pytest.mark.parametrize("package", ["highdicom", "pydicom"])
@pytest.mark.parametrize("form", ["DICOM", "SECONDARY_CAPTURE"])
def test_without_highdicom_the_extra_is_named(
    net_db: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, form: str
) -> None:
    run(net_db, write(tmp_path / "a.dcm"))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedError, match=r'pip install -e "\.\[dicom\]"'):
        net_db.execute(f"EXPORT RUN r TO '{tmp_path}/out' FORMAT {form}")


def test_a_secondary_capture_is_the_picture_with_the_map(net_db: Any, tmp_path: Path) -> None:
    from obeql.drawing.colors import limit_of, palette

    write(tmp_path / "a.dcm", PatientOrientation=["L", "P"])
    write(tmp_path / "b.dcm", 2, FrameOfReferenceUID=None, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    write(tmp_path / "c.dcm", 3, color=True, ImageOrientationPatient=None, PixelSpacing=None)
    result = run(net_db, tmp_path / "*.dcm")
    net_db.execute(f"EXPORT RUN r TO '{tmp_path}/out' FORMAT SECONDARY_CAPTURE")
    read = [pydicom.dcmread(file) for file in sorted((tmp_path / "out").glob("*.dcm"))]
    orientations = [["L", "P"], ["P", "F"], None]
    for number, (file, heat) in enumerate(zip(read, result, strict=True)):
        assert file.SOPClassUID.name == "Secondary Capture Image Storage"
        assert (file.StudyInstanceUID, file.PatientID) == ("1.2.3.4", "p")
        ground = heat.source().unit_pixels()
        expected = palette().blended(ground, heat.to_pixels("source"), limit_of(heat))
        np.testing.assert_array_equal(file.pixel_array, expected)
        wanted = orientations[number // 2]
        assert (list(file.PatientOrientation) if file.PatientOrientation else None) == wanted
        told = json.loads(file.ImageComments)
        assert (told["class"], told["model_hash"]) == (heat.class_name, heat.cells.key.model_hash)
    assert len({file.SeriesInstanceUID for file in read}) == 1 and len({file.SOPInstanceUID for file in read}) == 6


def test_a_secondary_capture_is_of_dicom_files(net_db: Any, tmp_path: Path) -> None:
    Image.new("L", (40, 40), 90).save(tmp_path / "a.png")
    run(net_db, tmp_path / "a.png")
    with pytest.raises(ImageError, match="is no DICOM file"):
        net_db.execute(f"EXPORT RUN r TO '{tmp_path}/out' FORMAT SECONDARY_CAPTURE")
    assert not (tmp_path / "out").exists()


def test_parquet_says_where_it_comes_from(net_db: Any, tmp_path: Path) -> None:
    from pyarrow import parquet

    run(net_db, write(tmp_path / "a.dcm"))
    net_db.execute(f"EXPORT RUN r TO '{tmp_path}/out'")
    told = json.loads(parquet.read_schema(tmp_path / "out" / "heatmaps.parquet").metadata[b"obeql"])
    assert told["statement"].startswith("EXPLAIN OCCLUDE") and told["run"] == "r" and told["versions"]["torch"]
