"""Live modules, factories, torchvision, weights files and pickles; the forward check and the content hash."""

from __future__ import annotations

import collections
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from obeql.errors import ModelError, UnknownNameError
from obeql.executor.models import LoadedModel, adopt, content_hash, load
from obeql.executor.models.zoo.torchvision_zoo import RANDOM_NOTE


class Small(nn.Module):
    def __init__(self, n_classes: int = 3, slope: float = 0.1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = nn.LeakyReLU(slope)
        self.head = nn.Linear(4, n_classes)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.act(self.conv(x)).mean((2, 3)))


def build() -> nn.Module:
    return Small()


def fail() -> nn.Module:
    raise OSError("no disk")


def number() -> int:
    return 3


THIS = "obeql_test_factories"


@pytest.fixture(autouse=True)
def factories(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(THIS)
    module.build, module.fail, module.number, module.value = build, fail, number, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, THIS, module)


def fails(call: Any, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert len(message) < 700


# Live modules


def test_adopt_copies_and_leaves_the_module_alone() -> None:
    module = Small().train()
    model = adopt(module, size=8, classes=["a", "b", "c"])
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert not model.module.training
    assert (model.n_classes, model.classes, model.activation, model.raw_outputs) == (
        3,
        ("a", "b", "c"),
        None,
        None,
    )
    before = model.module(torch.ones(1, 3, 8, 8))
    with torch.no_grad():
        module.head.weight.zero_()
    assert torch.equal(model.module(torch.ones(1, 3, 8, 8)), before)


def test_adopt_unwraps_and_survives_what_cannot_be_copied() -> None:
    module = Small()
    assert isinstance(adopt(nn.DataParallel(module), size=8).module, Small)
    module.lock = (item for item in ())  # type: ignore[assignment]
    module.seen = module.head.weight * 2  # type: ignore[assignment]  not a leaf
    module.act.register_forward_hook(lambda *_: None)
    model = adopt(module.train(), size=8)
    copied = model.module
    assert isinstance(copied, Small) and copied is not module and copied.lock is module.lock
    assert module.training and not copied.training and not copied.act.training
    before = copied(torch.ones(1, 3, 8, 8))
    assert torch.equal(before, module.eval()(torch.ones(1, 3, 8, 8)))
    with torch.no_grad():
        module.head.weight.zero_()
        module.conv.bias.zero_()
    assert torch.equal(copied(torch.ones(1, 3, 8, 8)), before)
    assert copied.seen.any()


class Sharing(Small):
    def __deepcopy__(self, memo: Any) -> Sharing:
        twin = Sharing()
        twin.conv, twin.head = self.conv, self.head
        return twin


def test_a_module_that_copies_itself_badly_shares_no_weights() -> None:
    module = Sharing()
    model = adopt(module, size=8)
    before = model.module(torch.ones(1, 3, 8, 8))
    with torch.no_grad():
        module.head.weight.zero_()
    assert torch.equal(model.module(torch.ones(1, 3, 8, 8)), before)


def test_a_lazy_module_is_told_of() -> None:
    module = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    fails(lambda: adopt(module, size=8), "'0.weight'", "lazy", "Run it once")
    module(torch.zeros(1, 3, 8, 8))
    assert adopt(module, size=8).n_classes == 2


@pytest.mark.parametrize("compile_", [torch.jit.script, lambda m: torch.jit.trace(m, torch.zeros(1, 3, 8, 8))])
def test_live_torchscript(compile_: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = compile_(Small().eval())
    model = adopt(module, size=8)
    assert model.n_classes == 3 and not model.from_code


def test_outputs_option_is_kept() -> None:
    assert adopt(Small(), size=8, outputs="probabilities").raw_outputs == "probabilities"
    assert adopt(Small(), size=8, activation="sigmoid").activation == "sigmoid"
    assert adopt(Small(1), size=8).n_classes == 1
    assert adopt(Small(1), size=8, classes=["no", "yes"]).classes == ("no", "yes")
    assert adopt(Small(), size=8, outputs="value").raw_outputs == "value"
    fails(lambda: adopt(Small(1), size=8, outputs="value", classes=["no", "yes"]), "1 output", "2 class names")
    fails(lambda: adopt(Small(1), size=8, activation="softmax"), "one class", "sigmoid")


class Aux(Small):
    kind: ClassVar[str] = "tuple"

    def forward(self, x: torch.Tensor) -> Any:
        main = super().forward(x)
        named = collections.namedtuple("named", "logits aux")
        return {
            "tuple": (main, main[:, :1]),
            "list": [main],
            "named": named(main, None),
            "dict": {"aux": main[:, :1], "logits": main},
            "first": {"out": main},
            "object": types.SimpleNamespace(logits=main, loss=None),
            "maps": main[:, :, None, None],
            "vector": main[:, 0],
            "none": None,
            "transposed": main.t(),
            "image": x,
            "integers": main.argmax(1, keepdim=True),
            "empty": main[:, :0],
            "nested": ((main, main), 1),
        }[self.kind]


@pytest.mark.parametrize(
    ("kind", "n_classes"),
    [("list", 3), ("named", 3), ("dict", 3), ("first", 3), ("object", 3), ("maps", 3), ("vector", 1)],
)  # fmt: skip
def test_main_output_is_found(kind: str, n_classes: int) -> None:
    module = Aux()
    module.kind = kind  # type: ignore[misc]
    model = adopt(module, size=8)
    assert model.n_classes == n_classes
    assert model.module(torch.zeros(5, 3, 8, 8)).shape == (5, n_classes)


@pytest.mark.parametrize(("kind", "shape"), [("tuple", "1 (N, 1)"), ("nested", "'0.1' (N, 3)")])
def test_several_outputs_that_may_be_the_classes(kind: str, shape: str) -> None:
    module = Aux()
    module.kind = kind  # type: ignore[misc]
    fails(lambda: adopt(module, size=8), "several outputs", shape, "output=")
    assert adopt(module, size=8, output=0).n_classes == 3
    assert adopt(module, size=8, output=1).n_classes == (1 if kind == "tuple" else 3)
    fails(lambda: adopt(module, size=8, output=2), "no output 2", shape)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("none", "NoneType"), ("transposed", "(3, 2)"), ("image", "(2, 3, 8, 8)"), ("integers", "int64"),
     ("empty", "(2, 0)")],
)  # fmt: skip
def test_outputs_that_are_not_classes(kind: str, words: str) -> None:
    module = Aux()
    module.kind = kind  # type: ignore[misc]
    fails(lambda: adopt(module, size=8), words)


