"""Findings of one study: calibrated probabilities, how far they spread, and what may be said at which threshold.

Knows embedders and probes; it must not know tables of studies, neighbours or HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from encoder.calibration import OperatingPoints
from encoder.dropout import DropoutPasses
from encoder.embedder import Embedder, StudyFilms
from encoder.errors import EncoderError
from encoder.image import Source
from encoder.probe import LinearProbe
from encoder.variants import PLAIN, require_variants, varied_study

Call = Literal["ruled in", "possible", "ruled out"]
Draws = npt.NDArray[np.float32]
"""(T, C): probabilities, a row a pass of a member."""
MAX_PASSES = 1000


@dataclass(frozen=True)
class Options:
    """How often, and how changed, a study is looked at."""

    variants: tuple[str, ...] = (PLAIN,)
    """Names of `encoder.variants.VARIANTS`; TEST_TIME there is the usual five."""
    passes: int = 0
    """Monte-Carlo dropout passes: 0, or 2 to MAX_PASSES."""
    seed: int = 0
    """Of the dropout; the same seed gives the same figures on every device, up to its rounding."""

    def __post_init__(self) -> None:
        require_variants(self.variants)
        if self.passes and not 2 <= self.passes <= MAX_PASSES:
            raise EncoderError(f"expected 0 or 2 to {MAX_PASSES} dropout passes, got {self.passes}")


@dataclass(frozen=True)
class Prediction:
    """What is said of one finding."""

    finding: str
    probability: float
    """Calibrated, in [0, 1]; the mean over variants, passes and members."""
    spread: float | None
    """Standard deviation of the probability over the passes of all members; None without dropout passes."""
    call: Call | None
    """None where validation had no positives or no negatives to set thresholds from."""
    points: OperatingPoints | None
    """The thresholds behind the call; an ensemble's are the mean of its members'."""


class Predictor:
    """One or several encoders with a probe each. Safe under threads: nothing in it changes after construction.

    What is averaged is probabilities, over variants of the films, dropout passes and members alike. Averaged
    embeddings would leave the unit sphere that the probe was learnt and calibrated on, and embeddings of different
    encoders have no common axes, while a mean of calibrated probabilities is a probability again (the linear
    pool; Lakshminarayanan et al., NeurIPS 2017, for ensembles). Thresholds stay those of plain films.
    """

    def __init__(self, members: Sequence[tuple[Embedder, LinearProbe]]) -> None:
        """Raise EncoderError where a probe belongs to another encoder, or the probes' findings differ."""
        if not members:
            raise EncoderError("expected an embedder with its probe, got none")
        self.members = tuple(members)
        self.findings = self.members[0][1].findings
        for embedder, probe in self.members:
            probe.require_fingerprint(embedder.fingerprint)
            if set(probe.findings) != set(self.findings):
                differing = ", ".join(sorted(set(probe.findings) ^ set(self.findings)))
                raise EncoderError(
                    f"expected probes of the same findings, got some that differ in {differing}; "
                    "run precedent probe with the same --findings for each"
                )

    def read_films(
        self, frontal: Source | None, lateral: Source | None, *, projection: str | None = None
    ) -> list[StudyFilms]:
        """Return the films of one study as each member wants them. Raises ImageError; EncoderError without a film.

        Args:
            projection: AP or PA of the frontal film, where it is known.
        """
        read = [embedder.read_films(frontal, lateral) for embedder, _ in self.members]
        return [replace(films, projection=projection) for films in read]

    def predict(self, films: Sequence[StudyFilms], options: Options | None = None) -> list[Prediction]:
        """Return a prediction a finding, in the order of `findings`.

        Args:
            films: one study, as each member wants it; what `read_films` gives.

        Raises:
            EncoderError: not one a member, or dropout passes of an encoder without dropout.
        """
        if len(films) != len(self.members):
            raise EncoderError(f"expected the films of {len(self.members)} members, got {len(films)}")
        options = options or Options()
        generator = torch.Generator().manual_seed(options.seed)
        draws = [
            _draws(embedder, probe, one, options, generator)[:, [probe.findings.index(name) for name in self.findings]]
            for (embedder, probe), one in zip(self.members, films, strict=True)
        ]
        return _predictions(self.findings, np.concatenate(draws), [probe for _, probe in self.members], options.passes)


def predict_embedding(probe: LinearProbe, embedding: npt.NDArray[np.float32]) -> list[Prediction]:
    """Return a prediction a finding of a study whose embedding (D,) is at hand. Raises EncoderError."""
    return _predictions(probe.findings, probe.probabilities(embedding[None]), [probe], 0)


def call_at(probability: float, points: OperatingPoints) -> Call:
    """Return what the thresholds allow to say.

    Below `rule_out` a finding is ruled out (validation kept a sensitivity of 0.90), from `rule_in` on it is ruled
    in (specificity of 0.90), and between them it is possible. A finding that is told apart well has `rule_in` below
    `rule_out`; then both claims hold between them, neither can be preferred, and it is possible there too. Above and
    below, the promise is kept with something to spare, since each claim is made at the stricter threshold.
    """
    low, high = sorted((points.rule_out, points.rule_in))
    if probability >= high:
        return "ruled in"
    return "ruled out" if probability < low else "possible"


def _draws(
    embedder: Embedder, probe: LinearProbe, films: StudyFilms, options: Options, generator: torch.Generator
) -> Draws:
    """Return a member's probabilities (T, C), averaged over variants; T is 1 without dropout passes."""
    if options.passes:
        embedder = embedder.with_encoder(DropoutPasses(embedder.encoder, options.passes, generator))
    studies = [varied_study(films, name, embedder.preprocessing) for name in options.variants]
    probabilities = probe.probabilities(embedder.embed(studies))  # (T * V, C)
    averaged: Draws = probabilities.reshape(-1, len(studies), len(probe.findings)).mean(axis=1)
    return averaged


def _predictions(findings: Sequence[str], draws: Draws, probes: Sequence[LinearProbe], passes: int) -> list[Prediction]:
    means = draws.mean(axis=0, dtype=np.float64)
    spreads = draws.std(axis=0, ddof=1, dtype=np.float64) if passes else None
    predictions = []
    for column, name in enumerate(findings):
        probability = float(means[column])
        spread = None if spreads is None else float(spreads[column])
        points = _mean_points([probe.points.get(name) for probe in probes])
        call = None if points is None else call_at(probability, points)
        predictions.append(Prediction(name, probability, spread, call, points))
    return predictions


def _mean_points(members: Sequence[OperatingPoints | None]) -> OperatingPoints | None:
    known = [points for points in members if points is not None]
    if len(known) < len(members):
        return None
    names = ("youden", "rule_out", "rule_in")
    return OperatingPoints(**{name: float(np.mean([getattr(points, name) for points in known])) for name in names})
