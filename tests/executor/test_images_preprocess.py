"""The model's input is what Pillow and torchvision make of the image, and every pixel knows where it came from."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from obeql.errors import ModelError, QueryTypeError
from obeql.executor.images import ModelInput, decode_object, fill_values, place, preprocess
from obeql.planner.catalog import Preprocessing
from obeql.planner.fills import IMAGE_FILLS

RNG = np.random.default_rng(1)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def torchvision_shortest(image: Image.Image, edge: int, size: tuple[int, int], resample: int) -> np.ndarray:
    """Resize(edge) and CenterCrop(size) of torchvision.transforms on a PIL image, step by step."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    new_long = int(edge * long / short)
    image = image.resize((edge, new_long) if width <= height else (new_long, edge), resample)
    pad_w, pad_h = max(0, size[1] - image.width), max(0, size[0] - image.height)
    image = ImageOps.expand(image, (pad_w // 2, pad_h // 2, (pad_w + 1) // 2, (pad_h + 1) // 2))
    top, left = round((image.height - size[0]) / 2.0), round((image.width - size[1]) / 2.0)
    return np.asarray(image.crop((left, top, left + size[1], top + size[0])))


def normalized(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    unit = pixels.astype(np.float32) / np.float32(255)
    unit = unit[:, :, None] if unit.ndim == 2 else unit
    return ((unit - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(2, 0, 1)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_squash_is_pillow_bit_for_bit(interpolation: str) -> None:
    image = picture(37, 52)
    how = Preprocessing((24, 20), interpolation=interpolation, mean=MEAN, std=STD)  # type: ignore[arg-type]
    got = preprocess(decode_object(image, "x"), how)
    resized = np.asarray(image.resize((20, 24), getattr(Image.Resampling, interpolation.upper())))
    assert got.values.dtype == np.float32 and got.values.flags.c_contiguous
    assert np.array_equal(got.values, normalized(resized, MEAN, STD))
    assert np.array_equal(got.pixels, resized.astype(np.float32) / np.float32(255))


def test_shortest_is_torchvision_bit_for_bit() -> None:
    for _ in range(60):
        height, width, edge, out_h, out_w = (int(n) for n in RNG.integers(5, 70, 5))
        image = picture(height, width)
        how = Preprocessing((out_h, out_w), "shortest", edge, "bilinear", mean=MEAN, std=STD)
        got = preprocess(decode_object(image, "x"), how)
        wanted = torchvision_shortest(image, edge, (out_h, out_w), Image.Resampling.BILINEAR)
        assert np.array_equal(got.values, normalized(wanted, MEAN, STD)), (height, width, edge, out_h, out_w)


def test_channel_orders() -> None:
    image = picture(20, 30)
    source = decode_object(image, "x")
    rgb = preprocess(source, Preprocessing((10, 10), mean=MEAN[::-1], std=STD[::-1]))
    bgr = preprocess(source, Preprocessing((10, 10), channels="bgr", mean=MEAN, std=STD))
    assert np.array_equal(bgr.values[::-1], rgb.values) and np.array_equal(bgr.pixels, rgb.pixels)
    gray = preprocess(source, Preprocessing((10, 10), channels="gray", mean=(0.5,), std=(0.25,)))
    wanted = np.asarray(image.convert("L").resize((10, 10), Image.Resampling.BICUBIC))
    assert np.array_equal(gray.values, normalized(wanted, (0.5,), (0.25,)))
    assert gray.pixels.shape == (10, 10, 3) and np.ptp(gray.pixels, axis=2).max() == 0


def test_float_images_are_resized_in_float() -> None:
    wide = RNG.integers(0, 65536, (31, 17), dtype=np.uint16)
    got = preprocess(decode_object(wide, "x"), Preprocessing((12, 12)))
    plane = Image.fromarray(wide.astype(np.float32) / np.float32(65535)).resize((12, 12), Image.Resampling.BICUBIC)
    assert np.array_equal(got.values[1], np.clip(np.asarray(plane), 0, 1))
    assert np.unique(got.values).size > 100
    color = preprocess(decode_object(RNG.random((9, 9, 3)), "x"), Preprocessing((9, 9), channels="gray"))
    assert color.values.shape == (1, 9, 9)


def test_arrays_of_the_models_size_are_used_as_they_are() -> None:
    array = RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    how = Preprocessing((24, 24), "shortest", 32)
    assert np.array_equal(preprocess(decode_object(array, "x"), how).pixels, array / np.float32(255))
    resized = preprocess(decode_object(Image.fromarray(array), "x"), how)
    assert not np.array_equal(resized.pixels, array / np.float32(255))
    assert resized.placement.crop == (4, 4)


def test_shortest_without_an_edge_covers_the_input() -> None:
    placement = place((100, 80), Preprocessing((24, 40), "shortest"))
    assert placement.resized_size == (50, 40) and placement.crop == (13, 0)


def test_placement_maps_back_to_the_source() -> None:
    squash = place((512, 256), Preprocessing((240, 240)))
    assert squash.offset == (0, 0) and squash.source_box(0, 0, 240, 240) == (0, 0, 512, 256)
    crop = place((300, 600), Preprocessing((224, 224), "shortest", 256))
    assert crop.resized_size == (256, 512) and crop.crop == (16, 144)
    top, left, height, width = crop.source_box(112, 112, 0, 0)
    assert (top, left, height, width) == (150, 300, 0, 0), "the centre of the input is the centre of the image"
    padded = place((100, 100), Preprocessing((24, 24), "shortest", 20))
    assert padded.crop == (-2, -2) and padded.offset == (-10, -10)


def test_a_bright_spot_lands_where_placement_says() -> None:
    array = np.zeros((90, 120, 3), np.uint8)
    array[60:63, 30:33] = 255
    how = Preprocessing((48, 48), "shortest", 60)
    got = preprocess(decode_object(Image.fromarray(array), "x"), how)
    row, col = np.unravel_index(int(got.values[0].argmax()), (48, 48))
    top, left, height, width = got.placement.source_box(row, col, 1, 1)
    assert top - 1 <= 61.5 <= top + height + 1 and left - 1 <= 31.5 <= left + width + 1


def test_bad_statistics() -> None:
    source = decode_object(picture(4, 4), "x")
    with pytest.raises(ModelError, match="mean has 3 values, but a model with channels=gray takes 1"):
        preprocess(source, Preprocessing((4, 4), channels="gray", mean=MEAN))
    with pytest.raises(ModelError, match="std must be positive"):
        preprocess(source, Preprocessing((4, 4), std=(1.0, 0.0, 1.0)))
    assert preprocess(source, Preprocessing((4, 4), mean=(0.5,), std=(0.5,))).values.shape == (3, 4, 4)


@pytest.fixture
def model_input() -> tuple[ModelInput, Preprocessing]:
    how = Preprocessing((20, 30), mean=MEAN, std=STD, channels="bgr")
    return preprocess(decode_object(picture(40, 40), "x"), how), how


def test_constant_fills(model_input: tuple[ModelInput, Preprocessing]) -> None:
    image, how = model_input
    mean, std = np.array(MEAN), np.array(STD)
    for fill, color in (
        ("black", (0, 0, 0)),
        ("white", (1, 1, 1)),
        ("gray", (0.5, 0.5, 0.5)),
        ((0.1, 0.2, 0.9), (0.1, 0.2, 0.9)),
        ("(0.1, 0.2,0.9)", (0.1, 0.2, 0.9)),
    ):
        got = fill_values(fill, image, how)
        assert got.shape == (3,) and got.dtype == np.float32
        np.testing.assert_allclose(got, (np.array(color)[::-1] - mean) / std, rtol=1e-6)
    assert (fill_values("zero", image, how) == 0).all()
    np.testing.assert_allclose(fill_values("mean", image, how), image.values.mean(axis=(1, 2)), rtol=1e-4)


def test_a_constant_fill_is_what_an_image_of_that_color_becomes() -> None:
    for channels in ("rgb", "bgr", "gray"):
        how = Preprocessing((4, 4), channels=channels, mean=(0.4,), std=(0.3,))  # type: ignore[arg-type]
        image = preprocess(decode_object(np.full((4, 4, 3), (255, 0, 51), np.uint8), "x"), how)
        got = fill_values((1.0, 0.0, 0.2), image, how)
        np.testing.assert_allclose(got, image.values[:, 0, 0], atol=0.01)
        np.testing.assert_allclose(fill_values("mean", image, how), image.values[:, 0, 0], rtol=1e-6)
        np.testing.assert_allclose(fill_values("blur", image, how), image.values, rtol=1e-5, atol=1e-6)


def test_blur_is_a_gaussian() -> None:
    array = np.zeros((101, 101), np.float32)
    array[50, 50] = 1
    how = Preprocessing((101, 101))
    blurred = fill_values("blur", preprocess(decode_object(array, "x"), how), how)
    assert blurred.shape == (3, 101, 101) and blurred.dtype == np.float32
    assert blurred[0].sum() == pytest.approx(1, abs=1e-5)
    sigma = 101 / 20
    assert blurred[0, 50, 55] / blurred[0, 50, 50] == pytest.approx(np.exp(-0.5 * (5 / sigma) ** 2), rel=1e-5)
    np.testing.assert_array_equal(blurred[0], blurred[0].T)


@pytest.mark.parametrize("fill", ["grey", "blue", "(1,2)", "(a,b,c)", "(0,0,2)", (0.0, 0.0, -1.0), "(nan,0,0)"])
def test_bad_fills(fill: str | tuple[float, float, float], model_input: tuple[ModelInput, Preprocessing]) -> None:
    with pytest.raises(QueryTypeError, match=r"fill .*0\.\.1"):
        fill_values(fill, *model_input)


def test_every_named_fill_works(model_input: tuple[ModelInput, Preprocessing]) -> None:
    for fill in IMAGE_FILLS:
        assert np.isfinite(fill_values(fill, *model_input)).all()