def test_bad_live_modules() -> None:
    fails(lambda: adopt(Small()), "size=")
    fails(lambda: adopt(Small(), size=2), "(2, 3, 2, 2)", "Check its input")
    fails(lambda: adopt(Small(), size=8, channels="gray"), "(2, 1, 8, 8)", "channels")
    fails(lambda: adopt(Small(), size=8, classes=["a"]), "3 outputs", "1 class")
    fails(lambda: adopt(Small(), size=8, weights="x.pt"), "weights")
    fails(lambda: adopt(lambda x: x, size=8), "function")  # type: ignore[arg-type]
    with torch.device("meta"):
        fails(lambda: adopt(Small(), size=8), "meta")
    with pytest.raises(UnknownNameError):
        adopt(Small(), sizes=8)


# The content hash


def test_hash_covers_weights_settings_and_structure() -> None:
    torch.manual_seed(0)
    module = Small()
    first = content_hash(module)
    assert first == content_hash(module.train()) == content_hash(module.to(memory_format=torch.channels_last))
    assert first != content_hash(module, b"graph")
    seen = {first}
    with torch.no_grad():
        module.head.bias[0] += 1e-6
    seen.add(content_hash(module))
    module.act.negative_slope = 0.2
    seen.add(content_hash(module))
    module.register_buffer("extra", torch.zeros(3), persistent=False)
    seen.add(content_hash(module))
    module.plain = torch.ones(2)  # type: ignore[assignment]
    seen.add(content_hash(module))
    module.act = nn.ReLU()  # type: ignore[assignment]
    seen.add(content_hash(module))
    seen.add(content_hash(module.to(torch.bfloat16)))
    assert len(seen) == 7


