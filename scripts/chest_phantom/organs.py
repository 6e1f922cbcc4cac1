"""The soft parts of a chest as a volume: body wall, lungs, heart, great vessels, airways, diaphragm, stomach gas."""

from dataclasses import dataclass

import numpy as np

from scripts.chest_phantom import anatomy
from scripts.chest_phantom.anatomy import F32, Chest, Pose, at
from scripts.chest_phantom.grid import STEP, Block, Ellipsoid, X, Y, Z, blend, block_around, soft, within

SOFT_TISSUE = 0.19  # absorption, 1/cm, of water at a usual tube voltage
_FUZZ = 0.45  # edges of heart and vessels are blended over 1/this voxels: fat and beating blur them
_SQUARENESS = 0.55  # of cross-sections: 0 is an ellipse, 1 a rectangle


@dataclass
class Volume:
    """A chest on the grid, (Z, Y, X) each; abnormalities are painted into it in place."""

    absorption: F32  # 1/cm
    lung: F32  # share of aerated lung in each voxel, [0, 1]
    cavity: F32  # depth below the inner chest wall, cm

    def copy(self) -> "Volume":
        """Return a volume that can be changed without changing this one."""
        return Volume(self.absorption.copy(), self.lung.copy(), self.cavity)

    def fill_lung(self, block: Block, occupancy: F32, value: float) -> None:
        """Replace lung inside `block` by something that absorbs `value`, 1/cm, by occupancy in [0, 1]."""
        lung = self.lung[block]
        share = occupancy * lung
        blend(self.absorption, block, share, value)
        lung -= share


def heart_parts(chest: Chest, enlargement: float) -> list[Ellipsoid]:
    """Return the heart's chambers as ellipsoids; an enlarged heart (1.25 and more) grows to the left and down."""
    size = chest.heart * enlargement
    extra = size - chest.heart
    middle = (2.3 + chest.heart_shift + 2.2 * extra, 2.6, -5.6 + 0.3 * extra)
    axis = (np.cos(chest.heart_tilt), 0.38, -np.sin(chest.heart_tilt))
    return [
        Ellipsoid(middle, (7.0 * size, 4.7 * size, 5.0 * size), axis),
        Ellipsoid((-1.9 + chest.heart_shift - 1.4 * extra, 1.0, -4.8), (3.1 * size, 3.2 * size, 4.9 * size)),
        Ellipsoid((0.9, -1.4 - extra, -2.4), (3.4 * size, 2.7 * size, 2.7 * size)),  # left atrium
    ]


def vessel_parts(chest: Chest) -> list[Ellipsoid]:
    """Return the great vessels and the roots of the lungs."""
    a = chest.aorta
    return [
        Ellipsoid((2.0 * a, -2.0, 6.6), (1.9 * a, 2.8 * a, 1.7 * a)),  # arch of the aorta
        Ellipsoid((-0.2, 1.6, 3.8), (2.2 * a, 2.1 * a, 3.8)),  # rising aorta
        Ellipsoid((-2.0, 1.2, 5.6), (1.3, 1.4, 5.2)),  # upper caval vein
        Ellipsoid((-2.2, 0.0, 13.0), (2.0, 2.2, 3.4)),  # vessels of the neck and arms
        Ellipsoid((2.4, -0.6, 12.6), (2.1, 2.2, 3.8)),
        Ellipsoid((2.4, 1.4, 2.5), (2.0, 2.0, 2.2)),  # trunk of the lung artery
        Ellipsoid((-3.6, -0.6, 0.6), (1.0, 1.2, 2.1)),  # right root of the lung
        Ellipsoid((3.9, -1.2, 1.6), (1.0, 1.3, 1.6)),  # left root
    ]


def dome_height(chest: Chest, pose: Pose) -> F32:
    """Return the height of the diaphragm over the floor plan, (1, Y, X) cm: two domes, steep at the back and sides."""
    side = np.where(X < 0, -1.0, 1.0)
    peak = np.where(X < 0, chest.dome_right, chest.dome_left) + pose.breath
    outward = side * X - 6.2
    sideways = np.where(outward > 0, 0.050 * outward**2 + 0.0005 * outward**4, 0.035 * outward**2)
    backward = Y - 2.2
    lengthways = np.where(backward < 0, 0.055 * backward**2, 0.05 * backward**2)
    return (peak - sideways - lengthways).astype(np.float32)


def paint_chest(chest: Chest, pose: Pose, enlargement: float = 1.0) -> Volume:
    """Return the soft parts of a chest without findings, except for its heart's size."""
    cavity = _cavity_depth(chest)
    lung = soft(cavity.copy())
    lung *= _above_diaphragm(chest, pose)
    _carve(lung, _midline_parts(chest, enlargement))
    _carve_spine(lung, chest)
    absorption = _body(chest)
    _thin_midline(absorption)
    absorption += lung * (np.float32(chest.lung) - absorption)
    for block, depth in [*_airways(chest), _stomach_gas(chest, pose)]:
        blend(absorption, block, soft(depth), 0.004)
    return Volume(absorption, lung, cavity)


def _section(half_width: F32, front: F32, back: F32, across: F32) -> F32:
    """Return depth below the surface of a tube of rounded cross-sections, (Z, Y, X) cm, negative outside."""
    half_depth = (front - back) / 2
    u = np.minimum(np.square(across / half_width), 3)  # beyond 3 the formula turns back on itself
    v = np.minimum(np.square((Y - (front + back) / 2) / half_depth), 3)
    depth = u * (np.float32(-(_SQUARENESS**2)) * v)
    depth += u
    depth += v
    np.sqrt(depth, out=depth)
    np.subtract(1, depth, out=depth)
    depth *= np.minimum(half_width, half_depth)
    return depth


