"""Damage image and model files at random and load them: an error in words or a result, never anything else.

    python scripts/fuzz_files.py --files 20000

Starts from small good files of every format that can be written here. A file loses its end, gets bytes flipped,
overwritten by large numbers, repeated or taken out; archives are damaged inside their members too, with checksums that
fit. Prints one line of JSON; the exit code is 1 where a file raised anything but ImageError or ModelError, or took
more than 30 seconds of computing.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from obeql.errors import ImageError, ModelError

_LARGE = [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\x80\0\0\0", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"]
_TOO_LONG_S = 30.0


def main() -> int:
    """Try as many files as asked, print what was found, and return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), given.files, given.seed)
    print(json.dumps(report))
    return 1 if report["problems"] else 0


def run(folder: Path, n_files: int, seed: int) -> dict[str, Any]:
    """Load `n_files` damaged files; returns how many of each kind were read, and what should not have happened."""
    chance = random.Random(seed)
    whole = {**_images(), **_models(folder)}
    tried: Counter[str] = Counter()
    read = 0
    problems: list[str] = []
    for number in range(n_files):
        name = sorted(whole)[number % len(whole)]
        file = folder / f"damaged.{name.rpartition('.')[2]}"
        file.write_bytes(_damaged(whole[name], chance))
        tried[file.suffix] += 1
        started = time.process_time()
        try:
            _load(file)
            read += 1
        except (ImageError, ModelError):
            pass
        except Exception as error:
            problems.append(f"file {number} ({name}), seed {seed}: {type(error).__name__}: {str(error)[:200]}")
        if time.process_time() - started > _TOO_LONG_S:
            problems.append(f"file {number} ({name}), seed {seed}: took {time.process_time() - started:.0f} s")
    return {"files": n_files, "read": read, "refused": n_files - read, "kinds": dict(tried), "problems": problems}


def _load(file: Path) -> None:
    from obeql.executor.images import decode_file
    from obeql.executor.models import load
    from obeql.executor.models.weights.weights_file import read_tensors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if file.suffix in (".onnx", ".pt2", ".pt"):
            load(str(file), {"size": 8})
        elif file.suffix == ".safetensors":
            read_tensors(file, trust=False)
        else:
            decode_file(file)


def _damaged(content: bytes, chance: random.Random) -> bytes:
    """The file with one to four things done to it."""
    if content[:2] == b"PK" and chance.random() < 0.7:
        return _damaged_member(content, chance)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(max(1, len(content)))
        length = chance.randint(1, 16)
        match chance.randrange(6):
            case 0:
                content = content[:at]
            case 1:
                content = content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :]
            case 2:
                large = chance.choice(_LARGE)
                content = content[:at] + large + content[at + len(large) :]
            case 3:
                content = content[:at] + content[at + length :]
            case 4:
                content = content[:at] + content[at : at + length] * chance.randint(2, 50) + content[at + length :]
            case 5:
                content = content[:at] + chance.randbytes(length) + content[at:]
    return content


