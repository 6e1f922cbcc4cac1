"""The linear probe: a logistic regression for each finding on frozen embeddings, with calibrated probabilities."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from encoder.errors import CheckpointError, EncoderError
from encoder.files import load_tensors, read_json, read_regular, save_tensors, save_text
from encoder.findings.calibration import Evidence, Method, OperatingPoints, calibration, operating_points, sigmoid
from encoder.findings.logistic import STRENGTHS, ClassWeight, Floats, best_strengths, scaled_rows, solve_strengths

FORMAT = "precedent-probe"
VERSION = "1"
WEIGHTS, DETAILS = "probe.safetensors", "probe.json"
MOST_DETAILS = 1 << 24
MOST_TEXT = 4096


@dataclass(frozen=True)
class LinearProbe:
    """Predicts findings from the embeddings of one encoder."""

    fingerprint: str
    findings: tuple[str, ...]
    """Those that could be learnt."""
    weight: Floats
    """(D, C), on embeddings as they are."""
    bias: Floats
    """(C,)"""
    strengths: tuple[float, ...]
    """The inverse L2 strength that inner validation chose for each finding."""
    slope: Floats
    """(C,) calibration: probability = sigmoid(slope * logit + offset)."""
    offset: Floats
    skipped: dict[str, str] = field(default_factory=dict)
    """Findings that could not be learnt, and why."""
    points: dict[str, OperatingPoints] = field(default_factory=dict)
    """Thresholds by finding; a finding that validation could not judge has none."""
    set_on: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Studies with and without each finding that its thresholds were set on."""
    evidence: dict[str, Evidence] | None = None
    """How well each finding is separated; None where nobody has judged it, or an older version kept no figures."""
    labels: Mapping[str, Any] | None = None
    """How its targets were made of a table's labels, as plain JSON for `index.table.labels`; None where unknown."""

    @classmethod
    def fit(
        cls,
        embeddings: Floats,
        targets: Floats,
        findings: Sequence[str],
        *,
        folds: npt.NDArray[np.integer],
        fingerprint: str,
        strengths: Sequence[float] = STRENGTHS,
        class_weight: ClassWeight = "none",
    ) -> Self:
        """Return the probe that is learnt from all rows; its probabilities are not calibrated yet.

        Args:
            embeddings: (N, D). targets: (N, C) of 1, 0 and NaN (row not used for that finding).
            folds: (N,) fold of each row, all rows of a patient in one; the strength of each finding is that
                with the least log loss on the folds it was not learnt from.
            class_weight: balanced lets positives and negatives weigh alike.

        Raises:
            EncoderError: arrays that do not fit each other, or no finding has both positives and negatives.
        """
        _check(embeddings, targets, findings, folds)
        skipped = {name: reason for name, reason in zip(findings, map(why_not, targets.T), strict=True) if reason}
        kept = [column for column, name in enumerate(findings) if name not in skipped]
        if not kept:
            raise EncoderError(
                "expected a finding with positives and negatives, got none: "
                + "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
            )
        rows, mean, scale = scaled_rows(embeddings)
        used = torch.from_numpy(np.ascontiguousarray(targets[:, kept], dtype=np.float32))
        chosen = best_strengths(rows, used, torch.as_tensor(folds), tuple(strengths), class_weight)
        solution = solve_strengths(rows, used, chosen[None], class_weight)[:, 0]
        weight = (solution[:-1] / scale).numpy()
        return cls(
            fingerprint=fingerprint,
            findings=tuple(findings[column] for column in kept),
            weight=weight,
            bias=solution[-1].numpy() - mean @ weight,
            strengths=tuple(map(float, chosen)),
            slope=np.ones(len(kept), np.float32),
            offset=np.zeros(len(kept), np.float32),
            skipped=skipped,
        )

    def calibrated(self, embeddings: Floats, targets: Floats, method: Method = "platt") -> Self:
        """Return the probe with calibration and operating points from studies it has not learnt from.

        Args:
            embeddings: (N, D). targets: (N, C), columns as `findings`, NaN where not to be used.
        """
        logits = self.logits(embeddings).astype(np.float64)
        used = [~np.isnan(column) for column in targets.T]
        pairs = [
            calibration(logits[rows, column], targets[rows, column].astype(np.float64), method)
            for column, rows in enumerate(used)
        ]
        slope, offset = np.array(pairs, dtype=np.float32).T
        probe = replace(self, slope=slope, offset=offset)
        chances = probe.probabilities(embeddings).astype(np.float64)
        points = {
            name: operating_points(chances[rows, column], targets[rows, column].astype(np.float64))
            for column, (name, rows) in enumerate(zip(self.findings, used, strict=True))
        }
        counts = {
            name: (int((column == 1).sum()), int((column == 0).sum()))
            for name, column in zip(self.findings, targets.T, strict=True)
        }
        return replace(probe, points={name: point for name, point in points.items() if point}, set_on=counts)

    def logits(self, embeddings: Floats) -> Floats:
        """Return the logits (N, C) of embeddings (N, D), before calibration. Raises EncoderError."""
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.weight):
            raise EncoderError(
                f"expected embeddings of shape (N, {len(self.weight)}), got {embeddings.shape}; "
                "were they made by another encoder?"
            )
        return embeddings @ self.weight + self.bias

    def probabilities(self, embeddings: Floats) -> Floats:
        """Return the calibrated probabilities (N, C) of embeddings (N, D). Raises EncoderError."""
        return sigmoid(self.slope * self.logits(embeddings) + self.offset).astype(np.float32)

    def require_fingerprint(self, fingerprint: str) -> None:
        """Raise EncoderError unless embeddings of that fingerprint are what this probe was learnt from."""
        if fingerprint != self.fingerprint:
            raise EncoderError(
                f"the probe was trained on vectors of encoder {self.fingerprint[:12]}, this encoder is "
                f"{fingerprint[:12]}; run: precedent probe EMBEDDINGS --out PROBE"
            )

    def save(self, folder: Path) -> None:
        """Write probe.safetensors, which holds all of it, and probe.json, the same but for the weights, to be read."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        details = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "findings": list(self.findings),
            "strengths": list(self.strengths),
            "skipped": self.skipped,
            "operating_points": {name: vars(points) for name, points in self.points.items()},
            "set_on": {name: list(counts) for name, counts in self.set_on.items()},
            "evidence": None
            if self.evidence is None
            else {name: vars(evidence) for name, evidence in self.evidence.items()},
            "labels": None if self.labels is None else dict(self.labels),
        }
        text = json.dumps(details, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        metadata = {"format": FORMAT, "fingerprint": self.fingerprint, "details": text}
        save_tensors(folder / WEIGHTS, arrays, metadata)
        save_text(folder / DETAILS, text)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Return the probe of a folder. Raises CheckpointError where it is missing, has changed or is none.

        One that an older version wrote does not say how well it separates findings, nor how labels were read.
        """
        folder = Path(folder)
        details, arrays, fingerprint = _read(folder)
        if details.get("format") != FORMAT or details.get("version") != VERSION:
            raise CheckpointError(f"{str(folder)!r} holds no probe of version {VERSION}; run: precedent probe")
        try:
            findings, points = tuple(details["findings"]), details["operating_points"].items()
            probe = cls(
                fingerprint=fingerprint,
                findings=findings,
                strengths=tuple(details["strengths"]),
                skipped=details["skipped"],
                points={name: OperatingPoints(**point) for name, point in points},
                set_on={name: (int(some), int(none)) for name, (some, none) in details.get("set_on", {}).items()},
                evidence=_evidence(details.get("evidence")),
                labels=_labels(details.get("labels")),
                **arrays,
            )
            another = fingerprint != details["fingerprint"] or arrays["weight"].shape[1:] != (len(findings),)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{str(folder)!r} holds no readable probe ({error!r}); run: precedent probe"
            ) from error
        if another:
            raise CheckpointError(f"{str(folder)!r} holds files of two probes; run: precedent probe again")
        probe._require_whole(folder)
        return probe

    def _require_whole(self, folder: Path) -> None:
        """Raise CheckpointError unless all that was read of a folder is of the types and lengths that a probe has."""
        count = len(self.findings)
        arrays = [getattr(self, name) for name in _ARRAYS]
        texts = [self.fingerprint, *self.findings, *self.skipped, *self.skipped.values(), *self.points]
        thresholds = [value for point in self.points.values() for value in vars(point).values()]
        if (
            not all(isinstance(text, str) and len(text) <= MOST_TEXT for text in texts)
            or len(set(self.findings)) < count
            or len(self.strengths) != count
            or not all(type(value) in (int, float) and math.isfinite(value) for value in (*self.strengths, *thresholds))
            or self.weight.ndim != 2
            or any(array.shape != (count,) for array in arrays[1:])
            or not all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays)
        ):
            raise CheckpointError(f"{str(folder)!r} holds something other than a probe; run: precedent probe again")


