"""What the embedded judge sees, on drawn scenes whose truth is known."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from models.judges.measures.cells import (
    CHANNELS,
    COVER,
    OWN,
    PAIR,
    HandCells,
    hand_cells,
    moved_cells,
    own_cells,
    pair_cells,
)
from models.judges.measures.windows import (
    AFTER_S,
    BEFORE_S,
    BODY_PX,
    INSIDE,
    MASKS,
    MOMENTS,
    NUMBERS,
    SLEEVE_PX,
    SUMMARY,
    hand_views,
    moments,
)
from tests.models.drawn_interaction import END, FRAMES, RESULT, SOURCE, START, WIDTH, request, video

INSIDE_SPAN = slice(len(BEFORE_S), len(BEFORE_S) + len(INSIDE))


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    return video(True, SOURCE, 0)


def channel(cells: HandCells, name: str, part: slice = INSIDE_SPAN) -> np.ndarray:
    return cells.body[part, CHANNELS.index(name)].astype(float)


# --- moments and windows ---


def test_moments_lie_before_in_and_after_the_span(source: np.ndarray) -> None:
    asked = request(source, source)
    index, in_phase = moments(asked)
    frames = asked.frames[index]
    assert len(frames) == MOMENTS and in_phase[: len(BEFORE_S)].all() and (np.diff(frames) >= 0).all()
    assert (frames[: len(BEFORE_S)] < START).all() and (frames[-len(AFTER_S) :] >= END).all()
    assert frames[INSIDE_SPAN].tolist() == [START + round(s * (END - 1 - START)) for s in INSIDE]
    # 0.8 s after the last frame would be frame 41 of 40.
    assert frames[-1] == FRAMES - 1
    # A span that is the whole video leaves nothing before or after it.
    index, in_phase = moments(request(source, source, span=(0, FRAMES)))
    assert in_phase.tolist() == [False] * len(BEFORE_S) + [True] * len(INSIDE) + [False] * len(AFTER_S)


def test_windows_follow_the_body(source: np.ndarray) -> None:
    moving = video(True, SOURCE, 0, sway=6.0)
    still, swaying = request(source, source), request(moving, moving, sway=6.0)
    # The body moves by up to 12 pixels.
    left_behind = dataclasses.replace(swaying, landmarks=still.landmarks)
    seen = [hand_views(r)["right"].of(r.source[moments(r)[0]])[0].astype(float) for r in (still, swaying, left_behind)]
    apart = [np.abs(seen[0] - s)[:, 4:-4, 4:-4].mean() for s in seen[1:]]
    assert apart[0] < 8 and apart[1] > 1.3 * apart[0]


def test_a_left_hand_is_the_mirror_image_of_a_right_one(source: np.ndarray) -> None:
    asked = request(source, source)
    views = hand_views(asked)
    swapped = asked.landmarks.copy()
    for left, right in ((11, 12), (13, 14), (15, 16), (17, 18), (19, 20), (23, 24)):
        swapped[:, [left, right]] = asked.landmarks[:, [right, left]]
    swapped[..., 0] = WIDTH - 1 - swapped[..., 0]
    mirrored = dataclasses.replace(
        asked,
        source=asked.source[:, :, ::-1],
        region=asked.region[:, :, ::-1],
        hands=[{"left": h["right"] * (-1, 1) + (WIDTH - 1, 0)} if h else {} for h in asked.hands],
        landmarks=swapped,
        contact={"left": asked.contact["right"], "right": asked.contact["left"]},
    )
    other = hand_views(mirrored)["left"]
    assert other.numbers == pytest.approx(views["right"].numbers, abs=1e-4)
    assert other.summary == pytest.approx(views["right"].summary, abs=1e-4)
    index, _ = moments(asked)
    for mine, theirs in zip(views["right"].of(asked.source[index]), other.of(mirrored.source[index])):
        assert np.abs(mine.astype(int) - theirs).mean() < 1


def test_views_say_where_the_hand_is_and_what_the_contact_network_says(source: np.ndarray) -> None:
    view = hand_views(request(source, source))["right"]
    assert view.numbers.shape == (MOMENTS, len(NUMBERS)) and view.summary.shape == (len(SUMMARY),)
    down, seen = view.numbers[:, NUMBERS.index("down")], view.numbers[:, NUMBERS.index("seen")]
    # The hand goes down by 55 pixels, and a body unit is at least the torso's 80 over 1.6.
    assert down[INSIDE_SPAN][-1] - down[INSIDE_SPAN][0] == pytest.approx(55 * 0.84 / 50, abs=0.1)
    assert seen.tolist() == [0, 0, 1, *[1] * len(INSIDE), 1, 0, 0]
    assert view.summary[SUMMARY.index("own_operate_zipper")] == pytest.approx(np.sqrt(0.95 * 0.88), abs=1e-3)
    assert (
        view.body_masks.shape == (MOMENTS, BODY_PX, BODY_PX, len(MASKS)) and view.sleeve_masks.shape[1:3] == SLEEVE_PX
    )
    assert view.body_masks[5, ..., 0].max() == 255 and view.body_masks[0, ..., 0].max() == 0
    with pytest.raises(ValueError, match="contact network"):
        hand_views(dataclasses.replace(request(source, source), contact=None))


# --- cells ---


def cloth(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.uniform(0, 255, (64, 64, 3)).astype(np.float32), (0, 0), 2).astype(np.uint8)


def window(picture: np.ndarray, x: int = 0) -> np.ndarray:
    return picture[8:56, 8 + x : 56 + x]


def test_cells_tell_changed_cloth_from_cloth_that_lies_a_little_off() -> None:
    picture = cloth(0)
    changed = picture.copy()
    changed[24:40, 24:40] = cloth(1)[24:40, 24:40]
    pictures = np.stack(
        [window(picture)] * 4 + [window(picture, 2), window(changed)] + [window(picture)] * (MOMENTS - 6)
    )
    masks = np.zeros((MOMENTS, 48, 48, len(MASKS)), np.uint8)
    masks[7, 16:32, 16:32, 0] = 255
    found = own_cells([pictures, 255 - pictures], masks, np.ones(MOMENTS, bool)).astype(float)
    assert found.shape == (2, MOMENTS, len(OWN), 12, 12)
    best, here, across = (found[0, :, OWN.index(n)] for n in ("changed", "changed_here", "across"))
    middle = (slice(5, 7), slice(5, 7))
    # The window moved to the right, so its cloth was two pixels further right before.
    assert across[4, 2:-2, 2:-2].mean() > 0.9 and best[4].mean() < best[5][middle].mean() - 1
    assert here[4].mean() > best[4].mean() + 0.7
    assert best[5][middle].mean() > best[3].mean() + 1 and best[5, :2].mean() == pytest.approx(
        best[3, :2].mean(), abs=0.01
    )
    assert np.isnan(best[7][middle]).all() and np.isfinite(best[7, :2]).all()
    # Other colours, the same changes.
    assert np.nanmax(np.abs(found[0] - found[1])[:, 0]) < 0.8


def blurred_lab(picture: np.ndarray, times: int) -> np.ndarray:
    """CIELAB, 1 is from black to white, under the binomial kernel."""
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(float) / 100
    for _ in range(times):
        lab = cv2.sepFilter2D(lab, -1, np.array([0.25, 0.5, 0.25]), np.array([0.25, 0.5, 0.25]), borderType=1)
    return lab


# A cell in the middle, with its neighbours: rows and columns 16 to 27 of the pictures.
AROUND = slice(16, 28)


def test_change_of_a_cell_is_the_least_difference_to_what_lay_around_it_before() -> None:
    pictures = np.stack([window(cloth(k)) for k in range(MOMENTS)])
    masks = np.zeros((MOMENTS, 48, 48, len(MASKS)), np.uint8)
    found = own_cells([pictures], masks, np.ones(MOMENTS, bool))[0, :, :, 5, 5].astype(float)
    lab = [blurred_lab(p, 1) for p in pictures]
    for t in (4, MOMENTS - 1):
        costs = {}
        for before in lab[: len(BEFORE_S)]:
            for y in range(-2, 3):
                for x in range(-2, 3):
                    there = before[AROUND.start + y : AROUND.stop + y, AROUND.start + x : AROUND.stop + x]
                    apart = np.abs(lab[t][AROUND, AROUND] - there).sum(-1).mean()
                    cost = (apart + 0.004) / 1.1 + 0.002 * np.hypot(x, y)
                    costs[x, y] = min(cost, costs.get((x, y), np.inf))
        nearest = min(costs, key=lambda k: costs[k])
        assert found[t, OWN.index("changed")] == pytest.approx(np.log(costs[nearest] + 0.01), abs=2e-3)
        assert found[t, OWN.index("changed_here")] == pytest.approx(np.log(costs[0, 0] + 0.01), abs=2e-3)
        assert [found[t, OWN.index(n)] for n in ("across", "down")] == [v / 2 for v in nearest]


def test_shared_edges_are_those_of_the_same_direction() -> None:
    source, result = window(cloth(3)), window(cloth(4))
    masks = np.zeros((1, 48, 48, len(MASKS)), np.uint8)
    found = pair_cells(source[None], result[None], masks)[0, :, 5, 5].astype(float)
    common = np.zeros((12, 12))
    edges = {}
    gradients = [np.gradient(blurred_lab(p, 2) * 100, axis=(0, 1)) for p in (source, result)]
    for name, (down, across) in zip(("source", "result"), gradients):
        strength = (down**2 + across**2).sum(-1)
        edges[name] = (strength / (strength + 1))[AROUND, AROUND].mean()
    # Squared cosines between the gradients of all pairs of colour channels, weighted by their lengths.
    for a in range(3):
        for b in range(3):
            (ay, ax), (by, bx) = ([g[..., c][AROUND, AROUND] for g in of] for of, c in zip(gradients, (a, b)))
            common += (ax * bx + ay * by) ** 2
    for down, across in gradients:
        common /= (down**2 + across**2).sum(-1)[AROUND, AROUND] + 1
    for name in ("source", "result"):
        assert found[PAIR.index(f"{name}_edges")] == pytest.approx(common.mean() / (edges[name] + 0.05), abs=2e-3)


def test_moved_cells_are_where_done_and_undone_differ() -> None:
    undone = np.full((1, 48, 48, 3), 100, np.uint8)
    done = undone.copy()
    done[0, 8:12, 4:6, 1] = 151
    found = moved_cells(done, undone)
    assert (
        found.shape == (1, 12, 12) and found[0, 2, 1] == pytest.approx(0.1, abs=1e-3) and np.count_nonzero(found) == 1
    )


def test_pair_cells_see_the_same_folds_in_other_colours() -> None:
    picture = window(cloth(3))
    masks = np.zeros((1, 48, 48, len(MASKS)), np.uint8)
    alike, other = (pair_cells(picture[None], v[None], masks).astype(float) for v in (255 - picture, window(cloth(4))))
    edges = PAIR.index("source_edges")
    assert alike[0, edges].mean() > 0.65 and other[0, edges].mean() < alike[0, edges].mean() - 0.25
    same = PAIR.index("same")
    assert pair_cells(picture[None], picture[None], masks)[0, same].min() == 1 and alike[0, same].mean() < 0.4


def test_cells_of_a_request_show_whether_the_results_front_opens(source: np.ndarray) -> None:
    done, still = (hand_cells(request(video(o, RESULT, 5), source))["right"] for o in (True, False))
    assert done.body.shape[1:] == (len(CHANNELS), 12, 12) and done.sleeve.shape[1:] == (len(CHANNELS), 6, 12)
    after = slice(MOMENTS - 2, MOMENTS)
    changes = [np.nanmax(channel(c, "result_changed", after)) for c in (done, still)]
    assert changes[0] > changes[1] + 1
    assert channel(done, "source_changed", after) == pytest.approx(channel(still, "source_changed", after), nan_ok=True)
    covered = [channel(done, name) for name in COVER]
    assert covered[0].max() > 0.9 and covered[-1].max() == 1
