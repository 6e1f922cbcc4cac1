import cv2
import numpy as np
import pytest
import torch

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.films.preprocess import Preprocessing
from encoder.findings.probe import LinearProbe
from encoder.maps.cam import CAMS, cam_of
from encoder.maps.explain import METHODS, Explainer, OpenStudy
from encoder.network.config import EncoderConfig
from encoder.network.model import DualEfficientNetEncoder
from encoder.network.single import SingleEncoder


def probe_of(embedder: Embedder) -> LinearProbe:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(60, embedder.embedding_dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    targets = np.stack([vectors[:, 0] > 0, vectors[:, 1] > 0], axis=1).astype(np.float32)
    return LinearProbe.fit(
        vectors, targets, ("Edema", "Fracture"), folds=np.arange(60) % 3, fingerprint=embedder.fingerprint
    )


def study_of(embedder: Embedder, seed: int, *, views: str = "fl", shape: tuple[int, int] = (90, 70)) -> OpenStudy:
    rng = np.random.default_rng(seed)
    pictures = [cv2.imencode(".png", rng.integers(0, 255, shape, dtype=np.uint8))[1].tobytes() for _ in "fl"]
    return OpenStudy.read(embedder, pictures[0] if "f" in views else None, pictures[1] if "l" in views else None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("views", ["fl", "f", "l"])
def test_each_film_of_a_study_gets_a_map_on_its_own_pixels(
    tiny_embedder: Embedder, monkeypatch: pytest.MonkeyPatch, method: str, views: str
) -> None:
    monkeypatch.setattr("encoder.maps.attribution.STEPS", 4)
    if method == "integrated_gradients":
        pytest.importorskip("captum", reason="captum is not installed")
    study = study_of(tiny_embedder, 1, views=views)

    found = Explainer(tiny_embedder).why_finding(study, probe_of(tiny_embedder), "Edema", method=method)

    assert set(found.maps) == {{"f": "frontal", "l": "lateral"}[view] for view in views}
    for heat in found.maps.values():
        assert heat.shape == (90, 70)
        assert heat.dtype == np.float32
        assert heat.min() >= 0
        assert heat.max() <= 1


def test_the_value_is_the_probes_logit_and_the_cosine(tiny_embedder: Embedder) -> None:
    explainer, probe = Explainer(tiny_embedder), probe_of(tiny_embedder)
    query, hit = study_of(tiny_embedder, 1), study_of(tiny_embedder, 2)
    first, second = tiny_embedder.embed([query.films, hit.films])

    logit = explainer.why_finding(query, probe, "Fracture").value
    of_query, of_hit = explainer.why_similar(query, hit)

    assert logit == pytest.approx(float(probe.logits(first[None])[0, 1]), abs=1e-5)
    assert of_query.value == pytest.approx(float(first @ second), abs=1e-5)
    assert of_hit.value == pytest.approx(of_query.value, abs=1e-5)


def test_explaining_leaves_the_encoder_as_it_was_even_a_frozen_one(tiny_embedder: Embedder) -> None:
    encoder = tiny_embedder.encoder
    frozen = [weight.requires_grad for weight in encoder.parameters()]
    encoder.requires_grad_(False)
    before = [value.clone() for value in encoder.state_dict().values()]

    found = Explainer(tiny_embedder).why_finding(study_of(tiny_embedder, 1), probe_of(tiny_embedder), "Edema", stage=2)

    assert found.maps["frontal"].any()
    assert not any(module._forward_hooks or module._backward_hooks for module in encoder.modules())
    assert all(weight.grad is None for weight in encoder.parameters())
    assert not encoder.training
    for old, new in zip(before, encoder.state_dict().values(), strict=True):
        torch.testing.assert_close(old, new)
    for weight, wanted in zip(encoder.parameters(), frozen, strict=True):
        weight.requires_grad_(wanted)


def test_where_nothing_speaks_for_the_number_the_map_is_blank(tiny_embedder: Embedder) -> None:
    films = {"frontal": torch.randn(1, 3, 64, 64)}
    with torch.enable_grad():
        for method in CAMS:
            heat = cam_of(tiny_embedder.encoder, films, lambda values: 0 * values.sum(1), method)["frontal"]
            np.testing.assert_array_equal(heat, np.zeros((64, 64), np.float32))


@pytest.mark.parametrize("fit", ["crop", "letterbox"])
def test_a_map_lies_on_the_part_of_the_film_that_the_network_saw(
    tiny_encoder: DualEfficientNetEncoder, fit: str
) -> None:
    embedder = Embedder(tiny_encoder, Preprocessing(size=64, fit=fit), device="cpu")  # type: ignore[arg-type]

    study = study_of(embedder, 1, shape=(60, 120))
    found = Explainer(embedder).why_finding(study, probe_of(embedder), "Edema", method="layercam", stage=1)

    heat = found.maps["frontal"]
    assert heat.shape == (60, 120)
    assert heat[:, 30:90].max() == 1
    assert heat[:, :29].any() is np.bool_(fit == "letterbox")


@pytest.mark.parametrize("stage", range(5))
def test_an_earlier_stage_gives_a_map_too(tiny_embedder: Embedder, stage: int) -> None:
    found = Explainer(tiny_embedder).why_finding(
        study_of(tiny_embedder, 1), probe_of(tiny_embedder), "Edema", stage=stage, method="layercam"
    )
    assert found.maps["lateral"].any()


def test_a_cell_is_that_of_the_map_that_is_explained(tiny_embedder: Embedder) -> None:
    explainer = Explainer(tiny_embedder)  # crops to a square

    assert explainer.cell((128, 64), stage=1) == (64 / 16, 64 / 16)
    assert explainer.cell((128, 64)) == explainer.cell((128, 64), stage=4) == (64 / 2, 64 / 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"finding": "Ghost"}, "finding of the probe"),
        ({"method": "tarot"}, "expected a method of gradcam"),
        ({"stage": 9}, "stage of 0 to 4"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    tiny_embedder: Embedder, options: dict[str, object], sentence: str
) -> None:
    wanted = {"finding": "Edema", **options}
    with pytest.raises(EncoderError, match=sentence):
        Explainer(tiny_embedder).why_finding(study_of(tiny_embedder, 1), probe_of(tiny_embedder), **wanted)  # type: ignore[arg-type]


def test_another_encoders_probe_is_refused(tiny_embedder: Embedder) -> None:
    probe = LinearProbe(**{**vars(probe_of(tiny_embedder)), "fingerprint": "0" * 64})
    with pytest.raises(EncoderError, match="was trained on vectors of encoder"):
        Explainer(tiny_embedder).why_finding(study_of(tiny_embedder, 1), probe, "Edema")


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone", ["densenet121", "efficientnet_b4", "resnet50", "resnetv2_50", "tf_efficientnetv2_s"]
)
def test_every_recipes_backbone_can_be_explained_at_its_last_and_at_an_earlier_stage(backbone: str) -> None:
    projection = 256 if backbone == "tf_efficientnetv2_s" else 0
    config = EncoderConfig(architecture="single", backbone=backbone, embedding_dim=0, projection=projection)
    torch.manual_seed(0)
    embedder = Embedder(SingleEncoder(config).eval(), Preprocessing(size=64), device="cpu")
    study = study_of(embedder, 1)
    for stage in (None, 2):
        first, second = Explainer(embedder).why_similar(study, study_of(embedder, 2), stage=stage, method="gradcam++")
        assert {*first.maps} == {*second.maps} == {"frontal", "lateral"}
        assert all(np.isfinite(heat).all() for heat in (*first.maps.values(), *second.maps.values()))
