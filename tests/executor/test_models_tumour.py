"""The real brain-MRI classifier against onnxruntime and against its labels; needs scripts/fetch_assets.py."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from obeql.executor.models import LoadedModel, load

onnxruntime = pytest.importorskip("onnxruntime")
DATA = Path(os.environ.get("OBEQL_DATA", "data"))
FILE = DATA / "tumour" / "vgg16.onnx"
pytestmark = pytest.mark.skipif(
    not FILE.is_file(), reason="run scripts/fetch_assets.py and set OBEQL_DATA to its folder"
)
CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


@pytest.fixture(scope="module")
def tumour() -> LoadedModel:
    return load(str(FILE), {"classes": CLASSES})


def pixels(path: Path) -> np.ndarray:
    """(240, 240, 3) float32 in 0..1, squashed."""
    return np.asarray(Image.open(path).convert("RGB").resize((240, 240)), dtype=np.float32) / 255


def test_what_the_file_declares(tumour: LoadedModel) -> None:
    assert (tumour.n_classes, tumour.activation, tumour.raw_outputs) == (4, "softmax", "logits")
    assert tumour.preprocessing.size == (240, 240)
    assert (tumour.preprocessing.resize, tumour.preprocessing.channels) == ("squash", "rgb")


@pytest.mark.parametrize(("pattern", "count"), [("Te-no*", 3), pytest.param("Te-*", 17, marks=pytest.mark.slow)])
def test_agrees_with_onnxruntime_and_the_labels(tumour: LoadedModel, pattern: str, count: int) -> None:
    session = onnxruntime.InferenceSession(str(FILE), providers=["CPUExecutionProvider"])
    images = sorted((DATA / "mri").glob(pattern + ".jpg"))
    assert len(images) == count
    for path in images:
        image = pixels(path)
        with torch.inference_mode():
            logits = tumour.module(torch.from_numpy(image).permute(2, 0, 1)[None])
        probabilities = torch.softmax(logits, 1).numpy()
        np.testing.assert_allclose(probabilities, session.run(None, {"input": image[None]})[0], atol=1e-5)
        assert CLASSES[int(probabilities.argmax())].startswith(path.name[3:5]), path.name


def test_traces_with_fake_tensors(tumour: LoadedModel) -> None:
    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(torch.empty(97, 3, 240, 240))
    graph = make_fx(tumour.module, tracing_mode="real", _allow_non_fake_inputs=True)(fake)
    targets = [str(call.target) for call in graph.graph.nodes if call.op == "call_function"]
    assert targets.count("aten.convolution.default") == 13
    assert targets.count("aten.mm.default") + targets.count("aten.addmm.default") == 4
