"""Predictions: what is averaged and how, calls at thresholds, dropout that disturbs nobody, and refusals."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.films.plane import as_deep_plane, as_image
from encoder.films.preprocess import Preprocessing
from encoder.films.study import StudyFilms
from encoder.films.variants import TEST_TIME, VARIANTS, varied_film, varied_study
from encoder.findings.calibration import Evidence, OperatingPoints
from encoder.findings.dropout import DrawnDropout, DropoutPasses
from encoder.findings.predict import Options, Predictor, call_at, meaning_of, predict_embedding, why_no_call
from encoder.findings.probe import LinearProbe
from encoder.network.checkpoint import fingerprint_of
from encoder.network.config import EncoderConfig
from encoder.network.model import StudyEncoder
from encoder.network.single import SingleEncoder

FINDINGS = ("Edema", "Fracture", "Pneumonia")
POINTS = OperatingPoints(youden=0.4, rule_out=0.2, rule_in=0.7)
GOOD = Evidence(60, 300, 0.8, 0.7, 0.9)


def probe_of(embedder: Embedder, seed: int = 0, findings: tuple[str, ...] = FINDINGS, scale: float = 3) -> LinearProbe:
    """Return a probe of random weights that gives a grey film a chance of one half."""
    rng, count = np.random.default_rng(seed), len(findings)
    weight = rng.normal(size=(embedder.embedding_dim, count), scale=scale).astype(np.float32)
    grey = embedder.embed([StudyFilms(np.full((64, 64), 118, np.uint8), None)])[0]
    ones, zeros = np.ones(count, np.float32), np.zeros(count, np.float32)
    points, evidence = dict.fromkeys(findings, POINTS), dict.fromkeys(findings, GOOD)
    return LinearProbe(
        embedder.fingerprint,
        findings,
        weight,
        -grey @ weight,
        (1.0,) * count,
        ones,
        zeros,
        points=points,
        set_on=dict.fromkeys(findings, (20, 90)),
        evidence=evidence,
    )


@pytest.fixture
def films(tiny_embedder: Embedder, rng: np.random.Generator) -> StudyFilms:
    """Return a study of two films of smooth noise."""
    pictures = rng.random((2, 8, 8), dtype=np.float32).repeat(8, axis=1).repeat(8, axis=2)
    return StudyFilms(*(tiny_embedder.preprocessing(as_deep_plane(picture)) for picture in pictures))


@pytest.fixture
def predictor(tiny_embedder: Embedder) -> Predictor:
    """Return a predictor of one member."""
    return Predictor([(tiny_embedder, probe_of(tiny_embedder))])


def chances(predictor: Predictor, films: StudyFilms, options: Options | None = None) -> np.ndarray:
    return np.array([one.probability for one in predictor.predict([films] * len(predictor.members), options)])


def test_a_plain_prediction_is_the_probes_own_probability(
    predictor: Predictor, tiny_embedder: Embedder, films: StudyFilms
) -> None:
    embedding = tiny_embedder.embed([films])[0]
    probe = predictor.members[0][1]
    predictions = predictor.predict([films])
    assert chances(predictor, films) == pytest.approx(probe.probabilities(embedding[None])[0], abs=1e-6)
    assert [one.finding for one in predictions] == list(FINDINGS)
    assert {(one.spread, one.points) for one in predictions} == {(None, POINTS)}
    assert predict_embedding(probe, embedding) == predictions


def test_test_time_augmentation_averages_the_probabilities_of_five_films(
    tiny_embedder: Embedder, films: StudyFilms
) -> None:
    steep = probe_of(tiny_embedder, scale=1000)  # the vectors of an untrained encoder lie close together
    studies = [varied_study(films, name) for name in TEST_TIME]
    each = np.concatenate([steep.probabilities(tiny_embedder.embed([one])) for one in studies])
    found = chances(Predictor([(tiny_embedder, steep)]), films, Options(TEST_TIME))
    assert len(each) == 5
    assert each.std(axis=0).max() > 0.05
    assert found == pytest.approx(each.mean(axis=0), abs=1e-3)


def test_mirroring_is_offered_by_name_and_not_taken_by_itself() -> None:
    assert "mirrored" in VARIANTS
    assert "mirrored" not in TEST_TIME
    assert Options().variants == ("plain",)


def test_a_variant_turns_brightens_or_mirrors_the_film_and_nothing_else() -> None:
    image = np.full((65, 65), 0.5, np.float32)
    image[32, 60] = 1  # right of the middle
    film = as_deep_plane(image)

    def seen(name: str) -> np.ndarray:
        return as_image(varied_film(film, VARIANTS[name]))

    assert seen("plain") == pytest.approx(image, abs=1e-4)
    assert seen("brighter") == pytest.approx(np.minimum(image + 0.1, 1), abs=1e-4)
    assert seen("darker") == pytest.approx(image - 0.1, abs=1e-4)
    assert seen("mirrored") == pytest.approx(image[:, ::-1], abs=1e-4)
    rows = {name: np.unravel_index(seen(name).argmax(), (65, 65))[0] for name in ("turned left", "turned right")}
    assert rows == {"turned left": 30, "turned right": 34}  # 28 * sin(5 degrees) = 2.4 pixels up and down


def test_a_missing_view_stays_missing_and_the_projection_stays_known(films: StudyFilms) -> None:
    study = varied_study(StudyFilms(None, films.lateral, "PA"), "darker")
    assert study.frontal is None
    assert study.projection == "PA"


@pytest.mark.parametrize(
    ("probability", "rule_out", "rule_in", "call"),
    [
        (0.1, 0.2, 0.7, "ruled out"),
        (0.2, 0.2, 0.7, "possible"),
        (0.69, 0.2, 0.7, "possible"),
        (0.7, 0.2, 0.7, "ruled in"),
        (0.5, 0.5, 0.5, "ruled in"),
        (0.49, 0.5, 0.5, "ruled out"),
        (0.1, 0.7, 0.2, "ruled out"),
        (0.2, 0.7, 0.2, "possible"),
        (0.5, 0.7, 0.2, "possible"),
        (0.7, 0.7, 0.2, "ruled in"),
    ],
)
def test_a_call_needs_the_stricter_threshold_where_they_cross(
    probability: float, rule_out: float, rule_in: float, call: str
) -> None:
    assert call_at(probability, OperatingPoints(0.4, rule_out, rule_in)) == call


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        (None, "how well the probe recognises it is not known; run: precedent probe again"),
        (
            Evidence(12, 300, 0.55, 0.43, 0.67),
            "not shown to be better than chance: the interval of its AUROC, 0.43-0.67, contains 0.5",
        ),
        (
            Evidence(60, 300, 0.3, 0.2, 0.4),
            "not shown to be better than chance: the interval of its AUROC, 0.20-0.40, lies below",
        ),
        (Evidence(2, 50, 0.85, 0.7, 1.0), "so few studies reach an AUROC of 0.91 by chance"),
        (Evidence(0, 300, None, None, None), "not known: no AUROC, judged on 0 with it and 300 without"),
        (Evidence(60, 300, 0.8, None, None), "not known: AUROC 0.80 without an interval"),
        (GOOD, None),
    ],
)
def test_no_call_is_made_on_what_the_probe_does_not_tell_from_chance(
    evidence: Evidence | None, why: str | None, tiny_embedder: Embedder, films: StudyFilms
) -> None:
    told = {} if evidence is None else {"Edema": evidence}
    probe = replace(probe_of(tiny_embedder), evidence=told)
    edema = Predictor([(tiny_embedder, probe)]).predict([films])[0]

    assert (edema.call is None, edema.meaning is None) == (why is not None, why is not None)
    assert (why or "") in (edema.no_call or "")
    assert edema.evidence == evidence
    assert why_no_call(None, GOOD) == "no thresholds: the validation studies had none with it, or none without it"


@pytest.mark.parametrize(
    ("probability", "call", "words"),
    [
        (
            0.15,
            "ruled in",
            "0.15 is at or above 0.12: at least 90% of 90 validation studies without the finding lie below that; "
            "even so it is likelier absent than present",
        ),
        (
            0.01,
            "ruled out",
            "0.01 is below 0.05: at least 90% of 20 validation studies with the finding lie at or above that",
        ),
        (0.07, "possible", "0.07 lies between the thresholds 0.05 and 0.12: neither ruled out nor ruled in"),
    ],
)
def test_a_call_says_what_its_threshold_means(probability: float, call: str, words: str) -> None:
    points = OperatingPoints(youden=0.1, rule_out=0.05, rule_in=0.12)

    assert call_at(probability, points) == call
    assert meaning_of(call_at(probability, points), probability, points, (20, 90)) == words


@pytest.mark.parametrize(
    ("rule_out", "rule_in", "counts", "words"),
    [
        (0.9, 1.0, (9, 90), "the threshold was set on 9 validation studies with it; a sensitivity of 0.90 takes 10"),
        (0.0, 0.0, (90, 9), "the threshold was set on 9 validation studies without it; a specificity of 0.90 takes 10"),
        (0.9, 1.0, (10, 0), None),
        (0.0, 0.0, (0, 10), None),
        (0.0, 1.0, (1, 1), None),
    ],
)
def test_no_call_is_made_at_a_threshold_that_a_handful_of_studies_set(
    rule_out: float,
    rule_in: float,
    counts: tuple[int, int],
    words: str | None,
    tiny_embedder: Embedder,
    films: StudyFilms,
) -> None:
    points = {"Edema": OperatingPoints(0.4, rule_out, rule_in)}
    probe = replace(probe_of(tiny_embedder, scale=0.1), points=points, set_on={"Edema": counts})
    edema = Predictor([(tiny_embedder, probe)]).predict([films])[0]

    assert (edema.no_call, edema.call is None) == (words, words is not None)


def test_an_ensemble_calls_only_what_each_member_tells_apart(tiny_embedder: Embedder, films: StudyFilms) -> None:
    probe = probe_of(tiny_embedder)
    weak = replace(probe, evidence=probe.evidence | {"Edema": Evidence(12, 300, 0.55, 0.43, 0.67)})
    edema, fracture, _ = Predictor([(tiny_embedder, probe), (tiny_embedder, weak)]).predict([films, films])

    assert (edema.call, edema.evidence.auroc) == (None, 0.55)
    assert fracture.call is not None
    assert edema.without_call("elsewhere").no_call == "elsewhere"


def test_dropout_passes_repeat_with_their_seed_and_spread(predictor: Predictor, films: StudyFilms) -> None:
    first, again, other = (predictor.predict([films], Options(passes=20, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert all(one.spread and one.spread > 1e-3 for one in first)
    both = predictor.predict([films], Options(TEST_TIME, passes=20))
    assert all(one.spread and one.spread < mate.spread for one, mate in zip(both, first, strict=True))


def reference_draws(encoder: StudyEncoder, film: torch.Tensor, probe: LinearProbe, passes: int) -> np.ndarray:
    """Return probabilities (passes, C) by torch's own dropout, a row a pass."""
    encoder = copy.deepcopy(encoder)
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Dropout)]
    rows = torch.zeros(passes, dtype=torch.int64)
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in layers:
            layer.train()
        drawn = encoder.forward_rows(film, rows, rows)
    return probe.probabilities(drawn.numpy())


