import numpy as np
import pytest
import torch

from encoder.embedder import Embedder
from encoder.films.preprocess import Preprocessing
from encoder.films.study import StudyFilms
from encoder.maps.changed import ChangedFilm
from encoder.network.config import EncoderConfig
from encoder.network.single import build_encoder

CONFIGS = {
    "two branches": EncoderConfig(backbone="test_efficientnet", embedding_dim=256),
    "shared weights": EncoderConfig(backbone="test_efficientnet", embedding_dim=256, use_shared_weights=True),
    "single": EncoderConfig(architecture="single", backbone="test_efficientnet", embedding_dim=0),
    "told the view position": EncoderConfig(
        architecture="single", backbone="test_efficientnet", embedding_dim=0, position_input=True, pooling="avgmax"
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    ("views", "changed"), [("fl", "frontal"), ("fl", "lateral"), ("f", "frontal"), ("l", "lateral")]
)
def test_a_changed_study_has_the_number_of_its_own_embedding(
    kind: str, views: str, changed: str, rng: np.random.Generator
) -> None:
    torch.manual_seed(0)
    embedder = Embedder(build_encoder(CONFIGS[kind]), Preprocessing(size=32), device="cpu")
    names = [name for name in ("frontal", "lateral") if name[0] in views]
    films = {name: rng.normal(size=(3, 32, 32)).astype(np.float32) for name in names}
    versions = list(rng.normal(size=(11, 3, 32, 32)).astype(np.float32))
    stacks = {name: torch.from_numpy(film)[None] for name, film in films.items()}

    weight = rng.normal(size=embedder.embedding_dim).astype(np.float32)

    studies = [
        StudyFilms(**({"frontal": None, "lateral": None} | films | {changed: one}), projection="PA") for one in versions
    ]
    changing = ChangedFilm(
        embedder.encoder, stacks, changed, lambda values: values @ torch.from_numpy(weight), studies[0].positions
    )

    found = changing(versions)

    np.testing.assert_allclose(found, embedder.embed(studies) @ weight, atol=1e-5)
    assert np.ptp(found) > 1e-4
