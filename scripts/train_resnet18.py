"""Train a ResNet18 on Fashion-MNIST, as a residual network with weights of its own that needs no hub.

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb fashion
    python scripts/train_resnet18.py fashion/usr/share/datasets/fashion-mnist --into data/resnet18

The pictures, 28 x 28 and gray, are enlarged: most steps see 64 pixels, the last ones the network's 224. About ten
minutes on one core with AMX. Written are `fashion.pt`, a state dict of torchvision's resnet18 with 10 outputs, and
`test/<class>_<number>.png`, pictures of 224 pixels that it was not trained on, for `benchmarks.approx`. Inputs are
pixels / 255, without further normalization.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from obeql.executor.models.zoo.import_torchvision import torchvision

CLASSES = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
#: mean and standard deviation of the pixels, which the first layer takes in
MEAN, STD = 0.286, 0.353


@dataclass(frozen=True)
class Stage:
    """Steps of training on pictures of `size` pixels, `batch` at a time, at most with learning rate `rate`."""

    size: int
    batch: int
    n_steps: int
    rate: float


STAGES = (Stage(64, 64, 700, 0.05), Stage(112, 48, 200, 0.02), Stage(224, 32, 100, 0.005))


def read(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (n, 1, 28, 28) and labels int64 (n,) of `part`, train or t10k."""
    pictures = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    n = len(labels)
    return (
        torch.from_numpy(np.frombuffer(pictures, np.uint8).reshape(n, 1, 28, 28).copy()),
        torch.from_numpy(np.frombuffer(labels, np.uint8).astype(np.int64)),
    )


def enlarged(pictures: Tensor, size: int) -> Tensor:
    """Pictures uint8 (n, 1, 28, 28) as float32 (n, 3, size, size) in 0..1."""
    big = functional.interpolate(pictures.float() / 255, size=(size, size), mode="bicubic").clamp(0, 1)
    return big.expand(-1, 3, -1, -1)


def seen(pictures: Tensor, size: int) -> Tensor:
    """What a step of training sees: enlarged, half of them mirrored, with a square hidden, normalized."""
    big = enlarged(pictures, size)
    if torch.rand(()) < 0.5:
        big = big.flip(3)
    big = (big - MEAN) / STD
    side = size // 4
    top, left = (int(torch.randint(size - side, ())) for _ in range(2))
    big = big.clone()
    big[len(big) // 2 :, :, top : top + side, left : left + side] = 0
    return big.contiguous(memory_format=torch.channels_last)


def train(module: nn.Module, pictures: Tensor, labels: Tensor, stage: Stage) -> None:
    """One stage: SGD with momentum, the learning rate rising and falling once, in bfloat16 where that is fast."""
    optimizer = torch.optim.SGD(module.parameters(), stage.rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.rate, stage.n_steps)
    module.train()
    started = time.perf_counter()
    for step in range(stage.n_steps):
        chosen = torch.randint(len(labels), (stage.batch,))
        with torch.autocast("cpu", torch.bfloat16):
            logits = module(seen(pictures[chosen], stage.size))
        loss = functional.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        if step % 50 == 49:
            took = time.perf_counter() - started
            print(f"{stage.size} px, step {step + 1}: loss {loss.item():.3f}, {took:.0f} s", flush=True)


def accuracy(module: nn.Module, pictures: Tensor, labels: Tensor, size: int) -> float:
    """Share of the pictures whose class is named."""
    module.eval()
    right = 0
    with torch.inference_mode():
        for some, true in zip(pictures.split(50), labels.split(50), strict=True):
            batch = ((enlarged(some, size) - MEAN) / STD).contiguous(memory_format=torch.channels_last)
            right += int((module(batch).argmax(1) == true).sum())
    return right / len(labels)


def with_mean_and_std(module: nn.Module) -> dict[str, Tensor]:
    """The weights for inputs in 0..1: the first layer divides by STD, its batch norm takes the mean's part out.

    Zero padding is then black instead of the mean; only the first layer's outermost rows and columns see it.
    """
    state = {name: value.clone() for name, value in module.state_dict().items()}
    state["conv1.weight"] /= STD
    state["bn1.running_mean"] += MEAN * state["conv1.weight"].sum((1, 2, 3))
    return state


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the *-ubyte.gz files are")
    parser.add_argument("--into", type=Path, default=Path("data/resnet18"))
    parser.add_argument("--images", type=int, default=20, help="test pictures to write")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    module = torchvision("this script").models.resnet18(weights=None, num_classes=len(CLASSES))
    module = module.to(memory_format=torch.channels_last)
    pictures, labels = read(args.folder, "train")
    test_pictures, test_labels = read(args.folder, "t10k")
    for stage in STAGES:
        train(module, pictures, labels, stage)
        args.into.mkdir(parents=True, exist_ok=True)
        torch.save(with_mean_and_std(module), args.into / "fashion.pt")
    print(
        f"right: {accuracy(module, test_pictures[:500], test_labels[:500], STAGES[-1].size):.1%} of 500 test pictures"
    )
    folder = args.into / "test"
    folder.mkdir(exist_ok=True)
    for number in range(args.images):
        pixels = enlarged(test_pictures[number : number + 1], STAGES[-1].size)[0].permute(1, 2, 0)
        picture = Image.fromarray((pixels * 255).round().to(torch.uint8).numpy())
        picture.save(folder / f"{CLASSES[int(test_labels[number])]}_{number}.png")


if __name__ == "__main__":
    main()
