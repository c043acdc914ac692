"""Devices: what the engine asks of each kind, and how names find them."""

from __future__ import annotations

import pytest
import torch

from obeql.errors import DeviceError
from obeql.executor.devices import KINDS, arithmetic, available_devices, device_of, resolve_device
from obeql.executor.devices.cuda import Cuda
from obeql.executor.devices.mps import Mps
from obeql.executor.devices.xpu import Xpu
from obeql.planner.binding.settings import DEVICES


def test_the_language_knows_every_kind() -> None:
    assert ("auto", *(kind.kind for kind in KINDS)) == DEVICES


def test_the_cpu_is_always_there() -> None:
    assert available_devices()[0] == "cpu"
    cpu = device_of(resolve_device("CPU"))
    assert cpu.free_bytes > 0
    assert cpu.n_lanes >= 1
    assert "thread" in cpu.hardware


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceError, match="no device 'xpu:7'"):
        resolve_device("xpu:7")


def test_auto_takes_no_kind_that_has_not_been_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, names in ((Cuda, []), (Xpu, ["xpu:0"]), (Mps, ["mps"])):
        monkeypatch.setattr(kind, "names", classmethod(lambda cls, names=names: names))
    assert available_devices() == ["cpu", "xpu:0", "mps"]
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device("xpu") == torch.device("xpu:0")
    assert resolve_device("mps") == torch.device("mps")
    monkeypatch.setattr(Cuda, "names", classmethod(lambda cls: ["cuda:0"]))
    assert resolve_device("auto") == torch.device("cuda:0")


def test_formats_that_a_device_lacks_are_refused() -> None:
    with pytest.raises(DeviceError, match="tf32"), arithmetic("tf32", torch.device("cpu")):
        pass
    with pytest.raises(DeviceError, match="float64"), arithmetic("float64", torch.device("mps")):
        pass