def _heights(profile: np.ndarray) -> F32:
    return at(profile, Z).astype(np.float32)


def _cavity_depth(chest: Chest) -> F32:
    """Return the depth below the inner chest wall, the lungs' rounded tops included."""
    across = X - chest.bend(Z).astype(np.float32)
    depth = _section(
        _heights(anatomy.CAVITY_WIDTH),
        _heights(anatomy.CAVITY_FRONT),
        _heights(anatomy.CAVITY_BACK),
        across,
    )
    top = int(np.searchsorted(Z.ravel(), 3.0))
    x, y, z = across[top:], Y, Z[top:]
    rise = np.square((z - 3.0) / (chest.apex - 3.0))
    cap = np.square((np.abs(x) - 4.6) / 7.6) + np.square((y + 2.4) / 10.5) + rise
    np.minimum(depth[top:], (1 - np.sqrt(cap)) * np.float32(7.6), out=depth[top:])
    return depth


def _above_diaphragm(chest: Chest, pose: Pose) -> F32:
    return soft((Z - dome_height(chest, pose)) * np.float32(0.8))


def _midline_parts(chest: Chest, enlargement: float) -> list[Ellipsoid]:
    middle = Ellipsoid((0.2, -1.6, 4.0), (2.3, 6.6, 24.0))  # what lies between the lungs from neck to diaphragm
    return [middle, *vessel_parts(chest), *heart_parts(chest, enlargement)]


def _thin_midline(absorption: F32) -> None:
    """Let fat between the lungs absorb less than muscle, in place."""
    fat = Ellipsoid((0.0, -2.5, 3.0), (6.5, 8.5, 22.0))
    block = fat.block()
    absorption[block] *= 1 - np.float32(0.22) * np.clip(fat.depth(block) / np.float32(3.0), 0, 1)


def _carve(lung: F32, parts: list[Ellipsoid]) -> None:
    for part in parts:
        block = part.block()
        lung[block] *= 1 - soft(part.depth(block) * np.float32(_FUZZ))


def _carve_spine(lung: F32, chest: Chest) -> None:
    """Take the vertebral column and the descending aorta out of the lungs, in place."""
    block = block_around((0.0, -8.0, 0.0), (5.5, 7.0, 30.0))
    x, y, z = within(block)
    bend, back = chest.bend(z).astype(np.float32), at(anatomy.CAVITY_BACK, z).astype(np.float32)
    spine = 1 - np.sqrt(np.square((x - bend) / 2.1) + np.square((y - back - 0.4) / 2.8))
    lung[block] *= 1 - soft(spine * np.float32(2.3 * _FUZZ))
    radius = np.float32(1.25 * chest.aorta)
    aorta = radius - np.sqrt(np.square(x - bend - 1.9) + np.square(y - back - 3.6))
    lung[block] *= 1 - soft(aorta + np.minimum(0, np.float32(6.5) - z))


def _body(chest: Chest) -> F32:
    """Return the absorption of a body without lungs: muscle within, fat outside, breasts."""
    wall = np.float32(chest.wall)
    depth = _section(
        _heights(anatomy.BODY_WIDTH) + wall,
        _heights(anatomy.BODY_FRONT) + wall * np.float32(0.8),
        _heights(anatomy.BODY_BACK) - wall * np.float32(0.6),
        X,
    )
    muscle = depth - (np.float32(0.6) + wall)
    body = soft(depth) * np.float32(0.86 * SOFT_TISSUE)
    body += soft(muscle) * np.float32(0.14 * SOFT_TISSUE)
    for side in (-1.0, 1.0) if chest.breast else ():
        breast = Ellipsoid((side * 7.4, 9.2 + chest.wall, -5.2), (6.2, 1.6 + chest.breast, 5.8))
        block = breast.block()
        share = np.clip(breast.depth(block) / np.float32(1.0), 0, 1)  # thins out gently where it meets the wall
        np.maximum(body[block], share * np.float32(0.165), out=body[block])
    return body


def _airways(chest: Chest) -> list[tuple[Block, F32]]:
    """Return windpipe and main bronchi as (block, depth) pairs."""
    reach = block_around((0.0, -2.5, 11.0), (2.0, 4.0, 8.0))
    x, y, z = within(reach)
    back = np.float32(-1.2) - np.float32(0.28) * (z - 4.0)  # the windpipe leans back as it goes down
    pipe = np.float32(0.85) - np.hypot(x - chest.bend(z).astype(np.float32), y + 3.2 - 0.35 * (back + 1.2))
    pairs = [(reach, np.minimum(pipe, z - 3.6))]
    for end in ((-3.4, -2.6, 1.2), (4.2, -3.0, 1.0)):
        start = (0.0, -2.9, 4.0)
        centre = tuple((a + b) / 2 for a, b in zip(start, end, strict=True))
        along = tuple(b - a for a, b in zip(start, end, strict=True))
        half = float(np.linalg.norm(along)) / 2
        tube = Ellipsoid((centre[0], centre[1], centre[2]), (half + STEP, 0.62, 0.62), (along[0], along[1], along[2]))
        pairs.append((tube.block(), tube.depth(tube.block())))
    return pairs


def _stomach_gas(chest: Chest, pose: Pose) -> tuple[Block, F32]:
    height = chest.dome_left + pose.breath - 1.2 - chest.bubble * 0.8
    gas = Ellipsoid((6.0, 1.0, height), (1.5 * chest.bubble, 1.6 * chest.bubble, 0.8 * chest.bubble))
    return gas.block(), gas.depth(gas.block())
