"""Findings of one study: calibrated probabilities, how far they spread, and what may be said at which threshold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.films.image import Source
from encoder.films.study import StudyFilms
from encoder.films.variants import PLAIN, require_variants, varied_study
from encoder.findings.calibration import (
    CHANCE,
    LEAST_STUDIES,
    RULE_IN_SPECIFICITY,
    RULE_OUT_SENSITIVITY,
    Evidence,
    OperatingPoints,
)
from encoder.findings.dropout import DropoutPasses
from encoder.findings.probe import LinearProbe

Call = Literal["ruled in", "possible", "ruled out"]
Draws = npt.NDArray[np.float32]
"""(T, C): probabilities, a row a pass of a member."""
MAX_PASSES = 1000
_RULE_IN, _RULE_OUT = f"{RULE_IN_SPECIFICITY:.0%}", f"{RULE_OUT_SENSITIVITY:.0%}"


@dataclass(frozen=True)
class Options:
    """Which variants of a study are averaged, and how many dropout passes."""

    variants: tuple[str, ...] = (PLAIN,)
    """Names of `encoder.films.variants.VARIANTS`; TEST_TIME there is the usual five."""
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
    """The prediction for one finding."""

    finding: str
    probability: float
    """Calibrated, in [0, 1]; the mean over variants, passes and members."""
    spread: float | None
    """Standard deviation of the probability over the passes of all members; None without dropout passes."""
    call: Call | None
    """None where a call would not be reliable; `no_call` says why."""
    points: OperatingPoints | None
    """The thresholds behind the call; an ensemble's are the mean of its members'."""
    no_call: str | None = None
    """Why there is no call, in words."""
    meaning: str | None = None
    """What the call says of probability and threshold, in words."""
    evidence: Evidence | None = None
    """How well the probe separates the finding, for an ensemble the least convincing member; None where unknown."""

    def without_call(self, reason: str) -> "Prediction":
        """Return the same without a call, and why."""
        return replace(self, call=None, meaning=None, no_call=reason)


class Predictor:
    """One or several encoders with a probe each. Safe under threads: nothing in it changes after construction.

    What is averaged is probabilities, over variants of the films, dropout passes and members alike. Averaged
    embeddings would leave the unit sphere that the probe was learnt and calibrated on, and embeddings of different
    encoders have no common axes, while a mean of calibrated probabilities is a probability again (the linear
    pool; Lakshminarayanan et al., NeurIPS 2017, for ensembles). Thresholds stay those of plain films.
    """

    def __init__(self, members: Sequence[tuple[Embedder, LinearProbe]]) -> None:
        """Take encoders with their probes.

        Raises:
            EncoderError: a probe belongs to another encoder, or the probes' findings or the labels behind them differ.
        """
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
        self._require_one_labelling()

    @classmethod
    def load(
        cls, encoders: Sequence[Path], probes: Sequence[Path], ignored_parts: frozenset[str] = frozenset()
    ) -> Self:
        """Return the predictor of encoder files, each with its probe's folder. Raises what these raise."""
        embedders = [Embedder.load(encoder, ignored_parts=ignored_parts) for encoder in encoders]
        return cls(list(zip(embedders, map(LinearProbe.load, probes), strict=True)))

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the encoders, in their order."""
        return tuple(embedder.fingerprint for embedder, _ in self.members)

    @property
    def trained(self) -> bool | None:
        """False where one of the encoders is known to be untrained, else None."""
        return False if False in {embedder.trained for embedder, _ in self.members} else None

    def _require_one_labelling(self) -> None:
        """Refuse probes that read labels differently: a mean of their probabilities would fit neither reading."""
        first = self.members[0][1].labels
        for number, (_, probe) in enumerate(self.members[1:], start=2):
            if probe.labels != first:
                unknown = "" if None not in (probe.labels, first) else ", or one that does not say how"
                raise EncoderError(
                    f"expected probes whose labels were read alike, got in probe {number} other policies or classes "
                    f"than in the first{unknown}; run precedent probe with the same --policy, --blank and --class for "
                    "each"
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
            _draws(embedder, probe, study, options, generator)[
                :, [probe.findings.index(name) for name in self.findings]
            ]
            for (embedder, probe), study in zip(self.members, films, strict=True)
        ]
        return _predictions(self.findings, np.concatenate(draws), [probe for _, probe in self.members], options.passes)


def predict_embedding(probe: LinearProbe, embedding: npt.NDArray[np.float32]) -> list[Prediction]:
    """Return a prediction a finding of a study whose embedding (D,) is at hand. Raises EncoderError."""
    return _predictions(probe.findings, probe.probabilities(embedding[None]), [probe], 0)


def call_at(probability: float, points: OperatingPoints) -> Call:
    """Return the call that the thresholds allow.

    Below `rule_out` a finding is ruled out (validation kept a sensitivity of 0.90), from `rule_in` on it is ruled
    in (specificity of 0.90), and between them it is possible. A finding that is separated well has `rule_in` below
    `rule_out`; then both claims hold between them, neither can be preferred, and it is possible there too. Above and
    below, the promise is kept with something to spare, since each claim is made at the stricter threshold.
    """
    low, high = sorted((points.rule_out, points.rule_in))
    if probability >= high:
        return "ruled in"
    return "ruled out" if probability < low else "possible"


def meaning_of(call: Call, probability: float, points: OperatingPoints, set_on: tuple[int, int]) -> str:
    """Return what a call says of the probability and the threshold that it was held to.

    Args:
        set_on: validation studies with and without the finding.
    """
    low, high = sorted((points.rule_out, points.rule_in))
    if call == "possible":
        return f"{probability:.2f} lies between the thresholds {low:.2f} and {high:.2f}: neither ruled out nor ruled in"
    if call == "ruled in":
        kept = f"at or above {high:.2f}: at least {_RULE_IN} of {set_on[1]:,} validation studies without the finding"
        yet = "; even so it is likelier absent than present" if probability < 0.5 else ""
        return f"{probability:.2f} is {kept} lie below that{yet}"
    kept = f"below {low:.2f}: at least {_RULE_OUT} of {set_on[0]:,} validation studies with the finding"
    yet = "; even so it is likelier present than absent" if probability >= 0.5 else ""
    return f"{probability:.2f} is {kept} lie at or above that{yet}"


def too_few(call: Call, set_on: tuple[int, int]) -> str | None:
    """Return why a call rests on too few validation studies, or None where they suffice; as `meaning_of`."""
    claims = {"ruled out": (set_on[0], "with", "sensitivity"), "ruled in": (set_on[1], "without", "specificity")}
    count, side, share = claims.get(call, (LEAST_STUDIES, "", ""))
    if count >= LEAST_STUDIES:
        return None
    return f"the threshold was set on {count} validation studies {side} it; a {share} of 0.90 takes {LEAST_STUDIES}"


def why_no_call(points: OperatingPoints | None, evidence: Evidence | None) -> str | None:
    """Return why no call on a finding would be reliable, or None where one is."""
    if evidence is None:
        return "how well the probe recognises it is not known; run: precedent probe again"
    if points is None:
        return "no thresholds: the validation studies had none with it, or none without it"
    if evidence.above_chance:
        return None
    if evidence.low is None or evidence.high is None:
        return f"how well the probe recognises it is not known: {evidence.sentence}"
    interval = f"the interval of its AUROC, {evidence.low:.2f}-{evidence.high:.2f},"
    holds = f"{interval} {'contains' if evidence.high >= CHANCE else 'lies below'} {CHANCE}"
    few = f"so few studies reach an AUROC of {evidence.needed:.2f} by chance"
    return f"not shown to be better than chance: {holds if evidence.low <= CHANCE else few}"


def _draws(
    embedder: Embedder, probe: LinearProbe, films: StudyFilms, options: Options, generator: torch.Generator
) -> Draws:
    """Return a member's probabilities (T, C), averaged over variants; T is 1 without dropout passes."""
    if options.passes:
        embedder = embedder.with_encoder(DropoutPasses(embedder.encoder, options.passes, generator))
    studies = [varied_study(films, name) for name in options.variants]
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
        predictions.append(_prediction(name, probability, spread, probes))
    return predictions