def test_hash_of_odd_tensors() -> None:
    module = nn.Module()
    for name, tensor in {
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(1.0),
        "flags": torch.tensor([True, False]),
        "complex": torch.ones(2, dtype=torch.complex64).conj(),
        "sparse": torch.eye(3).to_sparse(),
        "view": torch.arange(12.0).reshape(3, 4).t(),
        "short": torch.ones(3, dtype=torch.bfloat16),
    }.items():
        module.register_buffer(name, tensor)
    assert content_hash(module) == content_hash(module)


def test_hash_is_the_same_in_another_process() -> None:
    code = (
        "import torch; from torch import nn; from obeql.executor.models import content_hash; torch.manual_seed(1);"
        "print(content_hash(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Linear(2, 2))))"
    )
    torch.manual_seed(1)
    here = content_hash(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Linear(2, 2)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here


# Factories


def test_factory_is_the_same_every_time() -> None:
    first, again = (load(f"python:{THIS}:build", {"size": 8}) for _ in range(2))
    assert first.content_hash() == again.content_hash()
    assert load(f"PYTHON:{THIS}:build", {"size": 8}).n_classes == 3


def test_bad_factories() -> None:
    def case(target: str, *words: str) -> None:
        fails(lambda: load(f"python:{target}", {"size": 8}), *words)

    case("build", "python:package.module:factory")
    case("a b:c", "python:package.module:factory")
    case("no_such_module_x:build", "no_such_module_x", "PYTHONPATH")
    case(f"{THIS}:biuld", "Did you mean 'build'")
    case(f"{THIS}:fail", "OSError: no disk")
    case(f"{THIS}:number", "returned a int")
    case(f"{THIS}:value", "is a int")


# Weights files


def weights(path: Path, **changes: Any) -> str:
    state: dict[str, Any] = dict(Small().state_dict())
    for key, value in changes.items():
        state[key.replace("__", ".")] = value
    state = {key: value for key, value in state.items() if value is not None}
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, str(path))
    else:
        torch.save(state, path)
    return str(path)


def with_weights(path: str, **options: Any) -> LoadedModel:
    return load(f"python:{THIS}:build", {"size": 8, "weights": path, **options})


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
def test_weights_are_loaded(name: str, tmp_path: Path) -> None:
    bias = torch.tensor([1.0, 2.0, 3.0])
    model = with_weights(weights(tmp_path / name, head__bias=bias))
    assert torch.equal(model.module.head.bias, bias)


