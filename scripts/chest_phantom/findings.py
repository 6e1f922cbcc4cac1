"""Which findings a study has: drawn, and carried from one study of a patient to the next."""

from dataclasses import dataclass, replace

import numpy as np

RATES = {
    "Cardiomegaly": 0.20,
    "Lung Lesion": 0.17,
    "Edema": 0.18,
    "Consolidation": 0.18,
    "Pneumothorax": 0.16,
    "Pleural Effusion": 0.22,
    "Support Devices": 0.22,
}
"""Share of patients whose first study has the finding; `_CLEAR` of the patients have none of them."""

SIMULATED_FINDINGS = tuple(RATES)
"""The findings that can be simulated, under CheXpert's names and in its order."""

_CLEAR = 0.12
_NEW = 0.10  # chance that a later study brings a finding that the one before had not
_STAYS = {"Cardiomegaly": 0.95, "Lung Lesion": 0.9, "Support Devices": 0.8}  # the others: 0.6
_DEVICES = ("pacemaker", "port", "jugular line", "breathing tube")


@dataclass(frozen=True)
class Abnormality:
    """One finding of one study."""

    finding: str
    severity: float  # 0 is the least that a trained eye sees at 224 pixels, 1 is gross
    sides: tuple[int, ...]  # -1 the patient's right, +1 the left; both for what has no side
    place: tuple[float, float, float]  # where a focal finding lies, standard cm (right lung; mirrored for the left)
    kind: str  # of a device; empty otherwise
    seed: int  # draws shapes that severity leaves open

    def __post_init__(self) -> None:
        if self.finding not in SIMULATED_FINDINGS:
            raise ValueError(f"expected one of {', '.join(SIMULATED_FINDINGS)}, got finding {self.finding!r}")


def draw_finding(finding: str, rng: np.random.Generator) -> Abnormality:
    """Return one random example of a finding."""
    return Abnormality(
        finding=finding,
        severity=float(rng.beta(1.3, 1.4)),
        sides=_draw_sides(finding, rng),
        place=(float(-rng.uniform(5.2, 9.4)), float(rng.uniform(-5.5, 4.0)), float(rng.uniform(-5.2, 7.5))),
        kind=str(rng.choice(_DEVICES)) if finding == "Support Devices" else "",
        seed=int(rng.integers(2**32)),
    )


def draw_findings(rng: np.random.Generator) -> tuple[Abnormality, ...]:
    """Return the findings of a patient's first study, each drawn independently of the others."""
    if rng.random() < _CLEAR:
        return ()
    return tuple(draw_finding(name, rng) for name, rate in RATES.items() if rng.random() < rate)


def follow_up(abnormalities: tuple[Abnormality, ...], rng: np.random.Generator) -> tuple[Abnormality, ...]:
    """Return the findings of the next study: some gone, some better or worse, seldom a new one."""
    before = {abnormality.finding: abnormality for abnormality in abnormalities}
    after = []
    for name in SIMULATED_FINDINGS:
        stays, comes = rng.random() < _STAYS.get(name, 0.6), rng.random() < _NEW
        change, fresh = float(rng.normal(0, 0.25)), draw_finding(name, rng)
        if name in before and stays:
            after.append(replace(before[name], severity=float(np.clip(before[name].severity + change, 0, 1))))
        elif name not in before and comes:
            after.append(fresh)
    return tuple(after)


def _draw_sides(finding: str, rng: np.random.Generator) -> tuple[int, ...]:
    side = -1 if rng.random() < 0.5 else 1
    both = rng.random() < 0.3
    if finding in ("Cardiomegaly", "Edema") or (finding == "Pleural Effusion" and both):
        return (-1, 1)
    return (side,)