def _damaged_member(content: bytes, chance: random.Random) -> bytes:
    """A zip archive whose one member is damaged, with checksums that fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w") as damaged:
        names = archive.namelist()
        chosen = chance.choice(names)
        for name in names:
            data = archive.read(name)
            if name == chosen:
                text = data.decode("latin-1")
                digits = [place for place, letter in enumerate(text) if letter.isdigit()]
                if name.endswith(".json") and digits and chance.random() < 0.7:
                    at = chance.choice(digits)
                    data = (text[:at] + chance.choice(["-1", "0", "1099511627776", "9"]) + text[at + 1 :]).encode(
                        "latin-1"
                    )
                else:
                    data = _damaged(data, chance)
            damaged.writestr(name, data)
    return out.getvalue()


def _images() -> dict[str, bytes]:
    """Small pictures in every format that Pillow writes without further programs."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    found = {}
    for name, picture, kind, more in [
        ("rgb.png", color, "PNG", {}),
        ("palette.png", color.quantize(8), "PNG", {"transparency": 1}),
        ("wide.png", Image.fromarray(rng.integers(0, 65536, (12, 16), dtype=np.uint16)), "PNG", {}),
        ("a.jpg", color, "JPEG", {}),
        ("cmyk.jpg", color.convert("CMYK"), "JPEG", {}),
        ("a.gif", color, "GIF", {}),
        ("a.bmp", color, "BMP", {}),
        ("raw.tif", color, "TIFF", {}),
        ("lzw.tif", color, "TIFF", {"compression": "tiff_lzw"}),
        ("float.tif", Image.fromarray(rng.random((12, 16), dtype=np.float32)), "TIFF", {}),
        ("a.webp", color, "WEBP", {}),
        ("a.ppm", color, "PPM", {}),
        ("a.tga", color, "TGA", {}),
        ("a.jp2", color, "JPEG2000", {}),
    ]:
        out = io.BytesIO()
        try:
            picture.save(out, kind, **more)
        except (OSError, KeyError):  # Pillow was built without it
            continue
        found[name] = out.getvalue()
    return found | _dicoms(rng)


def _dicoms(rng: Any) -> dict[str, bytes]:
    """A gray scan of 12 bits as DICOM: plain, run-length coded, and packed; none without pydicom."""
    try:
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless
    except ImportError:
        return {}
    found = {}
    kinds = {"raw": ExplicitVRLittleEndian, "runs": RLELossless, "packed": DeflatedExplicitVRLittleEndian}
    for name, syntax in kinds.items():
        scan = FileDataset(None, {}, file_meta=FileMetaDataset(), preamble=bytes(128))
        scan.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if name == "runs" else syntax
        scan.file_meta.MediaStorageSOPClassUID = scan.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        scan.file_meta.MediaStorageSOPInstanceUID = scan.SOPInstanceUID = "1.2.3"
        scan.Rows, scan.Columns, scan.SamplesPerPixel = 12, 16, 1
        scan.BitsAllocated, scan.BitsStored, scan.HighBit, scan.PixelRepresentation = 16, 12, 11, 0
        scan.PhotometricInterpretation = "MONOCHROME2"
        scan.WindowCenter, scan.WindowWidth, scan.RescaleSlope, scan.RescaleIntercept = 1000, 800, 1, -20
        scan.PixelSpacing = [0.5, 0.5]
        scan.PixelData = rng.integers(0, 4096, (12, 16), dtype="uint16").tobytes()
        if name == "runs":
            scan.compress(syntax, generate_instance_uid=False)
        found[f"{name}.dcm"] = _bytes(lambda out, scan=scan: scan.save_as(out, enforce_file_format=True))
    return found


def _models(folder: Path) -> dict[str, bytes]:
    """One small classifier as ONNX, as a torch.export archive, and as pickled tensors."""
    import torch
    from torch import nn

    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3))
    found = {"net.pt": _bytes(lambda out: torch.save(network.state_dict(), out))}
    try:
        from safetensors.torch import save
    except ImportError:
        pass
    else:
        found["net.safetensors"] = save(network.state_dict())
    torch.export.save(torch.export.export(network.eval(), (torch.rand(2, 3, 8, 8),)), folder / "whole.pt2")
    found["net.pt2"] = (folder / "whole.pt2").read_bytes()
    try:
        import onnx
    except ImportError:
        return found
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "0.weight", "0.bias"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["c"], ["d"]),
        node("Gemm", ["d", "4.weight", "4.bias"], ["y"], transB=1),
    ]
    image = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])
    scores = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])
    weights = [onnx.numpy_helper.from_array(value, key) for key, value in state.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "net", [image], [scores], weights))
    found["net.onnx"] = model.SerializeToString()
    return found


def _bytes(write: Any) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