def test_wrapped_weights_are_unwrapped(tmp_path: Path) -> None:
    state = Small().state_dict()
    for name, content in {
        "nested": {"state_dict": state, "epoch": 3},
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "both": {"model": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
    }.items():
        torch.save(content, tmp_path / f"{name}.pt")
        assert torch.equal(with_weights(str(tmp_path / f"{name}.pt")).module.conv.weight, state["conv.weight"])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_that_do_not_fit(suffix: str, tmp_path: Path) -> None:
    def case(changes: dict[str, Any], *words: str) -> None:
        fails(lambda: with_weights(weights(tmp_path / f"w{suffix}", **changes)), *words)

    case({"head__bias": None}, "lacks 'head.bias'")
    case({"heads__bias": torch.zeros(3)}, "'heads.bias', which the network does not")
    case({"head__bias": None, "heads__bias": torch.zeros(3)}, "Did you mean 'heads.bias'")
    case({"head__bias": torch.zeros(4)}, "'head.bias' is (4,) in the file and (3,) in the network")


def test_damaged_weights(tmp_path: Path) -> None:
    for suffix in (".pt", ".safetensors"):
        whole = Path(weights(tmp_path / f"w{suffix}")).read_bytes()
        for name, data in {"empty": b"", "garbage": b"\x00hello" * 99, "cut": whole[: len(whole) // 2]}.items():
            path = tmp_path / f"{name}{suffix}"
            path.write_bytes(data)
            fails(lambda path=path: with_weights(str(path)), path.name)
    torch.save([1, 2], tmp_path / "list.pt")
    fails(lambda: with_weights(str(tmp_path / "list.pt")), "no named tensors")
    fails(lambda: with_weights(str(tmp_path / "w.pth")), "Did you mean 'w.pt'")
    fails(lambda: with_weights(str(tmp_path)), "folder")


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl"])
def test_pickles_are_refused_and_never_run(suffix: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / f"m{suffix}"
    torch.save({"state_dict": Trap(mark)}, path)
    fails(lambda: load(str(path), {"size": 8}), "trust=true")
    fails(lambda: with_weights(str(path)), "trust=true")
    assert not mark.exists()


def test_whole_modules_need_trust(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten()), path)
    fails(lambda: load(str(path), {"size": 8}), "trust=true")
    assert load(str(path), {"size": 8, "trust": True}).n_classes == 2
    fails(lambda: load(str(path), {"size": 8, "trust": True, "weights": "x"}), "weights")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.jit.trace(Small().eval(), torch.zeros(1, 3, 8, 8)).save(str(path))
    fails(lambda: load(str(path), {"size": 8}), "TorchScript", "trust=true")
    model = load(str(path), {"size": 8, "trust": True})
    assert model.n_classes == 3
    assert model.content_hash() == load(str(path), {"size": 8, "trust": True}).content_hash()


def test_weights_without_a_network(tmp_path: Path) -> None:
    for name in ("w.pt", "w.safetensors"):
        fails(lambda name=name: load(weights(tmp_path / name), {"size": 8}), "without a network", "torchvision:")


def test_safetensors_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weights(tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    fails(lambda: with_weights(path), ".[safetensors]")


# torchvision and timm


def test_torchvision_random_weights_are_seeded() -> None:
    state = torch.random.get_rng_state()
    first = load("torchvision:squeezenet1_1", {"size": 64})
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.notes == (RANDOM_NOTE,)
    assert (first.n_classes, first.classes) == (1000, ())
    assert first.preprocessing.resize == "shortest"
    assert (first.preprocessing.edge, first.preprocessing.interpolation) == (73, "bilinear")
    assert first.preprocessing.mean == (0.485, 0.456, 0.406)
    assert first.content_hash() == load("torchvision:SqueezeNet1_1", {"size": 64, "weights": "random"}).content_hash()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("googlenet", 64),
        pytest.param("inception_v3", 299, marks=pytest.mark.slow),
        pytest.param("vit_b_32", 224, marks=pytest.mark.slow),
    ],
)
def test_torchvision_oddities(name: str, size: int) -> None:
    model = load(f"torchvision:{name}", {"classes": ["a", "b"], "size": size} if name == "googlenet" else {})
    assert model.preprocessing.size == (size, size)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        outputs = model.module(images)
    assert outputs.shape == (2, 2 if name == "googlenet" else 1000)
    assert float((outputs[0] - outputs[1]).abs().max()) > 1e-3


def test_torchvision_weights_file_sets_the_head(tmp_path: Path) -> None:
    from obeql.executor.models.zoo.import_torchvision import torchvision

    module = torchvision("test").models.squeezenet1_1(num_classes=4)
    torch.save(module.state_dict(), tmp_path / "w.pt")
    model = load("torchvision:squeezenet1_1", {"size": 64, "weights": str(tmp_path / "w.pt")})
    assert model.n_classes == 4
    assert model.notes == ()
    published = tmp_path / "squeezenet1_1-b8a52dc0.pth"
    torch.save(torchvision("test").models.squeezenet1_1().state_dict(), published)
    known = load("torchvision:squeezenet1_1", {"size": 64, "weights": str(published)})
    assert (known.n_classes, known.classes[0]) == (1000, "tench")
    fails(lambda: load("torchvision:alexnet", {"weights": str(tmp_path / "w.pt")}), "does not fit", "more")


def test_torchvision_downloads_fail_clearly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("unreachable")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    fails(lambda: load("torchvision:resnet18", {"weights": "DEFAULT"}), "unreachable", "resnet18-f37072fd.pth")
    fails(lambda: load("torchvision:resnet18", {"weights": "ResNet18_Weights.IMAGENET1K_V1"}), "unreachable")
    fails(lambda: load("torchvision:resnet18", {"weights": "IMAGENET1K_V3"}), "Did you mean 'IMAGENET1K_V1'")
    fails(lambda: load("torchvision:resnet18", {"weights": "DEFAUL"}), "Did you mean 'DEFAULT'")
    fails(lambda: load("torchvision:resnet19"), "Did you mean 'resnet18'")
    fails(lambda: load("torchvision:fasterrcnn_resnet50_fpn"), "no classifier")


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    fails(lambda: load("timm:resnet50"), ".[timm]")
    (tmp_path / "m.onnx").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "onnx", None)
    fails(lambda: load(str(tmp_path / "m.onnx")), ".[onnx]")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    fails(lambda: load("torchvision:resnet18"), ".[vision]")
    fails(lambda: load(f"python:{THIS}:build", {"size": 8, "classes": "imagenet"}), ".[vision]")


# URIs


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", "allowed are"),
        ("torchvision:", "names nothing"),
        ("torchvison:resnet18", "Did you mean 'torchvision'"),
        ("https://example.com/m.onnx", "cannot be loaded from"),
        ("mlflow:org/name", "allowed are"),
        ("resnet18", "'torchvision:resnet18'"),
        ("model.h5", "allowed are"),
        ("nowhere/m.onnx", "folder does not exist"),
        ("C:\\models\\m.onnx", "no model file"),
        ("a\0b.onnx", "model file"),
    ],
)
def test_uris_that_name_no_model(uri: str, words: str) -> None:
    fails(lambda: load(uri), words)


