"""Volumes and clips from files, in statements: maps against a plain loop, Hounsfield windows, metadata, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import obeql
from obeql.errors import ImageError
from tests.executor.test_volume_files import frames, nifti, planes, write_slice, write_video

pytestmark = pytest.mark.usefixtures("one_thread")


def network(channels: int = 1) -> nn.Module:
    torch.manual_seed(2)
    layers = (nn.Conv3d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    return nn.Sequential(*layers).eval()


@pytest.fixture
def db() -> Iterator[obeql.Session]:
    with obeql.connect() as session:
        yield session


def by_a_loop(module: nn.Module, x: Any, fill: Any, patch: tuple[int, int, int]) -> Any:
    """The logit of class 1 with one window after the other hidden, without overlap."""
    counts = [n // p for n, p in zip(x.shape[1:], patch, strict=True)]
    found = np.zeros(counts)
    for place in np.ndindex(*counts):
        hidden = torch.tensor(x).double()
        box = tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True))
        hidden[(slice(None), *box)] = torch.as_tensor(fill, dtype=torch.float64).reshape(-1, 1, 1, 1)
        with torch.inference_mode():
            found[place] = float(module.double()(hidden[None])[0, 1])
    return found


QUERY = "EXPLAIN OCCLUDE '{}' USING net FOR CLASS 1 WITH patch={} stride={} score=logit"


def test_a_ct_series_in_hounsfield_windows(db: obeql.Session, tmp_path: Path) -> None:
    values = planes(4)[:, :, :4]
    for number in range(4):
        write_slice(tmp_path / "ct", number, 3.0 * number, values[number])
    db.create_model("net", network(), size=(4, 6, 4), range=(-1000, 1000))
    heat = db.execute(QUERY.format(tmp_path / "ct", "2x3x2", "2x3x2"))[0]
    x = (values.astype(np.float32)[None] * 2 - 1024 + 1000) / 2000
    np.testing.assert_allclose(heat.scores, by_a_loop(network(), x, x.mean(), (2, 3, 2)), atol=1e-5)
    source = heat.source()
    assert source.metadata["spacing"] == [3.0, 0.5, 0.25] and source.series_uid == "1.2.3"
    # The pattern names the series, too, and a missing slice is one image that failed.
    (tmp_path / "ct" / "slice1.dcm").unlink()
    with pytest.raises(ImageError, match=r"lacks slices|uneven distance"):
        db.execute(QUERY.format(tmp_path / "c*", "2x3x2", "2x3x2"))


def test_nifti_files_of_a_folder_and_their_affine(db: obeql.Session, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 1, (2, 4, 4, 6)).astype(np.float32)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    for number in range(2):
        nifti(tmp_path / f"scan{number}.nii.gz", values[number], affine)
    db.create_model("net", network(), size=(4, 4, 6))
    result = db.execute(QUERY.format(tmp_path, 2, 2))
    assert len(result) == 2
    for heat, x in zip(result, values, strict=True):
        np.testing.assert_allclose(heat.scores, by_a_loop(network(), x[None], x.mean(), (2, 2, 2)), atol=1e-5)
        np.testing.assert_allclose(heat.source().metadata["affine"], affine)


def test_an_exported_map_lies_where_its_scan_does(tmp_path: Path) -> None:
    """Of a scan whose axes run to the left and to the back, and are turned, in another session than explained it."""
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).normal(0, 1, (4, 5, 6)).astype(np.float32)
    affine = np.array([[0, -2.0, 0.1, 9], [0.2, 0, 3.0, -4], [-4.0, 0, 0, 7], [0, 0, 0, 1]])
    nifti(tmp_path / "scan.nii.gz", values, affine)
    canonical = nibabel.as_closest_canonical(nibabel.load(tmp_path / "scan.nii.gz"))
    with obeql.connect(tmp_path / "scans.duckdb") as session:
        session.create_model("net", network(), size=canonical.shape)
        session.execute(QUERY.format(tmp_path / "scan.nii.gz", 2, 1).replace(" WITH", " INTO scan WITH"))
    with obeql.connect(tmp_path / "scans.duckdb") as session:
        session.execute(f"EXPORT RUN scan TO '{tmp_path / 'out'}' FORMAT nifti")
        pixels = session.run("scan")[0].to_pixels("source")
    (file,) = (tmp_path / "out").glob("*.nii.gz")
    written = nibabel.load(file)
    assert written.shape == canonical.shape == pixels.shape
    np.testing.assert_allclose(written.affine, canonical.affine, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(written.dataobj, np.float32), pixels)
    # In the scan's own order of axes, voxel for voxel, at the same place in millimetres.
    there = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(written.affine), nibabel.orientations.io_orientation(affine)
    )
    np.testing.assert_allclose(written.as_reoriented(there).affine, affine, atol=1e-6)


def test_a_clip_by_frames_of_its_path(db: obeql.Session, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames(6, (16, 16)))
    db.create_model("net", network(3), size=(3, 16, 16), channels=["red", "green", "blue"])
    heat = db.execute(QUERY.format(f"{tmp_path / 'clip.mp4'}#frames=3,every=2", "1x8x8", "1x8x8"))[0]
    x = heat.source().samples
    assert x.shape == (3, 3, 16, 16) and x.max() <= 1
    expected = by_a_loop(network(3), x, x.mean(axis=(1, 2, 3)), (1, 8, 8))
    np.testing.assert_allclose(heat.scores, expected, atol=1e-5)
    with pytest.raises(ImageError, match="ends early: it has 6 frames, too few for 3 frames, every 3"):
        db.execute(QUERY.format(f"{tmp_path / 'clip.mp4'}#frames=3,every=3", "1x8x8", "1x8x8"))
    with pytest.raises(ImageError, match="has 6x16x16 voxels, but the model takes 3x16x16"):
        db.execute(QUERY.format(tmp_path / "clip.mp4", "1x8x8", "1x8x8"))


def test_frames_are_chosen_of_files_alone(db: obeql.Session) -> None:
    db.create_model("net", network(3), size=(3, 16, 16), channels=["red", "green", "blue"])
    clip = np.zeros((3, 6, 16, 16), np.float32)
    with pytest.raises(obeql.ObeqlError, match=r"choose frames of files; .* is an array: slice it"):
        db.execute(f"{QUERY.format('x', '1x8x8', '1x8x8').replace(repr('x'), '?')} frames=3", [clip])


def test_a_video_is_no_image_and_a_volume_no_signal(db: obeql.Session, tmp_path: Path) -> None:
    nifti(tmp_path / "scan.nii", np.zeros((4, 4, 4), np.float32))
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    db.create_model("net", module, size=8)
    with pytest.raises(ImageError, match=r"scan\.nii"):
        db.execute(f"EXPLAIN OCCLUDE '{tmp_path / 'scan.nii'}' USING net FOR CLASS 1 WITH patch=4")


def test_volumes_are_squashed_to_the_size_of_the_model(db: obeql.Session) -> None:
    db.create_model("net", network(), size=(3, 4, 5), resize="squash", interpolation="box")
    values = np.random.default_rng(0).normal(0, 1, (6, 8, 10)).astype(np.float32)
    heat = db.explain(values, "net", classes=1, patch=(1, 2, 5), stride=(1, 2, 5), score="logit")[0]
    x = values.reshape(1, 3, 2, 4, 2, 5, 2).mean(axis=(2, 4, 6))  # the mean of each 2x2x2 voxels
    np.testing.assert_allclose(heat.scores, by_a_loop(network(), x, x.mean(), (1, 2, 5)), atol=1e-5)
    with pytest.raises(obeql.errors.QueryTypeError, match="a model of volumes takes none, squash or crop_pad"):
        db.create_model("other", network(), size=(3, 4, 5), resize="shortest")


def test_real_slices_of_a_ct_and_compressed_ones(db: obeql.Session, tmp_path: Path) -> None:
    """Five slices of a scan that pydicom brings along, as they are and compressed, in files of mixed order."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import RLELossless

    brought = Path(pydicom.__file__).parent / "data" / "test_files"
    files = sorted((brought / "dicomdirtests" / "98892001" / "CT5N").iterdir())
    assert len(files) == 5
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    slices = [pydicom.dcmread(file) for file in files]
    for folder in (plain, packed):
        folder.mkdir()
        for number, header in enumerate(slices):
            if folder is packed:
                header.compress(RLELossless)
            header.save_as(folder / f"{(number * 3) % 5}.dcm")
    by_height = sorted((pydicom.dcmread(file) for file in files), key=lambda each: each.ImagePositionPatient[2])
    hounsfield = np.stack(
        [each.pixel_array * float(each.RescaleSlope) + float(each.RescaleIntercept) for each in by_height]
    )
    db.create_model("net", network(), size=(5, 16, 16), range=(-1000, 1000))
    maps = [db.execute(QUERY.format(folder, "1x8x8", "1x8x8"))[0] for folder in (plain, packed)]
    assert maps[0].source().digest == maps[1].source().digest
    values = maps[0].source().samples[0]
    assert np.array_equal(values, hounsfield) or np.array_equal(values, hounsfield[::-1])
    x = ((values + 1000) / 2000)[None].astype(np.float32)
    for heat in maps:
        np.testing.assert_allclose(heat.scores, by_a_loop(network(), x, x.mean(), (1, 8, 8)), atol=1e-5)
    assert maps[0].source().metadata["spacing"][0] == pytest.approx(2.5)
    # One slice is no volume, also where its file begins as a TIFF file does.
    with pytest.raises(ImageError, match="has one slice; a volume has several"):
        db.execute(QUERY.format(brought / "CT_small.dcm", "1x8x8", "1x8x8"))
