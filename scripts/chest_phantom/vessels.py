"""The vessel trees of both lungs: grown once a patient, drawn wherever there is still aerated lung around them."""

from dataclasses import dataclass

import numpy as np

from scripts.chest_phantom import anatomy
from scripts.chest_phantom.anatomy import F32, Chest, at
from scripts.chest_phantom.grid import COUNTS, ORIGIN, STEP
from scripts.chest_phantom.rays import View
from scripts.chest_phantom.strokes import Points, Sheet

_TWIGS = 260  # ends a lung
_TIP = 0.062  # radius of an end, cm
_ROOTS = ((-3.4, -0.8, 0.8), (3.8, -1.2, 1.6))


@dataclass(frozen=True)
class Tree:
    """Straight pieces of vessels: starts and ends (N, 3) in standard cm, radii (N,)."""

    starts: Points
    ends: Points
    radii: Points

    @property
    def middles(self) -> Points:
        """The middle of each piece, (N, 3)."""
        return (self.starts + self.ends) / 2


def grow_tree(chest: Chest) -> Tree:
    """Return the patient's vessels: ends are scattered through the lungs and joined by the shortest detour.

    Radii follow Murray's law (the cube of a parent is the sum of its children's cubes).
    """
    rng = np.random.default_rng(chest.tree_seed)
    lungs = [_grow(rng, np.array(root)) for root in _ROOTS]
    return Tree(*(np.concatenate(parts) for parts in zip(*lungs, strict=True)))


def vessel_absorption(tree: Tree, lung: F32, view: View, thickness: Points) -> F32:
    """Return what vessels absorb beyond the lung around them, (H, W).

    Args:
        lung: (Z, Y, X) share of aerated lung; a piece whose middle has lost its air is not drawn.
        thickness: (N,) factors on the pieces' radii.
    """
    seen = sample(lung, tree.middles) > 0.5
    sheet = Sheet(view, full=0.5)
    order = np.flatnonzero(seen)
    for layer in range(3):
        part = order[order % 3 == layer]
        sheet.segments(tree.starts[part], tree.ends[part], tree.radii[part] * thickness[part], 0.34, layer=layer)
    return sheet.total(0.7)


def sample(volume: F32, points: Points) -> Points:
    """Return the volume's value in the voxel of each point; points: (N, 3) standard cm -> (N,)."""
    index = np.rint((points - ORIGIN) / STEP).astype(int)
    x, y, z = np.clip(index, 0, np.array(COUNTS) - 1).T
    return volume[z, y, x].astype(np.float64)


def _grow(rng: np.random.Generator, root: Points) -> tuple[Points, Points, Points]:
    ends = _scatter(rng, np.sign(root[0]))
    ends = ends[np.argsort(np.linalg.norm(ends - root, axis=1))]
    nodes, way = np.vstack([root, ends]), np.zeros(len(ends) + 1)
    parent = np.zeros(len(nodes), dtype=int)
    for child in range(1, len(nodes)):
        gap = np.linalg.norm(nodes[:child] - nodes[child], axis=1)
        parent[child] = int(np.argmin(gap + 0.55 * way[:child]))
        way[child] = way[parent[child]] + gap[parent[child]]
    load = np.ones(len(nodes))
    for child in range(len(nodes) - 1, 0, -1):
        load[parent[child]] += load[child]
    return nodes[parent[1:]], nodes[1:], _TIP * np.minimum(load[1:], 110) ** (1 / 2.7)


def _scatter(rng: np.random.Generator, side: float) -> Points:
    """Return points in one lung, denser towards its middle, (_TWIGS, 3)."""
    z = rng.uniform(-14.0, 12.6, _TWIGS * 6)
    turn = rng.uniform(0.0, np.pi, z.size)
    share = np.sqrt(rng.uniform(0.02, 0.90, z.size))
    front, back = at(anatomy.CAVITY_FRONT, z), at(anatomy.CAVITY_BACK, z)
    half, top = (front - back) / 2, np.sqrt(np.clip(1 - ((z - 3) / 10.2) ** 2, 0, 1))
    width = at(anatomy.CAVITY_WIDTH, z) * np.where(z > 3, 0.35 + 0.65 * top, 1.0)
    x = side * width * share * np.sin(turn)
    points = np.stack([x, (front + back) / 2 - half * share * np.cos(turn), z], axis=1)
    return points[np.abs(x) > 2.5][:_TWIGS]
