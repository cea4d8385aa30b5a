"""The CC0 hand mesh `cc0_hand`: linear blend skinning of 1,610 vertices on 20 joints, in plain numpy.

Shape and skinning only; fitting is in `hand_ik`, and where the mesh comes from in `bake_hand_mesh`.

Topology `cc0_hand`: joints in the order of `HandMesh.names` (wrist; thumb 1-3; then metacarpal and three phalanges of
index, middle, ring and little finger). A pose is one axis-angle vector per joint, in axes parallel to the mesh's own at
rest; joint 0 turns the whole hand. In the rest pose the wrist is the origin, fingers point along +y, and the palm of
the right hand faces -x. The left hand is the mirror image (x -> -x) with joints and vertices in the same order.
Shape coefficients: uniform scale, then the length of each of the 20 bones of the MediaPipe skeleton against the
uniformly scaled one, in the order of the keypoint at its far end; all 1 at rest.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

TOPOLOGY = "cc0_hand"
NUM_SHAPE = 21
_FILE = Path(__file__).parent / "hand_mesh.npz"

KEYPOINT_PARENTS = np.array([-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19])
"""Parent of each of the 21 keypoints in MediaPipe (and OpenPose) order: wrist, then four a finger from the thumb."""
TIPS = np.array([4, 8, 12, 16, 20])


def rotation_matrices(axis_angle: np.ndarray) -> np.ndarray:
    """Axis-angle vectors (..., 3), radians, to matrices (..., 3, 3)."""
    axis_angle = np.asarray(axis_angle, np.float64)
    return Rotation.from_rotvec(axis_angle.reshape(-1, 3)).as_matrix().reshape(*axis_angle.shape, 3)


def axis_angles(matrices: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) to axis-angle vectors (..., 3), radians."""
    return Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_rotvec().reshape(*matrices.shape[:-2], 3)


def mirrored(axis_angle: np.ndarray) -> np.ndarray:
    """The same rotations seen in a mirror (x -> -x): axis-angle (..., 3)."""
    return axis_angle * np.array([1.0, -1.0, -1.0])


@lru_cache(maxsize=1)
def _load() -> dict[str, np.ndarray]:
    with np.load(_FILE) as data:
        return {k: data[k] for k in data.files}