def _prediction(name: str, probability: float, spread: float | None, probes: Sequence[LinearProbe]) -> Prediction:
    points = _mean_points([probe.points.get(name) for probe in probes])
    evidence = _weakest([(probe.evidence or {}).get(name) for probe in probes])
    said = Prediction(name, probability, spread, None, points, evidence=evidence)
    if reason := why_no_call(points, evidence):
        return said.without_call(reason)
    assert points is not None
    call, set_on = call_at(probability, points), _fewest([probe.set_on.get(name, (0, 0)) for probe in probes])
    if few := too_few(call, set_on):
        return said.without_call(few)
    return replace(said, call=call, meaning=meaning_of(call, probability, points, set_on))


def _fewest(members: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the studies with and without a finding of the member that had fewest."""
    positives, negatives = zip(*members, strict=True)
    return min(positives), min(negatives)


def _weakest(members: Sequence[Evidence | None]) -> Evidence | None:
    """Return the evidence of the least convincing member; None where a member has none."""
    known = [evidence for evidence in members if evidence is not None]
    if len(known) < len(members):
        return None
    return min(known, key=lambda known: (known.above_chance, -1.0 if known.low is None else known.low))


def _mean_points(members: Sequence[OperatingPoints | None]) -> OperatingPoints | None:
    known = [points for points in members if points is not None]
    if len(known) < len(members):
        return None
    names = ("youden", "rule_out", "rule_in")
    return OperatingPoints(**{name: float(np.mean([getattr(points, name) for points in known])) for name in names})
