"""Maps of networks whose outputs are not plain logits, compared with a loop over the network's own outputs."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import obeql
from obeql.errors import ImageError, ModelError, QueryTypeError, UnknownNameError

SIZE, PATCH, STRIDE = 24, 8, 4
GRID = [(top, left) for top in range(0, SIZE - PATCH + 1, STRIDE) for left in range(0, SIZE - PATCH + 1, STRIDE)]


class Net(nn.Module):
    """A small network whose last numbers z (N, K) go through `end`."""

    def __init__(self, end: Callable[[Tensor], Any], n_outputs: int = 3, scale: float = 3.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(600, n_outputs)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2, generator=generator)
        self.end, self.scale = end, scale

    def forward(self, x: Tensor) -> Any:
        return self.end(self.head(self.body(x)) * self.scale / 10)


def _complement(z: Tensor) -> Tensor:
    p = z.sigmoid()
    return torch.cat((1 - p, p), dim=1)


ENDS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "softmax": (lambda z: z.softmax(1), 3),
    "clamped": (lambda z: z.softmax(1).clamp(1e-7, 1), 3),
    "plus a little": (lambda z: z.softmax(1) + 1e-8, 3),
    "times one": (lambda z: z.softmax(1) * 1.0, 3),
    "complement": (_complement, 1),
    "two heads": (lambda z: (z.softmax(1) + (z / 2).softmax(1)) / 2, 3),
    "one sigmoid": (lambda z: z.sigmoid(), 1),
    "one sigmoid, scaled": (lambda z: z.sigmoid() * 1.0, 1),
    "sigmoids": (lambda z: z.sigmoid() * 1.0, 3),
    "squeezed sigmoid": (lambda z: z.sigmoid().squeeze(), 1),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _picture(seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def _by_hand(network: nn.Module, picture: Any, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """What the network returns for the picture, (K,), and with each window black, (windows, K), one by one."""
    x = torch.from_numpy(picture.astype(np.float32) / 255).permute(2, 0, 1)[None].to(dtype)
    with torch.inference_mode():
        rows = [network(x).reshape(1, -1)]
        for top, left in GRID:
            hidden = x.clone()
            hidden[:, :, top : top + PATCH, left : left + PATCH] = 0
            rows.append(network(hidden).reshape(1, -1))
    found = torch.cat(rows).double().numpy()
    return found[0], found[1:]


def _two_classes(rows: Any) -> Any:
    return np.concatenate([1 - rows, rows], axis=-1) if rows.shape[-1] == 1 else rows


@pytest.mark.parametrize("name", ENDS)
def test_maps_are_those_of_the_networks_own_probabilities(name: str) -> None:
    end, n_outputs = ENDS[name]
    network = Net(end, n_outputs).eval()
    clean, hidden = map(_two_classes, _by_hand(network, _picture()))
    with obeql.connect() as db:
        db.create_model("net", network, size=(SIZE, SIZE))
        result = db.explain(_picture(), "net", patch=PATCH, stride=STRIDE, fill="black", classes="all")
        assert [heat.class_id for heat in result] == list(range(len(clean)))
        for k, heat in enumerate(result):
            assert heat.clean_score == pytest.approx(clean[k], abs=3e-7)
            np.testing.assert_allclose(heat.scores.ravel(), hidden[:, k], rtol=0, atol=3e-7)
            np.testing.assert_allclose(heat.importance.ravel(), clean[k] - hidden[:, k], rtol=0, atol=5e-7)
            np.testing.assert_array_equal(heat.top_class.ravel(), hidden.argmax(axis=1))
        top = db.execute("PREDICT ? USING net", [_picture()]).fetchall()
        assert [row[3] for row in top] == np.argsort(-clean, kind="stable").tolist()
        np.testing.assert_allclose([row[5] for row in top], np.sort(clean)[::-1], rtol=0, atol=3e-7)


@pytest.mark.parametrize("said", [{}, {"output": "logits"}, {"classes": ["a", "b", "c"]}])
def test_logits_by_name_have_the_probabilities_that_lie_beside_them(said: dict[str, Any]) -> None:
    network = Net(lambda z: {"logits": z, "probs": z.sigmoid()}).eval()
    x = torch.from_numpy(_picture().astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.inference_mode():
        wanted = network(x)["probs"][0].tolist()
    with obeql.connect() as db:
        db.create_model("net", network, size=(SIZE, SIZE), **said)
        result = db.explain(_picture(), "net", patch=PATCH, stride=PATCH, classes="all")
        assert [heat.clean_score for heat in result] == pytest.approx(wanted, abs=3e-7)


@pytest.mark.parametrize("name", ["times one", "one sigmoid, scaled", "complement"])
def test_in_bfloat16_too(name: str) -> None:
    end, n_outputs = ENDS[name]
    network = Net(end, n_outputs).eval()
    clean, hidden = map(_two_classes, _by_hand(network, _picture()))
    with obeql.connect() as db:
        db.create_model("net", network, size=(SIZE, SIZE))
        options = {"patch": PATCH, "stride": STRIDE, "fill": "black", "precision": "bfloat16"}
        for k, heat in enumerate(db.explain(_picture(), "net", classes="all", **options)):
            np.testing.assert_allclose(heat.scores.ravel(), hidden[:, k], rtol=0, atol=0.03)
            assert heat.clean_score == pytest.approx(clean[k], abs=0.03)


def test_saturated_probabilities_are_clamped() -> None:
    network = Net(lambda z: (z * 1e4).softmax(1) * 1.0).eval()
    clean, hidden = _by_hand(network, _picture())
    assert set(np.unique(hidden)) == {0.0, 1.0}
    with obeql.connect() as db:
        db.create_model("net", network, size=(SIZE, SIZE))
        for k, heat in enumerate(
            db.explain(_picture(), "net", patch=PATCH, stride=STRIDE, fill="black", classes="all")
        ):
            np.testing.assert_allclose(heat.scores.ravel(), hidden[:, k], rtol=0, atol=1e-7)
            assert heat.clean_score == pytest.approx(clean[k], abs=1e-7)
            assert np.isfinite(heat.as_score("log_odds").scores).all()


class Gated(nn.Module):
    """Probabilities for dark images, as those it is tried on, and anything for bright ones."""

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3))
        return torch.where(x.mean() > 0.9, means * 2, means.softmax(1))


def test_every_clean_pass_is_looked_at() -> None:
    bright = np.full((SIZE, SIZE, 3), 255, np.uint8)
    with obeql.connect() as db:
        db.create_model("net", Gated(), size=(SIZE, SIZE), outputs="probabilities")
        db.create_model("logits", Gated(), size=(SIZE, SIZE), outputs="logits")
        for statement in ("EXPLAIN OCCLUDE ? USING net WITH patch=8", "PREDICT ? USING net"):
            with pytest.raises(ImageError, match=r"output 0 for the image itself is 2, but .* outputs=logits"):
                db.execute(statement, [bright])
        assert len(db.explain(bright, "logits", patch=8)) == 1


class Late(nn.Module):
    """Numbers that are none for noise, so that it cannot be seen what they are, and probabilities for plain images."""

    def forward(self, x: Tensor) -> Tensor:
        p = x.mean(dim=(2, 3)).softmax(1) * 1.0
        plain = x.std(dim=(1, 2, 3), keepdim=True).flatten(1) < 0.1
        return torch.where(plain, p, p * 3 - 1)


def test_logits_that_turn_out_to_be_probabilities_are_refused() -> None:
    gray = np.full((SIZE, SIZE, 3), 128, np.uint8)
    with obeql.connect() as db:
        db.create_model("net", Late(), size=(SIZE, SIZE))
        for statement in ("EXPLAIN OCCLUDE ? USING net WITH patch=8", "PREDICT ? USING net"):
            with pytest.raises(ImageError, match="sum to 1, so they are probabilities, but were taken for logits"):
                db.execute(statement, [gray])
        db.create_model("net", Late(), size=(SIZE, SIZE), outputs="logits", replace=True)
        assert len(db.explain(gray, "net", patch=8)) == 1


# ---- one yes or no ------------------------------------------------------------------------------------------


@pytest.fixture
def yes_no(tmp_path: Path) -> Any:
    with obeql.connect(str(tmp_path / "yes_no.duckdb")) as db:
        db.create_model("net", Net(lambda z: z, 1).eval(), size=(SIZE, SIZE))
        db.create_model("named", Net(lambda z: z, 1).eval(), size=(SIZE, SIZE), classes=["healthy", "tumour"])
        db.create_model("short", Net(lambda z: z, 1).eval(), size=(SIZE, SIZE), classes=["tumour"])
        yield db


def test_one_output_is_two_classes_everywhere(yes_no: Any) -> None:
    db, options = yes_no, {"patch": PATCH, "stride": STRIDE, "fill": "black"}
    clean, hidden = _by_hand(Net(lambda z: z, 1).eval(), _picture())
    says = int(clean[0] > 0)
    no, yes = db.explain(_picture(), "net", classes="all", **options)
    assert [(heat.class_id, heat.class_name) for heat in (no, yes)] == [(0, "no"), (1, "yes")]
    for kind in ("probability", "log_odds", "logit"):
        np.testing.assert_array_equal(no.as_score(kind).importance, -yes.as_score(kind).importance)
    np.testing.assert_allclose(yes.as_score("logit").scores.ravel(), hidden[:, 0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(yes.top_class.ravel(), (hidden[:, 0] > 0).astype(int))
    (predicted,) = db.explain(_picture(), "net", **options)
    assert predicted.class_id == says == predicted.cells.clean_top_class
    assert [heat.class_id for heat in db.explain(_picture(), "net", top=2, **options)] == [says, 1 - says]
    assert [heat.class_id for heat in db.explain(_picture(), "net", classes=["yes", 0, "1"], **options)] == [1, 0]
    rows = db.execute("PREDICT ? USING named", [_picture()]).fetchall()
    assert [row[3:5] for row in rows] == [
        (says, ("healthy", "tumour")[says]),
        (1 - says, ("healthy", "tumour")[1 - says]),
    ]
    assert rows[0][5] + rows[1][5] == pytest.approx(1)
    with pytest.raises(QueryTypeError, match="classes 0 to 1"):
        db.explain(_picture(), "net", classes=2, **options)
    with pytest.raises(UnknownNameError, match="Its classes are not tumour, tumour"):
        db.explain(_picture(), "short", classes="glioma", **options)


def test_tables_name_the_class_that_the_model_names(yes_no: Any) -> None:
    db = yes_no
    _, hidden = _by_hand(Net(lambda z: z, 1).eval(), _picture())
    db.execute("EXPLAIN OCCLUDE ? USING short FOR ALL WITH patch=8 stride=4 fill=black INTO both", [_picture()])
    flips = db.execute(
        "SELECT class_id, class_name, list(top_class ORDER BY row, col) FROM cells GROUP BY ALL ORDER BY 1"
    )
    top = (hidden[:, 0] > 0).astype(int).tolist()
    assert flips.fetchall() == [(0, "not tumour", top), (1, "tumour", top)]
    assert db.execute("SELECT n_classes, classes FROM models WHERE name = 'short'").fetchall() == [
        (2, ["not tumour", "tumour"])
    ]


@pytest.mark.parametrize("labels", [("0", "1"), ("no", "yes"), ("False", "True")])
@pytest.mark.parametrize("model", ["net", "named"])
def test_labels_of_both_classes(yes_no: Any, tmp_path: Path, labels: tuple[str, str], model: str) -> None:
    from PIL import Image

    for place in (0, 1):
        Image.fromarray(_picture(place)).save(tmp_path / f"{place}.png")
    paths = f"(VALUES ('{tmp_path}/0.png', '{labels[0]}'), ('{tmp_path}/1.png', '{labels[1]}')) AS t(path, label)"
    statement = f"EXPLAIN OCCLUDE (SELECT path, label FROM {paths}) USING {model} FOR LABEL WITH patch=8"
    assert [heat.class_id for heat in yes_no.execute(statement)] == [0, 1]


# ---- values -------------------------------------------------------------------------------------------------


@pytest.fixture
def ages(tmp_path: Path) -> Any:
    with obeql.connect(str(tmp_path / "ages.duckdb")) as db:
        db.create_model(
            "age", Net(lambda z: z * 10 + 40, 1).eval(), size=(SIZE, SIZE), outputs="value", classes=["years"]
        )
        yield db


def test_values_are_scored_in_their_own_unit(ages: Any, tmp_path: Path) -> None:
    clean, hidden = _by_hand(Net(lambda z: z * 10 + 40, 1).eval(), _picture())
    ages.execute("EXPLAIN OCCLUDE ? USING age WITH patch=8 stride=4 fill=black INTO first", [_picture()])
    (heat,) = ages.run("first")
    assert (heat.score_kind, heat.class_name) == ("value", "years")
    np.testing.assert_allclose(heat.scores.ravel(), hidden[:, 0], rtol=1e-6)
    np.testing.assert_allclose(heat.importance.ravel(), clean[0] - hidden[:, 0], rtol=0, atol=1e-5)
    rows = ages.execute(
        "SELECT score, importance, probability, log_odds, top_class FROM cells ORDER BY row, col"
    ).fetchall()
    np.testing.assert_allclose([row[0] for row in rows], hidden[:, 0], rtol=1e-6)
    np.testing.assert_allclose([row[1] for row in rows], clean[0] - hidden[:, 0], rtol=0, atol=1e-5)
    assert {row[2:] for row in rows} == {(None, None, None)}
    table = ages.execute("PREDICT ? USING age", [_picture()])
    assert table.columns == ["image", "label", "output", "value"]
    assert table.fetchall()[0][2:] == ("years", pytest.approx(clean[0], rel=1e-6))
    said = "\n".join(
        str(each)
        for each in (
            ages.run("first"), ages.run("first").table(3), heat, heat.warning,
            ages.execute("PLAN EXPLAIN OCCLUDE ? USING age WITH patch=8", [_picture()]),
            ages.execute("DESCRIBE MODEL age"), table, ages.execute("EVALUATE first"),
        )
    )  # fmt: skip
    assert "probab" not in said and "odds" not in said


def test_pictures_of_values_speak_of_no_class(ages: Any) -> None:
    from rich.console import Console

    from obeql.drawing.legend import ends_text, scale_text
    from obeql.drawing.scale_bar import bar_label
    from obeql.drawing.terminal import Canvas, draw_heatmap
    from obeql.export.report.report import report_text

    (heat,) = ages.execute("EXPLAIN OCCLUDE ? USING age WITH patch=8", [_picture()])
    assert bar_label(heat) == ("\u2190 lowers it", "drop in value when hidden (in its own unit)", "raises it \u2192")
    assert bar_label(heat, "absolute")[2] == "raises or lowers it \u2192"
    for canvas in (Canvas(100, color=True, blocks=True), Canvas(100, color=False, blocks=False)):
        console = Console(width=100, record=True, file=StringIO())
        console.print(draw_heatmap(heat, canvas))
        text = console.export_text()
        assert "raises it" in text and "lowers it" in text and "against" not in text and "for the class" not in text
    page = report_text(ages.execute("EXPLAIN OCCLUDE ? USING age WITH patch=8", [_picture()]))
    assert '["lowers it", "raises it"]' in page and '"against"' not in page
    assert ends_text("all", "probability") == ("against", "for")
    assert scale_text("log_odds") == "drop in log-odds when hidden (nats)"


def test_values_are_refused_what_is_of_classes(ages: Any) -> None:
    for clause in ("FOR PREDICTED", "FOR TOP 1", "FOR LABEL"):
        with pytest.raises(QueryTypeError, match=r"returns values \(outputs=value\), not classes .*'years'"):
            ages.execute(f"EXPLAIN OCCLUDE ? USING age {clause}", [_picture()])
    with pytest.raises(QueryTypeError, match="score=probability is for classifiers"):
        ages.execute("EXPLAIN OCCLUDE ? USING age WITH score=probability", [_picture()])
    (heat,) = ages.execute("EXPLAIN OCCLUDE ? USING age FOR CLASS 'years' WITH patch=8", [_picture()])
    with pytest.raises(QueryTypeError, match="its only score is value"):
        heat.as_score("log_odds")
    ages.create_model("net", Net(lambda z: z).eval(), size=(SIZE, SIZE))
    with pytest.raises(QueryTypeError, match="'net' is a classifier: score=logit"):
        ages.execute("EXPLAIN OCCLUDE ? USING net WITH score=value", [_picture()])


def test_several_values(ages: Any) -> None:
    network = Net(lambda z: z.sigmoid() * 90, 3).eval()
    ages.create_model("several", network, size=(SIZE, SIZE), outputs="value")
    clean, hidden = _by_hand(network, _picture())
    heats = ages.execute("EXPLAIN OCCLUDE ? USING several WITH patch=8 stride=4 fill=black", [_picture()])
    assert [heat.class_id for heat in heats] == [0, 1, 2]
    for k, heat in enumerate(heats):
        assert heat.clean_score == pytest.approx(clean[k], rel=1e-6)
        np.testing.assert_allclose(heat.scores.ravel(), hidden[:, k], rtol=2e-6)
    (approx,) = ages.execute(
        "EXPLAIN OCCLUDE ? USING several FOR CLASS 1 WITH patch=8 stride=1 APPROX 0.5", [_picture()]
    )
    (exact,) = ages.execute("EXPLAIN OCCLUDE ? USING several FOR CLASS 1 WITH patch=8 stride=1 NO REUSE", [_picture()])
    assert np.abs(approx.scores - exact.scores).max() <= 0.5 * np.ptp(exact.scores) + 1e-4


# ---- several outputs ----------------------------------------------------------------------------------------


def test_the_output_is_chosen_and_shown() -> None:
    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        return z.repeat(1, 4), z

    _, hidden = _by_hand(Net(lambda z: z.softmax(1)).eval(), _picture())
    with obeql.connect() as db:
        with pytest.raises(ModelError, match=r"several outputs that may be its classes: 0 \(N, 12\), 1 \(N, 3\)"):
            db.create_model("net", Net(both).eval(), size=(SIZE, SIZE))
        db.create_model("net", Net(both).eval(), size=(SIZE, SIZE), output=1)
        db.create_model("named", Net(both).eval(), size=(SIZE, SIZE), classes=["a", "b", "c"])
        for name in ("net", "named"):
            (heat,) = db.explain(_picture(), name, patch=PATCH, stride=STRIDE, fill="black", classes=[2])
            np.testing.assert_allclose(heat.scores.ravel(), hidden[:, 2], rtol=0, atol=3e-7)
            rows = db.execute(f"DESCRIBE MODEL {name}").fetchall()
            assert [row[1:] for row in rows if row[0] is None] == [
                ("output", "0", None, "12", None, "not read"), ("output", "1", None, "3", None, "3 classes"),
            ]  # fmt: skip
        hashes = {
            db.create_model(f"m{n}", Net(lambda z: z.softmax(1) * 1.0).eval(), size=(SIZE, SIZE), **said).model_hash
            for n, said in enumerate(({"outputs": "logits"}, {"outputs": "value"}, {"activation": "sigmoid"}, {}))
        }
        assert len(hashes) == 4
        other = db.create_model("other", Net(both).eval(), size=(SIZE, SIZE), output=0)
        assert other.model_hash != db.create_model("net", Net(both).eval(), size=(SIZE, SIZE), output=1).model_hash


def test_logits_of_a_million_agree_with_predict() -> None:
    network = Net(lambda z: z * 3 + 4e6).eval()
    with obeql.connect() as db:
        db.create_model("net", network, size=(SIZE, SIZE))
        rows = db.execute("PREDICT ? USING net", [_picture()]).fetchall()
        heats = db.explain(_picture(), "net", patch=PATCH, stride=STRIDE, fill="black", classes="all")
        for row in rows:
            assert heats[row[3]].clean_score == pytest.approx(row[5], abs=1e-6)
        x = torch.from_numpy(_picture().astype(np.float32) / 255).permute(2, 0, 1)[None]
        for k, heat in enumerate(heats):
            for n, (top, left) in enumerate(GRID[:5]):
                hidden = x.clone()
                hidden[:, :, top : top + PATCH, left : left + PATCH] = 0
                with torch.inference_mode():
                    expected = float(network(hidden).double().softmax(1)[0, k])
                assert heat.scores.ravel()[n] == pytest.approx(expected, abs=0.2)  # float32 holds steps of 0.25
        total = sum(heat.scores.astype(float) for heat in heats)
        np.testing.assert_allclose(total, 1, atol=1e-6)
        db.execute("EXPLAIN OCCLUDE ? USING net FOR ALL WITH patch=8 stride=4 fill=black INTO big", [_picture()])
        for kept, heat in zip(db.run("big"), heats, strict=True):
            np.testing.assert_array_equal(kept.scores, heat.scores)
            big = f"FROM heatmaps WHERE run_name = 'big' AND class_id = {heat.class_id}"
            (row,) = db.execute(f"SELECT clean_probability, flatten(scores) {big}").fetchall()
            assert row[0] == pytest.approx(heat.clean_score, abs=1e-7)
            np.testing.assert_allclose(row[1], heat.scores.ravel(), rtol=0, atol=1e-7)


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.slow
def test_workers_read_outputs_alike(tmp_path: Path) -> None:
    from PIL import Image

    for seed in range(3):
        Image.fromarray(_picture(seed)).save(tmp_path / f"{seed}.png")
    ends = {"yes": Net(_sigmoid, 1), "age": Net(_age, 1)}
    with obeql.connect(str(tmp_path / "w.duckdb")) as db:
        for name, network in ends.items():
            said = {"outputs": "value"} if name == "age" else {}
            db.create_model(name, network.eval(), size=(SIZE, SIZE), **said)
            options = {"patch": PATCH, "stride": STRIDE, "fill": "black", "classes": "all"}
            alone = db.explain(f"{tmp_path}/*.png", name, **options)
            shared = db.explain(f"{tmp_path}/*.png", name, workers=2, reuse=False, **options)
            for one, other in zip(alone, shared, strict=True):
                assert (one.class_id, one.class_name, one.score_kind) == (
                    other.class_id,
                    other.class_name,
                    other.score_kind,
                )
                np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6, atol=1e-6)
                np.testing.assert_array_equal(one.top_class, other.top_class)


def _sigmoid(z: Tensor) -> Tensor:
    return z.sigmoid() * 1.0


def _age(z: Tensor) -> Tensor:
    return z * 10 + 40
