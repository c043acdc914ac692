"""Files and folders of volumes and clips: NIfTI, DICOM series, stacks of pages, videos, folders of frames."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from obeql.errors import ImageError
from obeql.executor.images import expand_volumes
from obeql.executor.images.locate import IMAGE_SUFFIXES
from obeql.executor.images.volume_files import read_volume
from obeql.planner.binding.image_paths import Frames, bare_path, image_name, split_frames


def picture(path: Path) -> Any:
    return np.asarray(Image.open(path).convert("RGB"), np.float32) / np.float32(255)


def read(path: Path, page: int | None = None, **frames: int) -> Any:
    return read_volume(path, path.name, page, Frames(**frames), picture)


def fault(path: Path, page: int | None = None, **frames: int) -> str:
    with pytest.raises(ImageError) as caught:
        read(path, page, **frames)
    return str(caught.value)


# ---- NIfTI -------------------------------------------------------------------------------------------------------


def nifti(path: Path, voxels: Any, affine: Any = None) -> Path:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_is_turned_into_canonical_orientation_and_keeps_its_affine(tmp_path: Path, suffix: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).normal(0, 100, (4, 5, 6)).astype(np.float32)
    turned = np.array([[0, 0, 2.0, -8], [-1.5, 0, 0, 20], [0, -3.0, 0, 7], [0, 0, 0, 1]])
    path = nifti(tmp_path / f"scan{suffix}", values, turned)
    voxels, facts = read(path)
    expected = nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_array_equal(voxels, expected.get_fdata())
    np.testing.assert_allclose(facts["affine"], expected.affine)
    assert facts["spacing"] == [2.0, 1.5, 3.0]
    # A voxel lies where it lay: through either affine its place in millimetres is the same.
    at = np.unravel_index(voxels.argmax(), voxels.shape)
    before = np.unravel_index(values.argmax(), values.shape)
    np.testing.assert_allclose(np.array(facts["affine"]) @ [*at, 1], turned @ [*before, 1])


def test_nifti_of_scaled_integers_has_the_values_that_it_says(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    nibabel.save(image, tmp_path / "ct.nii")
    voxels, _ = read(tmp_path / "ct.nii")
    assert voxels.dtype == np.float32 and voxels.min() == pytest.approx(
        nibabel.load(tmp_path / "ct.nii").get_fdata().min()
    )


def test_of_four_axes_a_page_is_one_volume(tmp_path: Path) -> None:
    series = np.random.default_rng(0).random((3, 4, 5, 2)).astype(np.float32)
    path = nifti(tmp_path / "fmri.nii", series)
    assert "has four axes (3x4x5x2): 2 volumes, one after the other; 'fmri.nii#page=1' is the first" in fault(path)
    np.testing.assert_array_equal(read(path, page=2)[0], series[..., 1])
    assert "it has 2 pages" in fault(path, page=3)
    single = nifti(tmp_path / "one.nii", series[..., :1])
    np.testing.assert_array_equal(read(single)[0], series[..., 0])


def test_bad_nifti_files_are_told_in_one_sentence(tmp_path: Path) -> None:
    path = nifti(tmp_path / "flat.nii", np.zeros((4, 5), np.float32))
    assert "has 2 axes (4x5); a volume has three" in fault(path)
    path = nifti(tmp_path / "complex.nii", np.zeros((2, 2, 2), np.complex64))
    assert "voxels of type complex64; allowed are plain numbers" in fault(path)
    (tmp_path / "text.nii").write_text("no volume")
    assert "cannot be read as NIfTI" in fault(tmp_path / "text.nii")
    whole = nifti(tmp_path / "whole.nii.gz", np.random.default_rng(0).random((8, 8, 8)).astype(np.float32)).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as NIfTI" in fault(tmp_path / "cut.nii.gz")


def test_a_header_that_promises_a_bomb_is_refused_before_a_voxel_is_read(tmp_path: Path) -> None:
    path = nifti(tmp_path / "small.nii", np.zeros((2, 2, 2), np.uint8))
    data = bytearray(path.read_bytes())
    data[40:48] = np.array([3, 32000, 32000, 32000], "<i2").tobytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(bytes(data)))
    assert "is 32000x32000x32000, more than the" in fault(tmp_path / "bomb.nii.gz")


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [("nibabel", "a.nii", "nifti"), ("av", "a.mp4", "video"), ("pydicom", "a.dcm", "dicom")],
)
def test_a_decoder_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, extra: str
) -> None:
    (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 40)
    monkeypatch.setitem(sys.modules, module, None)
    assert f'pip install -e ".[{extra}]"' in fault(tmp_path / name)


# ---- DICOM -------------------------------------------------------------------------------------------------------


def write_slice(
    folder: Path,
    number: int,
    z: float,
    values: Any,
    series: str = "1.2.3",
    along: Any = (1, 0, 0, 0, 1, 0),
    **said: Any,
) -> Path:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID = series
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelSpacing, data.ImageOrientationPatient = [0.5, 0.25], list(along)
    data.ImagePositionPatient = [-10, -20, z]
    data.RescaleSlope, data.RescaleIntercept = 2, -1024
    for name, value in said.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.PixelData = values.astype("<u2").tobytes()
    path = folder / f"slice{number}.dcm"
    data.save_as(path, enforce_file_format=True) if hasattr(pydicom, "examples") else data.save_as(path)
    return path


def planes(n: int = 4) -> Any:
    return np.random.default_rng(0).integers(0, 2000, (n, 6, 5))


def test_a_series_is_sorted_along_its_normal_and_rescaled(tmp_path: Path) -> None:
    values = planes()
    heights = [30.0, 27.0, 24.0, 21.0]
    for number, place in enumerate([2, 0, 3, 1]):
        write_slice(tmp_path / "ct", number, heights[place], values[place])
    (tmp_path / "ct" / "README.txt").write_text("beside the slices")
    voxels, facts = read(tmp_path / "ct")
    np.testing.assert_array_equal(voxels, values[::-1] * 2.0 - 1024)
    assert facts["spacing"] == [3.0, 0.5, 0.25] and facts["series_uid"] == "1.2.3"
    affine = np.array(facts["affine"])
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [10, 20, 21, 1])  # to the right and the front, as in NIfTI
    np.testing.assert_allclose(affine @ [3, 1, 2, 1], [10 - 2 * 0.25, 20 - 0.5, 30, 1])
    assert expand_volumes(tmp_path / "ct") == [tmp_path / "ct"]
    assert expand_volumes(tmp_path) == [tmp_path / "ct"]
    assert expand_volumes(str(tmp_path / "c*")) == [tmp_path / "ct"]


def test_what_is_wrong_with_a_series_is_said(tmp_path: Path) -> None:
    values = planes(5)

    def series(name: str, heights: list[float], **last: Any) -> Path:
        for number, z in enumerate(heights):
            write_slice(tmp_path / name, number, z, values[number], **(last if number == len(heights) - 1 else {}))
        return tmp_path / name

    gap = fault(series("gap", [0, 3, 6, 12, 15]))
    assert "lacks slices: slice2.dcm and slice3.dcm are 6 mm apart, the others 3 mm" in gap
    assert "two slices at one place (3 mm): slice1.dcm and slice2.dcm" in fault(series("double", [0, 3, 3, 6]))
    assert "uneven distance" in fault(series("uneven", [0, 3, 6, 7.5, 10.5]))
    assert "holds 2 series (1.2.3, 9.9)" in fault(series("two", [0, 3, 6], series="9.9"))
    assert "has one slice" in fault(series("one", [0]))
    assert "differ in direction" in fault(series("turned", [0, 3, 6], along=(1, 0, 0, 0, 0, 1)))
    assert "differ in spacing: slice0.dcm and slice2.dcm" in fault(series("spaced", [0, 3, 6], PixelSpacing=[1, 1]))
    assert "slice2.dcm does not say where its frame lies (ImagePositionPatient)" in fault(
        series("nowhere", [0, 3, 6], ImagePositionPatient=None)
    )
    write_slice(series("sizes", [0, 3]), 2, 6, values[2][:, :4])
    assert "differ in size: 6x5 (slice0.dcm) and 6x4 (slice2.dcm)" in fault(tmp_path / "sizes")
    cut = series("cut", [0, 3, 6]) / "slice1.dcm"
    cut.write_bytes(cut.read_bytes()[:-20])
    assert "cut" in fault(tmp_path / "cut")
    (tmp_path / "none").mkdir()
    assert "is a folder without DICOM files and pictures" in fault(tmp_path / "none")


# ---- stacks, frames and videos -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_pages_of_a_tiff_are_planes_with_their_own_values(tmp_path: Path, dtype: Any) -> None:
    stack = (np.random.default_rng(0).random((4, 6, 5)) * 200).astype(dtype)
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    voxels, _ = read(tmp_path / "stack.tif")
    np.testing.assert_array_equal(voxels, stack)
    mixed = [Image.fromarray(stack[0]), Image.fromarray(stack[1][:, :3])]
    mixed[0].save(tmp_path / "mixed.tif", save_all=True, append_images=mixed[1:])
    assert "the pages of 'mixed.tif' differ: 6x5 (page 1) and 6x3" in fault(tmp_path / "mixed.tif")


def frames(n: int = 6, size: tuple[int, int] = (16, 24)) -> Any:
    ramp = np.linspace(0, 255, n).astype(np.uint8)
    return np.broadcast_to(ramp[:, None, None, None], (n, *size, 3)).copy()


def write_video(path: Path, pictures: Any, codec: str = "mpeg4") -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for each in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov"])
def test_a_video_is_read_frame_by_frame(tmp_path: Path, suffix: str) -> None:
    pictures = frames()
    path = write_video(tmp_path / f"clip{suffix}", pictures)
    clip, facts = read(path)
    assert clip.shape == (3, 6, 16, 24) and clip.dtype == np.float32
    np.testing.assert_allclose(clip.mean(axis=(0, 2, 3)), pictures.mean(axis=(1, 2, 3)) / 255, atol=0.03)
    assert facts["frames_per_second"] == 10
    some, facts = read(path, frames=2, every=2, start=1)
    np.testing.assert_array_equal(some, clip[:, [1, 3]])
    assert facts["frames_per_second"] == 5
    ends = fault(path, frames=4, every=2, start=1)
    assert "ends early: it has 6 frames, too few for 4 frames, every 2, from frame 1" in ends
    assert "ends early" in fault(path, start=9)
    path.write_bytes(b"no video at all")
    assert "cannot be read as video" in fault(path)


def test_an_animation_and_a_folder_of_pictures_are_clips(tmp_path: Path) -> None:
    pytest.importorskip("av")
    pictures = frames()
    images = [Image.fromarray(each) for each in pictures]
    images[0].save(tmp_path / "clip.gif", save_all=True, append_images=images[1:], duration=100)
    np.testing.assert_allclose(
        read(tmp_path / "clip.gif")[0].mean(axis=(0, 2, 3)), pictures.mean(axis=(1, 2, 3)) / 255, atol=0.03
    )
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, each in enumerate(images, 8):  # frame8, frame9, frame10: by number, not by letter
        each.save(folder / f"frame{number}.png")
    clip, _ = read(folder, frames=3, every=2)
    np.testing.assert_array_equal(clip[:, :, 0, 0], (pictures[::2, 0, 0] / np.float32(255)).T)
    assert "ends early: it has 6 frames" in fault(folder, frames=7)
    images[0].resize((8, 8)).save(folder / "frame99.png")
    assert "differ in size: 16x24 (frame8.png) and 8x8 (frame99.png)" in fault(folder)


def test_paths_say_which_frames() -> None:
    assert split_frames("a/clip.mp4#frames=16,every=2,start=30") == ("a/clip.mp4", Frames(16, 2, 30))
    assert split_frames("clip.mp4#start=3") == ("clip.mp4", Frames(None, 1, 3))
    assert split_frames("clip.mp4#starts=3") == ("clip.mp4#starts=3", Frames())
    assert bare_path("clip.mp4#every=4") == "clip.mp4" and bare_path("stack.tif#page=2") == "stack.tif"


def test_a_packed_nifti_file_is_called_by_its_name() -> None:
    names = ("a/scan.nii.gz", "scan.NII.GZ#page=2", "scan.nii", "b.c/scan.tar.gz", "clip.mp4#frames=3")
    assert [image_name(name) for name in names] == ["scan", "scan_page2", "scan", "scan.tar", "clip"]


def test_a_file_of_no_volume_is_none(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    assert read(tmp_path / "photo.png") is None
    assert ".png" in IMAGE_SUFFIXES