# Files that are not what they are called, networks without a head, one channel


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors", "w.onnx", "w.pt2"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        ("/annex/objects/SHA256E-s12--abc.pt\n", "git annex get"),
        ("<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
    ],
)
def test_a_file_that_stands_for_another(name: str, content: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    fails(lambda: load(str(path), {"size": 8}), repr(str(path)), word)
    fails(lambda: load("torchvision:squeezenet1_1", {"weights": str(path)}), repr(str(path)), word)


def timm_package() -> Any:
    from obeql.executor.models.zoo.import_torchvision import torchvision

    torchvision("test")
    return pytest.importorskip("timm")


def test_networks_without_a_head() -> None:
    timm = timm_package()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = timm.create_model("test_resnet", num_classes=0)
    fails(lambda: adopt(module, size=64), "no classifier", "num_classes=0", "features")


def test_names_and_tags_of_timm() -> None:
    timm_package()
    fails(lambda: load("timm:resnet18.a1_in2k"), "no weights 'a1_in2k' of resnet18", "tv_in1k", "mean 'a1_in1k'")
    fails(lambda: load("timm:timm/no_such_net"), "timm has no model 'no_such_net'")
    for name in ("test_resnet.r160_in1k", "timm/test_resnet.r160_in1k", "hf_hub:timm/test_resnet"):
        assert load(f"timm:{name}", {"size": 64, "classes": ["a", "b"]}).n_classes == 2


def test_timm_with_one_channel(tmp_path: Path) -> None:
    timm = timm_package()
    model = load("timm:test_resnet", {"channels": "gray", "size": 64, "classes": ["a", "b"]})
    assert model.preprocessing.channels == "gray" and model.n_classes == 2
    assert len(model.preprocessing.mean) == len(model.preprocessing.std) == 1
    assert model.module(torch.zeros(2, 1, 64, 64)).shape == (2, 2)
    torch.save(timm.create_model("test_resnet", in_chans=1, num_classes=3).state_dict(), tmp_path / "w.pt")
    file = load("timm:test_resnet", {"weights": str(tmp_path / "w.pt"), "size": 64})
    assert file.preprocessing.channels == "gray" and file.n_classes == 3
    said = load("timm:test_resnet", {"channels": "gray", "mean": 0.5, "std": 0.2, "size": 64})
    assert (said.preprocessing.mean, said.preprocessing.std) == ((0.5,), (0.2,))
    fails(lambda: load("torchvision:squeezenet1_1", {"channels": "gray"}), "three channels", "leave channels=gray out")


def test_torchvision_weights_as_enums(monkeypatch: pytest.MonkeyPatch) -> None:
    from obeql.executor.models.zoo.import_torchvision import torchvision

    models = torchvision("test").models
    asked: list[Any] = []

    def get_model(name: str, weights: Any = None, **settings: Any) -> nn.Module:
        asked.append(weights)
        module: nn.Module = models.squeezenet1_1()
        return module

    monkeypatch.setattr(models, "get_model", get_model)
    kind = models.SqueezeNet1_1_Weights
    for said in (kind.DEFAULT, kind.IMAGENET1K_V1, "SqueezeNet1_1_Weights.IMAGENET1K_V1", "imagenet1k_v1"):
        assert load("torchvision:squeezenet1_1", {"weights": said, "size": 64}).classes[0] == "tench"
    assert asked == [kind.IMAGENET1K_V1] * 4
    other = models.ResNet18_Weights.DEFAULT
    fails(lambda: load("torchvision:squeezenet1_1", {"weights": other}), "another network's", "SqueezeNet1_1_Weights")
    fails(lambda: load("torchvision:squeezenet1_1", {"weights": "resnet18_weights.DEFAULT"}), "another network's")
    fails(lambda: load("torchvision:SqueezeNet1_1_Weights.DEFAULT"), "FROM 'torchvision:squeezenet1_1' WITH weights=")


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 96)])
def test_fine_tuned_weights_of_a_network_that_rescales_its_input(name: str, size: int, tmp_path: Path) -> None:
    from obeql.executor.models.zoo.import_torchvision import torchvision

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torchvision("test").models.get_model(
            name, weights=None, num_classes=4, aux_logits=False, init_weights=False, transform_input=True
        )
    torch.save(module.state_dict(), tmp_path / "mine.pt")
    model = load(f"torchvision:{name}", {"weights": str(tmp_path / "mine.pt"), "size": size})
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(model.module(images), module.eval()(images))
    assert "transform_input" in model.notes[0]


