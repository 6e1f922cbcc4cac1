"""How each finding that fills, empties or veils the lungs is painted into a chest's volume.

Nodules, lines and devices are drawn in `thin`, at full resolution.
"""

from collections.abc import Callable

import cv2
import numpy as np

from scripts.chest_phantom.anatomy import F32, Chest, Pose
from scripts.chest_phantom.findings import Abnormality
from scripts.chest_phantom.grid import STEP, Block, X, block_around, soft, within
from scripts.chest_phantom.organs import SOFT_TISSUE, Volume

_HILUM = (3.9, -0.9, 0.8)


def enlargement(abnormalities: tuple[Abnormality, ...]) -> float:
    """Return the heart's size factor: 1, or 1.24 to 1.48 for an enlarged one."""
    sizes = [
        1.24 + 0.24 * abnormality.severity for abnormality in abnormalities if abnormality.finding == "Cardiomegaly"
    ]
    return max(sizes, default=1.0)


def insert(volume: Volume, abnormalities: tuple[Abnormality, ...], chest: Chest, pose: Pose) -> None:
    """Paint findings into `volume`, in place, in an order that lets air and fluid displace what veils the lung."""
    for finding, paint in _PAINTERS.items():
        for abnormality in abnormalities:
            if abnormality.finding == finding:
                for side in abnormality.sides:
                    paint(volume, abnormality, side, chest, pose)


def half(side: int) -> Block:
    """Return the half of the grid on one side of the midline."""
    middle = int(np.searchsorted(X.ravel(), 0.0))
    columns = slice(0, middle) if side < 0 else slice(middle, X.size)
    return (slice(None), slice(None), columns)


def place_of(abnormality: Abnormality, side: int) -> tuple[float, float, float]:
    """Return where a focal finding lies in the lung of `side`, standard cm."""
    return (-side * abnormality.place[0], abnormality.place[1], abnormality.place[2])


def _insert_edema(volume: Volume, abnormality: Abnormality, side: int, chest: Chest, pose: Pose) -> None:
    """Veil the lung around its root, the more the lower."""
    block = half(side)
    x, y, z = within(block)
    gap = np.square((x - side * _HILUM[0]) / 7.5) + np.square((y - _HILUM[1]) / 9.0) + np.square((z + 0.8) / 9.5)
    haze = np.maximum(1 - gap, 0) * np.float32(0.034 + 0.045 * abnormality.severity)
    haze = haze * (1 + np.float32(0.35) * _mottle(abnormality.seed + side, haze.shape, 1.3))
    volume.absorption[block] += haze * volume.lung[block]


def _insert_consolidation(volume: Volume, abnormality: Abnormality, side: int, chest: Chest, pose: Pose) -> None:
    """Fill airspaces in a soft-edged patch of 4.2 to 5.7 cm radius, denser than in life: it must show on 160 pixels."""
    radius = 4.2 + 1.5 * abnormality.severity
    centre = place_of(abnormality, side)
    reach = radius * 1.5
    block = block_around(centre, (reach, reach, reach))
    x, y, z = within(block)
    gap = np.sqrt(sum(np.square((c - o) / s) for c, o, s in zip((x, y, z), centre, (1.0, 1.1, 0.85), strict=True)))
    edge = radius - gap + 0.6 * _mottle(abnormality.seed, gap.shape, 2.2)
    occupancy = np.clip(edge / 1.1, 0, 1) * np.float32(0.96 + 0.04 * abnormality.severity)
    volume.fill_lung(block, occupancy, 1.25 * SOFT_TISSUE)


def _insert_pneumothorax(volume: Volume, abnormality: Abnormality, side: int, chest: Chest, pose: Pose) -> None:
    """Let air between chest wall and lung, most at the top, and draw the lung's own edge."""
    block = half(side)
    _, _, z = within(block)
    height = np.clip((z + 9.0) / (chest.apex + 9.0), 0, 1)
    gap = np.float32(1.5 + 3.0 * abnormality.severity) * (0.25 + 0.95 * height * height)
    inward = volume.cavity[block] - gap.astype(np.float32)  # depth below the collapsed lung's surface
    lung = volume.lung[block]
    volume.absorption[block] += lung * np.float32(0.012 + 0.03 * abnormality.severity) * (inward > 0)
    edge = np.maximum(1 - np.abs(inward) / np.float32(0.45), 0) * lung
    volume.fill_lung(block, soft(-inward), 0.002)
    volume.absorption[block] += edge * np.float32(0.075)


def _insert_effusion(volume: Volume, abnormality: Abnormality, side: int, chest: Chest, pose: Pose) -> None:
    """Fill the lowest part of one side with fluid that climbs the chest wall."""
    block = half(side)
    _, _, z = within(block)
    peak = (chest.dome_right if side < 0 else chest.dome_left) + pose.breath
    level = np.float32(peak - 2.3 + 7.0 * abnormality.severity)
    climb = np.float32(2.2 + 1.6 * abnormality.severity) * np.exp(
        -np.maximum(volume.cavity[block], 0) / np.float32(1.3)
    )
    volume.fill_lung(block, soft(level + climb - z), SOFT_TISSUE)


def _mottle(seed: int, shape: tuple[int, ...], size: float) -> F32:
    """Return smooth noise of standard deviation about 0.5 with blobs of `size` cm, (Z, Y, X)."""
    rng = np.random.default_rng(seed)
    cells = tuple(int(n * STEP / size) + 2 for n in shape)
    noise = rng.normal(0, 0.75, cells).astype(np.float32)
    plan = np.stack([cv2.resize(layer, (shape[2], shape[1]), interpolation=cv2.INTER_LINEAR) for layer in noise])
    flat = cv2.resize(plan.reshape(cells[0], -1), (shape[1] * shape[2], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(flat, dtype=np.float32).reshape(shape)


_PAINTERS: dict[str, Callable[[Volume, Abnormality, int, Chest, Pose], None]] = {
    "Edema": _insert_edema,
    "Consolidation": _insert_consolidation,
    "Pneumothorax": _insert_pneumothorax,
    "Pleural Effusion": _insert_effusion,
}
