"""Hands in poses that nobody performs in the studio, as the lifter would see them.

Rendered clips show a few dozen gestures. A network that saw nothing else pulls every hand towards them; these hands,
posed at random within the limits of their joints and seen with the kind of error MediaPipe makes, teach it to leave
fingers where they are in the picture and to turn the hand so that they fit there.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from models.perception.hand_ik_solver import freedoms
from models.perception.hand_mesh import NUM_SHAPE, shared_mesh

_TURN = np.radians(22.0)  # error of the turn of MediaPipe's world landmarks, out of the picture
_BONE = 0.05  # people's bones differ from the mesh's by this share
_SCALES = (0.88, 1.12)
_POINT = 0.02  # hand sizes: error of a keypoint in the picture
_METRE = 0.004  # error of a world landmark besides the turn
_SIZE = 60.0  # pixels; of no consequence


def random_hands(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Right hands in random poses.

    Args:
        count: How many.
        rng: Where the draws come from.

    Returns:
        Points (N, 21, 2) as seen, pixels; world landmarks (N, 21, 3) as seen, metres; the true keypoints (N, 21, 3)
        about their mean, metres along the viewing ray; pixels a metre (N,).
    """
    mesh, dofs = shared_mesh("right"), freedoms()
    pose = np.zeros((count, len(mesh.joints), 3))
    # All fingers of a hand tend to bend alike.
    together = rng.normal(0, 1, (count, 1))
    own = 0.7 * together + 0.7 * rng.normal(0, 1, (count, len(dofs)))
    for i, dof in enumerate(dofs):
        middle = 0.5 * (max(dof.low, -dof.sigma) + min(dof.high, 2 * dof.sigma))
        angle = np.clip(middle + 0.8 * dof.sigma * own[:, i], dof.low, dof.high)
        pose[:, dof.joint] += angle[:, None] * dof.axis
    pose[:, 0] = Rotation.random(count, random_state=rng).as_rotvec()
    true = np.empty((count, 21, 3))
    shapes = np.ones((max(1, count // 64), NUM_SHAPE))
    shapes[:, 0] = rng.uniform(*_SCALES, len(shapes))
    shapes[:, 1:] += _BONE * rng.normal(0, 1, (len(shapes), 20))
    for rows, shape in zip(np.array_split(np.arange(count), len(shapes)), shapes):
        true[rows] = mesh.keypoints(pose[rows], shape)
    true -= true.mean(1, keepdims=True)
    pixels_per_metre = _SIZE / (2 * np.sqrt((true[..., :2] ** 2).sum(-1).mean(1)))
    points = true[..., :2] * pixels_per_metre[:, None, None] + _POINT * _SIZE * rng.normal(0, 1, (count, 21, 2))
    axis = rng.uniform(0, 2 * np.pi, count)
    flat = np.stack([np.cos(axis), np.sin(axis), np.zeros(count)], -1)
    turn = Rotation.from_rotvec(flat * rng.normal(0, _TURN, (count, 1))).as_matrix()
    world = np.einsum("nij,nkj->nki", turn, true) * np.exp(rng.normal(-0.1, 0.1, (count, 1, 1)))
    world += _METRE * rng.normal(0, 1, world.shape)
    return points, world, true, pixels_per_metre