def test_tracing_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    from obeql.executor.network.capture.capture import capture

    class Dependent(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.head((y * 2 if y.mean() > 0 else y).mean((2, 3)))

    assert capture(Dependent().eval(), (3, 8, 8)).reason
    assert capfd.readouterr() == ("", "")


# torchxrayvision


class ChestNet(nn.Module):
    """What torchxrayvision's DenseNet is from outside: one channel, findings, calibrated where thresholds are known."""

    def __init__(self, calibrated: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 7, stride=16)
        self.pathologies = ["Atelectasis", "", "Effusion"]
        self.weights = "densenet121-res224-all"
        self.register_buffer("op_threshs", torch.tensor([0.2, 0.5, 0.3]) if calibrated else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.abs().max() <= 1024
        out = torch.sigmoid(self.conv(x / 1024).mean((2, 3)))
        return out if self.op_threshs is None else torch.where(
            out < self.op_threshs, out / self.op_threshs / 2, 1 - (1 - out) / (1 - self.op_threshs) / 2
        )  # fmt: skip


@pytest.mark.parametrize("calibrated", [True, False])
def test_networks_of_torchxrayvision_are_told_by_their_attributes(calibrated: bool) -> None:
    import numpy as np

    import obeql

    network = ChestNet(calibrated).eval()
    model = adopt(network)
    how = model.preprocessing
    assert (how.size, how.channels, how.resize, how.mean, how.std) == (
        (224, 224), "gray", "shortest", (0.5,), (1 / 2048,),
    )  # fmt: skip
    assert model.classes == ("Atelectasis", "output 1", "Effusion") and model.activation == "sigmoid"
    assert any("torchxrayvision" in note for note in model.notes)
    assert adopt(network, size=32, mean=0, std=1).preprocessing.std == (1.0,)
    picture = np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy((2 * (picture / np.float32(255)) - 1) * 1024)[None, None])[0]
    with obeql.connect() as db:
        db.create_model("chest", network)
        heats = db.explain(picture, "chest", patch=112, stride=112, classes=["Effusion", "Atelectasis"])
        assert [heat.clean_score for heat in heats] == pytest.approx([float(expected[2]), float(expected[0])], abs=1e-4)


def test_pathologies_alone_say_nothing_of_the_input() -> None:
    network = Small()
    network.pathologies = ["a", "b", "c"]  # type: ignore[assignment]
    model = adopt(network, size=8)
    assert (model.preprocessing.channels, model.classes, model.notes) == ("rgb", (), ())
