"""Cutting and measuring of meshes, against areas and shapes that are known."""

from __future__ import annotations

import numpy as np
from scipy.spatial import Delaunay

from pipelines.studio.garments import mesh
from pipelines.studio.garments.sections import PolarMap, hull_radius, ray_radius, section


def test_splitting_keeps_area_and_leaves_no_face_across_the_line():
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-1, 1, (60, 2)), np.zeros(60)])
    faces = Delaunay(points[:, :2]).simplices.astype(np.int32)
    patch = mesh.whole_body(faces, len(points))
    field = points[:, 0] - 0.3 * points[:, 1] - 0.05
    split = mesh.split_at(patch, field)

    def area(p):
        v = p.mix @ points
        a, b, c = (v[p.faces[:, k]] for k in range(3))
        return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()

    assert np.isclose(area(split), area(patch))
    values = (split.mix @ field)[split.faces]
    assert ((values > -1e-9).all(1) | (values < 1e-9).all(1)).all()
    kept = mesh.clip(patch, field)
    assert np.isclose(area(kept) + area(mesh.clip(patch, -field)), area(patch))
    fine = mesh.refine(patch, points, np.full(len(points), 0.3))
    assert np.isclose(area(fine), area(patch)) and len(fine.faces) > len(patch.faces)


def test_strip_closes_the_space_between_two_rows():
    upper_at, lower_at = np.linspace(0, 1, 8), np.sort(np.random.default_rng(1).uniform(0, 1, 13))
    lower_at[[0, -1]] = 0, 1
    points = np.concatenate([np.column_stack([upper_at, np.ones(8)]), np.column_stack([lower_at, np.zeros(13)])])
    faces = mesh.strip(np.arange(8), np.arange(8, 21), upper_at, lower_at)
    a, b, c = (points[faces[:, k]] for k in range(3))
    signed = 0.5 * ((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))
    assert len(faces) == 19 and (signed >= -1e-12).all() and np.isclose(signed.sum(), 1.0)


def test_sections_of_a_cylinder():
    angle = np.linspace(0, 2 * np.pi, 181)[:-1]
    ring = np.column_stack([0.3 * np.sin(angle), -0.2 * np.cos(angle)])
    vertices = np.concatenate([np.column_stack([ring, np.full(180, z)]) for z in (0.0, 1.0)])
    k = np.arange(180)
    n = (k + 1) % 180
    faces = np.concatenate([np.stack([k, n, k + 180], -1), np.stack([n, n + 180, k + 180], -1)])
    segments = section(vertices, faces, np.array([0, 0, 0.4]), np.eye(3))
    at = np.linspace(-3, 3, 31)
    want = 1 / np.sqrt((np.sin(at) / 0.3) ** 2 + (np.cos(at) / 0.2) ** 2)
    np.testing.assert_allclose(ray_radius(segments, at), want, rtol=1e-3)
    np.testing.assert_allclose(hull_radius(segments.reshape(-1, 2), at), want, rtol=1e-3)
    around = ray_radius(segments, np.linspace(-np.pi, np.pi, 97))
    table = PolarMap(np.linspace(0.1, 0.9, 5), np.zeros(5), np.stack([around] * 5))
    np.testing.assert_allclose(table.at(at, np.full(31, 0.37)), want, rtol=3e-3)
    spot = table.point(at, want, np.full(31, 0.5))
    np.testing.assert_allclose(table.polar(spot), (at, want), atol=1e-9)
