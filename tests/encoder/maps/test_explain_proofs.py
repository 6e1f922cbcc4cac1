"""What the maps must agree with: another package, a planted answer, and themselves in any thread or role."""

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.embedder import Embedder
from encoder.films.preprocess import Preprocessing
from encoder.findings.probe import LinearProbe
from encoder.maps.cam import cam_of
from encoder.maps.explain import Explainer, OpenStudy
from encoder.network.config import EncoderConfig
from encoder.network.single import SingleEncoder

PACKAGE = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "layercam": "LayerCAM"}


def single(backbone: str = "test_efficientnet") -> EncoderConfig:
    return EncoderConfig(architecture="single", backbone=backbone, embedding_dim=0)


class PlainClassifier(SingleEncoder):
    """A backbone and its pooled film, off the unit sphere; the same film goes to both equal branches."""

    def fuse_pooled(self, frontal: Tensor, lateral: Tensor) -> Tensor:
        return (frontal + lateral) / 2


class SpotEncoder(SingleEncoder):
    """An encoder whose first channel is the film's brightness above grey, and whose others never change."""

    def forward_features(self, film: Tensor, branch: int) -> Tensor:
        bright = functional.avg_pool2d(film.mean(1, keepdim=True), 4).relu()  # (B, 1, S / 4, S / 4)
        return torch.cat([bright, torch.full_like(bright, 0.05).expand(-1, self.num_features - 1, -1, -1)], dim=1)


def noise(embedder: Embedder, seed: int) -> OpenStudy:
    pictures = np.random.default_rng(seed).integers(0, 255, (2, 90, 70), dtype=np.uint8)
    frontal, lateral = (cv2.imencode(".png", picture)[1].tobytes() for picture in pictures)
    return OpenStudy.read(embedder, frontal, lateral)


def probe_of(embedder: Embedder, weight: np.ndarray) -> LinearProbe:
    """Return a probe with one finding."""
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    return LinearProbe(embedder.fingerprint, ("Any",), weight[:, None].astype(np.float32), zero, (1.0,), one, zero)


def random_probe(embedder: Embedder) -> LinearProbe:
    return probe_of(embedder, np.random.default_rng(7).normal(size=embedder.embedding_dim))


@pytest.mark.parametrize("name", ["test_efficientnet", "resnet10t"])
@pytest.mark.parametrize("method", PACKAGE)
def test_on_a_plain_classifier_maps_are_those_of_the_grad_cam_package(name: str, method: str) -> None:
    package = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    encoder = PlainClassifier(single(name)).eval()
    head, film = nn.Linear(encoder.num_features, 3), torch.randn(1, 3, 96, 96)
    head.weight.data *= 100  # the package adds 1e-6 to a denominator of squared gradients
    backbone = encoder.backbones[0]
    layer = backbone.bn2 if name == "test_efficientnet" else backbone.layer4

    theirs = getattr(package, PACKAGE[method])(nn.Sequential(backbone, head), [layer])(
        film, [ClassifierOutputTarget(1)]
    )[0]

    ours = cam_of(encoder, {"frontal": film}, lambda pooled: head(pooled)[:, 1], method)["frontal"]
    assert theirs.std() > 0
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] >= 0.999


def test_eight_threads_get_what_each_gets_alone(tiny_embedder: Embedder) -> None:
    explainer, probe = Explainer(tiny_embedder), random_probe(tiny_embedder)
    studies = [noise(tiny_embedder, seed) for seed in range(8)]

    def maps(study: OpenStudy) -> list[np.ndarray]:
        return list(explainer.why_finding(study, probe, "Any").maps.values())

    alone = np.array(list(map(maps, studies)))
    with ThreadPoolExecutor(8) as pool:
        together = np.array(list(pool.map(maps, studies)))

    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


def test_query_and_hit_may_change_roles(tiny_embedder: Embedder) -> None:
    explainer, one, other = Explainer(tiny_embedder), noise(tiny_embedder, 1), noise(tiny_embedder, 2)

    there, back = explainer.why_similar(one, other), explainer.why_similar(other, one)

    for first, second in zip(there, reversed(back), strict=True):
        assert first.value == pytest.approx(second.value, abs=1e-5)
        for view, heat in first.maps.items():
            np.testing.assert_allclose(heat, second.maps[view], atol=1e-4)


def test_a_study_beside_itself_cannot_be_more_alike_so_its_maps_are_blank(tiny_embedder: Embedder) -> None:
    study = noise(tiny_embedder, 1)
    for side in Explainer(tiny_embedder).why_similar(study, study, trust=True):
        assert side.value == pytest.approx(1, abs=1e-5)
        assert not any(heat.any() for heat in side.maps.values())
        assert all(np.isfinite(list(vars(scores).values())).all() for scores in side.trust.values())


@pytest.mark.parametrize("method", ["gradcam", "layercam", "gradient_shap"])
@pytest.mark.parametrize("fit", ["crop", "letterbox"])
@pytest.mark.parametrize("spot", [(150, 170), (40, 120)])
def test_a_spot_planted_in_a_film_is_hottest_where_it_was(
    method: str, fit: Literal["crop", "letterbox"], spot: tuple[int, int]
) -> None:
    embedder = Embedder(SpotEncoder(single()), Preprocessing(size=64, fit=fit), device="cpu")
    film = np.zeros((200, 300), np.uint8)
    cv2.circle(film, spot[::-1], 14, 255, -1)
    study = OpenStudy.read(embedder, cv2.imencode(".png", film)[1].tobytes(), None)
    probe = probe_of(embedder, 20 * np.eye(embedder.embedding_dim)[0])

    found = Explainer(embedder).why_finding(study, probe, "Any", method=method, trust=True)

    heat, scores = found.maps["frontal"], found.trust["frontal"]
    peak = np.unravel_index(int(heat.argmax()), heat.shape)
    assert np.hypot(peak[0] - spot[0], peak[1] - spot[1]) < 14
    assert heat[film == 0].mean() < 0.2 * heat[film == 255].mean()
    assert scores.deletion < scores.random_deletion
    assert scores.insertion > scores.random_insertion