def test_dropout_passes_have_the_mean_and_spread_of_torchs_own(
    predictor: Predictor, tiny_embedder: Embedder, films: StudyFilms
) -> None:
    study = StudyFilms(films.frontal, None)
    film = torch.from_numpy(tiny_embedder.preprocessing.normalized(films.frontal))[None]
    expected = reference_draws(tiny_embedder.encoder, film, predictor.members[0][1], 400)
    found = predictor.predict([study], Options(passes=400))
    error = expected.std(axis=0) * np.sqrt(2 / 400)  # of the difference of two means
    assert np.all(np.abs([one.probability for one in found] - expected.mean(axis=0)) < 4 * error)
    assert [one.spread for one in found] == pytest.approx(expected.std(axis=0), rel=0.2)


def test_dropout_passes_leave_encoder_and_chance_alone(
    predictor: Predictor, tiny_embedder: Embedder, films: StudyFilms
) -> None:
    before, state = chances(predictor, films), torch.random.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(predictor.predict, [films], Options(passes=8) if n % 2 else None) for n in range(12)]
        answers = [job.result() for job in jobs]
    assert all(answer == answers[n % 2] for n, answer in enumerate(answers))
    assert [one.probability for one in answers[0]] == pytest.approx(before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module.training for module in tiny_embedder.encoder.modules())
    assert any(isinstance(module, nn.Dropout) for module in tiny_embedder.encoder.modules())
    assert fingerprint_of(tiny_embedder.encoder, tiny_embedder.preprocessing) == tiny_embedder.fingerprint


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    values = DrawnDropout(0.25, torch.Generator().manual_seed(0))(torch.ones(100, 100))
    assert float((values == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert values.unique().tolist() == pytest.approx([0, 4 / 3])


def test_weights_are_shared_with_the_encoder_and_not_copied(tiny_embedder: Embedder) -> None:
    passes = DropoutPasses(tiny_embedder.encoder, 2, torch.Generator())
    theirs = {id(parameter) for parameter in tiny_embedder.encoder.parameters()}
    assert {id(parameter) for parameter in passes.parameters()} == theirs


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_architecture_has_passes_if_it_has_dropout(dropout: float, films: StudyFilms) -> None:
    config = EncoderConfig("single", "test_efficientnet", 0, dropout=dropout, position_input=True)
    torch.manual_seed(0)
    embedder = Embedder(SingleEncoder(config), Preprocessing(size=64), device="cpu")
    predictor = Predictor([(embedder, probe_of(embedder))])
    if not dropout:
        with pytest.raises(EncoderError, match=r"dropout is 0.*train an encoder with dropout"):
            predictor.predict([films], Options(passes=4))
        return
    told = [predictor.predict([replace(films, projection=one)], Options(passes=4)) for one in ("AP", None)]
    assert all(one.spread for one in told[0])
    assert told[0] != told[1]


def test_an_ensemble_averages_its_members_whatever_their_order_of_findings(
    tiny_embedder: Embedder, films: StudyFilms
) -> None:
    first, second = probe_of(tiny_embedder), probe_of(tiny_embedder, 1, FINDINGS[::-1])
    second = replace(second, points={**second.points, "Edema": OperatingPoints(0.6, 0.4, 0.9)})
    alone = [chances(Predictor([(tiny_embedder, probe)]), films) for probe in (first, second)]
    both = Predictor([(tiny_embedder, first), (tiny_embedder, second)])
    assert chances(both, films) == pytest.approx((alone[0] + alone[1][::-1]) / 2)
    edema, fracture, _ = both.predict([films, films])
    assert vars(edema.points) == pytest.approx({"youden": 0.5, "rule_out": 0.3, "rule_in": 0.8})
    assert fracture.points == POINTS
    passes = both.predict([films, films], Options(passes=10))
    assert all(one.spread > abs(a - b) / 4 for one, a, b in zip(passes, alone[0], alone[1][::-1], strict=True))


def test_a_finding_without_thresholds_has_no_call(tiny_embedder: Embedder, films: StudyFilms) -> None:
    probe = probe_of(tiny_embedder)
    bare = replace(probe, points={"Edema": POINTS})
    calls = {one.finding: one.call for one in Predictor([(tiny_embedder, bare)]).predict([films])}
    assert calls["Edema"] is not None
    assert calls["Fracture"] is None
    [_, fracture, _] = Predictor([(tiny_embedder, probe), (tiny_embedder, bare)]).predict([films, films])
    assert (fracture.call, fracture.points) == (None, None)


def test_what_does_not_fit_together_is_refused(
    tiny_embedder: Embedder, predictor: Predictor, films: StudyFilms
) -> None:
    probe = probe_of(tiny_embedder)
    with pytest.raises(EncoderError, match="trained on vectors of encoder eeee"):
        Predictor([(tiny_embedder, replace(probe, fingerprint="e" * 64))])
    with pytest.raises(EncoderError, match="same findings, got some that differ in Asthma, Pneumonia"):
        Predictor([(tiny_embedder, probe), (tiny_embedder, probe_of(tiny_embedder, 1, (*FINDINGS[:2], "Asthma")))])
    with pytest.raises(EncoderError, match="got none"):
        Predictor([])
    with pytest.raises(EncoderError, match="films of 1 members, got 2"):
        predictor.predict([films, films])


@pytest.mark.parametrize(
    "options", [{"passes": 1}, {"passes": -2}, {"passes": 1001}, {"variants": ("upside down",)}, {"variants": ()}]
)
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(EncoderError, match="expected"):
        Options(**options)


@pytest.mark.parametrize("other", [{"policy": {"uncertain": "ones"}, "classes": {}}, None])
def test_an_ensemble_whose_probes_mean_two_things_is_refused(
    tiny_embedder: Embedder, other: dict[str, object] | None
) -> None:
    probe = replace(probe_of(tiny_embedder), labels={"policy": {"uncertain": "zeros"}, "classes": {}})
    with pytest.raises(EncoderError, match="in probe 2 other policies or classes than in the first") as refused:
        Predictor([(tiny_embedder, probe), (tiny_embedder, replace(probe, labels=other))])
    assert "run precedent probe with the same --policy, --blank and --class for each" in str(refused.value)
    assert ("does not say how" in str(refused.value)) is (other is None)
    Predictor([(tiny_embedder, probe), (tiny_embedder, replace(probe))])
