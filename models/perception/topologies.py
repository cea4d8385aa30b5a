"""Posed vertices of the hands in a table, whatever mesh they were fitted to."""

from __future__ import annotations

import numpy as np

from models.perception import hand_mesh


def posed_hand(
    topology: str, handedness: str, pose: np.ndarray, shape: np.ndarray, translation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, V, 3), metres in the camera frame, and faces (F, 3) of N hands of one shape.

    Args:
        topology: cc0_hand or mano.
        handedness: left or right.
        pose: (N, J, 3) axis-angle, radians.
        shape: (S,) shape coefficients.
        translation: (N, 3) wrist, metres.

    Raises:
        ValueError: The topology is unknown.
        models.perception.hands.hamer.HamerUnavailable: MANO was asked for, whose files users get themselves.
    """
    if topology == hand_mesh.TOPOLOGY:
        mesh = hand_mesh.shared_mesh(handedness)
        vertices, _ = mesh(pose, shape, translation)
        return vertices, mesh.faces
    if topology == "mano":
        from models.perception.hands.hamer import mano_hand

        return mano_hand(handedness, pose, shape, translation)
    raise ValueError(f"Unknown hand mesh topology {topology!r}: cc0_hand and mano are known")