class HandMesh:
    """Posed meshes of the right or the left hand.

    Attributes:
        names: Joint names.
        parents: (J,) parent joint, -1 for the wrist.
        vertices: (V, 3) at rest, metres, wrist at the origin.
        joints: (J, 3) at rest.
        tips: (5, 3) finger ends at rest.
        tip_vertices: (5, n) vertices whose mean is a tip.
        faces: (F, 3) triangles, counter-clockwise from outside.
        weights: (V, J) skinning weights; rows sum to 1.
    """

    def __init__(self, handedness: str = "right"):
        if handedness not in ("left", "right"):
            raise ValueError(f"handedness is left or right, not {handedness!r}")
        data = _load()
        mirror = np.array([1.0 if handedness == "right" else -1.0, 1.0, 1.0])
        self.handedness = handedness
        self.names: list[str] = data["names"].tolist()
        self.parents = data["parents"].astype(int)
        self.vertices = data["vertices"].astype(np.float64) * mirror
        self.joints = data["joints"].astype(np.float64) * mirror
        faces = data["faces"].astype(np.int32)
        self.faces = faces if handedness == "right" else np.ascontiguousarray(faces[:, ::-1])
        self.weights = np.zeros((len(self.vertices), len(self.joints)))
        np.put_along_axis(self.weights, data["weight_index"].astype(int), data["weight"].astype(np.float64), axis=1)
        self.weights /= self.weights.sum(1, keepdims=True)
        self.tip_vertices = data["tip_vertices"].astype(int)
        self.tips = self.vertices[self.tip_vertices].mean(1)
        # Keypoints that are joints, in keypoint order, and the joint whose motion each keypoint follows.
        self.keypoint_joint = np.empty(21, int)
        inner = np.setdiff1d(np.arange(21), TIPS)
        self.keypoint_joint[inner] = data["keypoint_joints"].astype(int)
        self.keypoint_joint[TIPS] = self.keypoint_joint[TIPS - 1]
        self._bone_of_joint, self._bone_ends = self._bones()

    def _bones(self) -> tuple[np.ndarray, np.ndarray]:
        """For each joint, the keypoint bone whose length moves it, and the far end of the bone that starts at it."""
        end = np.full(len(self.joints), -1)
        for keypoint in range(1, 21):
            if keypoint not in TIPS:
                end[self.keypoint_joint[keypoint]] = keypoint
        # A metacarpal's joint lies on the bone from the wrist to its knuckle.
        for joint in range(len(self.joints) - 1, 0, -1):
            if end[joint] < 0:
                end[joint] = end[np.flatnonzero(self.parents == joint)[0]]
        far = np.zeros_like(self.joints)
        for joint in range(1, len(self.joints)):
            children = np.flatnonzero(self.parents == joint)
            far[joint] = self.joints[children[0]] if len(children) else self.tips[(end[joint] - 3) // 4]
        return end, far

    def rest(self, shape: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Joints (J, 3), finger ends (5, 3) and vertices (V, 3) of one hand shape (S,), unposed."""
        if shape is None:
            return self.joints, self.tips, self.vertices
        joints, tips = self.skeleton(shape)
        return joints, tips, self._reshaped(shape, np.arange(len(self.vertices)))

    def skeleton(self, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joints (J, 3) and finger ends (5, 3) of one hand shape (S,), unposed."""
        shape = self._checked(shape)
        tips = self._reshaped(shape, self.tip_vertices.ravel()).reshape(5, -1, 3).mean(1)
        return shape[0] * self._unscaled_joints(shape), tips

    @staticmethod
    def _checked(shape: np.ndarray) -> np.ndarray:
        shape = np.asarray(shape, np.float64)
        if shape.shape != (NUM_SHAPE,):
            raise ValueError(f"A {TOPOLOGY} shape has {NUM_SHAPE} coefficients, got {shape.shape}")
        return shape

    def _unscaled_joints(self, shape: np.ndarray) -> np.ndarray:
        joints = np.zeros_like(self.joints)
        for j in range(1, len(joints)):
            p = self.parents[j]
            joints[j] = joints[p] + shape[self._bone_of_joint[j]] * (self.joints[j] - self.joints[p])
        return joints

    def _reshaped(self, shape: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Some vertices of the reshaped hand: each joint carries them along and stretches them along its bone."""
        joints, source, weights = self._unscaled_joints(shape), self.vertices[index], self.weights[index]
        vertices = np.zeros_like(source)
        for j in range(len(joints)):
            local = source - self.joints[j]
            if j:
                along = self._bone_ends[j] - self.joints[j]
                along = along / np.linalg.norm(along)
                local = local + (shape[self._stretch_bone(j)] - 1.0) * (local @ along)[:, None] * along
            vertices += weights[:, j, None] * (joints[j] + local)
        return shape[0] * vertices

    def _stretch_bone(self, joint: int) -> int:
        # The bone that starts at a joint is the next one of its finger; a metacarpal's is the one it lies on.
        bone = self._bone_of_joint[joint]
        return bone if self.names[joint].startswith("metacarpal") else bone + 1

    def transforms(self, pose: np.ndarray, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rotations (N, J, 3, 3) and positions (N, J, 3) of the joints, the wrist at the origin.

        Args:
            pose: (N, J, 3) axis-angle, or (N, J, 3, 3) matrices.
            joints: (J, 3) joints of the unposed hand.
        """
        local = rotation_matrices(pose) if pose.ndim == 3 else pose
        rotations = np.empty_like(local)
        positions = np.empty((*local.shape[:2], 3))
        rotations[:, 0], positions[:, 0] = local[:, 0], joints[0]
        for j in range(1, len(joints)):
            p = self.parents[j]
            rotations[:, j] = rotations[:, p] @ local[:, j]
            positions[:, j] = positions[:, p] + rotations[:, p] @ (joints[j] - joints[p])
        return rotations, positions

    def __call__(
        self,
        pose: np.ndarray,
        shape: np.ndarray | None = None,
        translation: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pose N hands of one shape.

        Args:
            pose: (N, J, 3) axis-angle, radians.
            shape: (S,) shape coefficients; the mesh as it is by default.
            translation: (N, 3) wrist, metres.

        Returns:
            Vertices (N, V, 3) and keypoints (N, 21, 3), metres.
        """
        joints, tips, vertices = self.rest(shape)
        rotations, positions = self.transforms(np.asarray(pose, np.float64), joints)
        moved = _moves(translation, len(pose))
        keypoints = self._keypoints(rotations, positions, joints, tips) + moved
        # Blended affine maps: v -> sum_j w_j (R_j v + t_j) with t_j = position_j - R_j joint_j.
        shifts = positions - np.einsum("njab,jb->nja", rotations, joints)
        affine = np.concatenate([rotations, shifts[..., None]], -1).reshape(len(pose), len(joints), 12)
        blended = (self.weights @ affine).reshape(len(pose), -1, 3, 4)
        posed = np.einsum("nvab,vb->nva", blended[..., :3], vertices) + blended[..., 3] + moved
        return posed, keypoints

    def keypoints(
        self, pose: np.ndarray, shape: np.ndarray | None = None, translation: np.ndarray | None = None
    ) -> np.ndarray:
        """Keypoints (N, 21, 3) only, metres; arguments as for the whole mesh, which takes longer."""
        joints, tips = (self.joints, self.tips) if shape is None else self.skeleton(shape)
        rotations, positions = self.transforms(np.asarray(pose, np.float64), joints)
        return self._keypoints(rotations, positions, joints, tips) + _moves(translation, len(pose))

    def _keypoints(
        self, rotations: np.ndarray, positions: np.ndarray, joints: np.ndarray, tips: np.ndarray
    ) -> np.ndarray:
        keypoints = positions[:, self.keypoint_joint]
        last = self.keypoint_joint[TIPS]
        keypoints[:, TIPS] += np.einsum("nfij,fj->nfi", rotations[:, last], tips - joints[last])
        return keypoints


def _moves(translation: np.ndarray | None, count: int) -> np.ndarray:
    return np.zeros((count, 1, 3)) if translation is None else np.asarray(translation, np.float64)[:, None]


@lru_cache(maxsize=2)
def shared_mesh(handedness: str) -> HandMesh:
    """The mesh of one side, made once; not to be changed."""
    return HandMesh(handedness)
