"""Which computation a captured model is: the identity that cells are stored under, and whether it still holds.

A captured graph tells by itself. A network that runs whole is its file's content; where Python code decides, its code,
its state and its outputs on a fixed probe; where those cannot be had, nothing but itself.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import nn

from obeql.executor.devices.modes import without_modes
from obeql.executor.devices.threads import set_own_threads
from obeql.executor.models.identity.code_digest import code_digest
from obeql.executor.models.loaded import LoadedModel
from obeql.executor.network.capture.capture import module_dtype
from obeql.executor.network.capture.outputs import main_output
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.identity import head_words
from obeql.executor.network.tensor_digests import TensorDigests

__all__ = ["Identity", "identify"]


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """`model_hash` is the identity, hex SHA-256; `still_holds` says whether the network computes that as yet."""

    model_hash: str
    still_holds: Callable[[], bool] = lambda: True


def identify(loaded: LoadedModel, graph: LayerGraph, content: str, digests: TensorDigests) -> Identity:
    """Return which computation `graph` is, captured of `loaded`; `content` is the hash of what was loaded.

    Only a network of the user's own code that runs whole may come to compute something else while it is in use:
    captured graphs and files are as they were.
    """
    if graph.digest:
        return Identity(graph.digest)
    if not graph.reason:
        return Identity(_fresh())
    reading = f"{head_words(graph.layers[2:], digests)} {graph.activation}"  # behind the image and the network
    if not loaded.from_code:
        return Identity(_sha256(f"{content} {reading}"))
    shape = graph.layers[0].shape
    module = loaded.module
    code = code_digest(module, digests)
    outputs = _probed(module, shape, seed=0)
    _probed(module, shape, seed=1)
    if code is None or code != code_digest(module, TensorDigests()):  # some modules note what they have seen
        return Identity(_fresh(), lambda: _probed(module, shape, seed=0) == outputs)
    return Identity(_sha256(f"{code} {outputs} {reading}"), lambda: code_digest(module, TensorDigests()) == code)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fresh() -> str:
    return hashlib.sha256(uuid.uuid4().bytes).hexdigest()


def _probed(module: nn.Module, shape: tuple[int, ...], seed: int) -> str:
    """Return the hex SHA-256 of what the network returns for two random images, computed by one thread.

    With more of them, sums are rounded in another order.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((2, *shape), generator=generator, dtype=torch.float32).to(module_dtype(module))

    def run() -> str:
        set_own_threads(1)
        with without_modes(inference=True):
            values = main_output(module(images)).float().contiguous()
        return hashlib.sha256(values.numpy().tobytes()).hexdigest()

    with ThreadPoolExecutor(1) as alone:
        return alone.submit(run).result()
