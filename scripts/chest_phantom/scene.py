"""One study's chest, posed, with or without its findings: absorption maps, films, and where each finding shows."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from scripts.chest_phantom.abnormalities import enlargement, insert
from scripts.chest_phantom.anatomy import F32, Chest, Pose
from scripts.chest_phantom.bones import arm_absorption, bone_absorption
from scripts.chest_phantom.findings import Abnormality
from scripts.chest_phantom.organs import Volume, paint_chest
from scripts.chest_phantom.rays import View, frontal_view, lateral_view
from scripts.chest_phantom.thin import bronchogram, thin_absorption, vessel_thickness
from scripts.chest_phantom.vessels import Tree, grow_tree, vessel_absorption

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, half-open."""

_SHOWS = 0.03  # least change of absorption that counts as seen; quantum noise is about 0.02
_CORE = 0.25  # a box holds what changes by at least this share of the strongest change


@dataclass
class Scene:
    """A posed chest from which films with any choice of its findings are taken; volumes and projections are kept."""

    chest: Chest
    pose: Pose
    abnormalities: tuple[Abnormality, ...]
    tree: Tree = field(init=False)
    _plain: dict[float, Volume] = field(default_factory=dict, repr=False)
    _volumes: dict[tuple[Abnormality, ...], Volume] = field(default_factory=dict, repr=False)
    _maps: dict[tuple[str, tuple[Abnormality, ...]], F32] = field(default_factory=dict, repr=False)
    _still: dict[str, F32] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.tree = grow_tree(self.chest)

    def view(self, name: str) -> View:
        """Return the geometry of the film called `name`, frontal or lateral."""
        return {"frontal": frontal_view, "lateral": lateral_view}[name](self.chest, self.pose)

    def absorption(self, name: str, *, without: str = "") -> F32:
        """Return the absorption map of one film, (H, W), with all findings but the one named `without`."""
        abnormalities = tuple(abnormality for abnormality in self.abnormalities if abnormality.finding != without)
        if (name, abnormalities) not in self._maps:
            self._maps[name, abnormalities] = self._absorption(name, abnormalities)
        return self._maps[name, abnormalities]

    def boxes(self, name: str, finding: str) -> list[Box]:
        """Return the boxes in which a finding changes one film, the largest first; none where it does not show.

        Parts that lie apart (both sides of an edema, can and lead of a pacemaker) have a box each if they are at
        least a tenth of the largest.
        """
        change = np.abs(self.absorption(name) - self.absorption(name, without=finding))
        change = cv2.GaussianBlur(change, (0, 0), 1.5)
        if change.max() < _SHOWS:
            return []
        core = (change > max(_CORE * float(change.max()), _SHOWS / 2)).astype(np.uint8)
        core = cv2.morphologyEx(core, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
        _, _, stats, _ = cv2.connectedComponentsWithStats(core)
        parts = sorted(stats[1:].tolist(), key=lambda part: (-part[4], part))
        return [(x, y, x + w, y + h) for x, y, w, h, area in parts if area >= 0.1 * parts[0][4]]

    def _absorption(self, name: str, abnormalities: tuple[Abnormality, ...]) -> F32:
        view, volume = self.view(name), self._volume(abnormalities)
        if name not in self._still:
            self._still[name] = bone_absorption(self.chest, self.pose, view)
        total = np.maximum(view.cast(volume.absorption), arm_absorption(self.chest, view)) + self._still[name]
        total += vessel_absorption(self.tree, volume.lung, view, vessel_thickness(abnormalities, self.tree))
        total += thin_absorption(abnormalities, volume.lung, view)
        total += bronchogram(abnormalities, self.tree, self._filled(abnormalities, volume), view)
        return np.maximum(total, 0, out=total)

    def _volume(self, abnormalities: tuple[Abnormality, ...]) -> Volume:
        if abnormalities not in self._volumes:
            size = enlargement(abnormalities)
            if size not in self._plain:
                self._plain[size] = paint_chest(self.chest, self.pose, size)
            volume = self._plain[size].copy()
            insert(volume, abnormalities, self.chest, self.pose)
            self._volumes[abnormalities] = volume
        return self._volumes[abnormalities]

    def _filled(self, abnormalities: tuple[Abnormality, ...], volume: Volume) -> F32:
        return self._plain[enlargement(abnormalities)].lung - volume.lung