_ARRAYS = ("weight", "bias", "slope", "offset")


def why_not(target: Floats) -> str | None:
    """Return why a finding's targets (N,) cannot be learned or evaluated; None where they can."""
    positives, negatives = int((target == 1).sum()), int((target == 0).sum())
    if positives and negatives:
        return None
    if not positives and not negatives:
        return "no study has a label for it that counts"
    return f"no {'negatives' if positives else 'positives'} among {positives + negatives} labelled studies"


def _check(embeddings: Floats, targets: Floats, findings: Sequence[str], folds: npt.NDArray[np.integer]) -> None:
    expected = (len(embeddings), len(findings))
    if embeddings.ndim != 2 or targets.shape != expected or folds.shape != expected[:1]:
        raise EncoderError(
            f"expected embeddings (N, D), targets (N, {len(findings)}) and folds (N,), got {embeddings.shape}, "
            f"{targets.shape} and {folds.shape}"
        )
    if not np.isfinite(embeddings).all():
        raise EncoderError("expected finite embeddings, got NaN or inf; export them again")
    if not np.isin(targets[~np.isnan(targets)], (0, 1)).all():
        raise EncoderError("expected targets of 1, 0 or NaN, got others; apply a label policy first")


def _evidence(stored: Any) -> dict[str, Evidence] | None:
    """Return the evidence for each finding that a file holds. Raises ValueError, TypeError: no such figures."""
    if stored is None:
        return None
    evidence = {name: Evidence(**figures) for name, figures in stored.items()}
    for name, judged in evidence.items():
        counts, figures = (judged.positives, judged.negatives), (judged.auroc, judged.low, judged.high)
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            raise ValueError(f"{name}: expected counts of studies, got {counts}")
        if not all(figure is None or 0 <= float(figure) <= 1 for figure in figures):
            raise ValueError(f"{name}: expected an AUROC and its interval in [0, 1], got {figures}")
    return evidence


def _labels(stored: Any) -> dict[str, Any] | None:
    if stored is None or isinstance(stored, dict):
        return stored
    raise ValueError(f"expected how labels were read as an object, got {stored!r}")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Floats], str]:
    try:
        metadata, tensors = load_tensors(folder / WEIGHTS, "run: precedent probe again")
        arrays = {name: tensors[name].numpy() for name in _ARRAYS}
        # A probe of an older version has its details beside its weights only.
        details = read_json(metadata.get("details") or read_regular(folder / DETAILS, MOST_DETAILS))
        if not isinstance(details, dict) or not isinstance(details.get("skipped", {}), dict):
            raise ValueError("its details are no object")
        return details, arrays, metadata["fingerprint"]
    except FileNotFoundError as error:
        raise CheckpointError(f"no probe in {str(folder)!r}; run: precedent probe EMBEDDINGS --out {folder}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{str(folder)!r} holds no readable probe ({error})") from error
