"""The contact network: learns what is there to be learned, gives the same for the same, says what it does not know."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.contact.augment import AugmentSettings, augment, read_at, warp_positions
from models.contact.data import load_data, split_of
from models.contact.measure import calibrate, logits, measure
from models.contact.network import CLASSES, ContactNet, ContactShape, load, save, weights_digest
from models.contact.train import ContactTrainingSettings, Trainer, encode, main
from pipelines.store.schemas import ACTIONS
from tests.models.contact_sequences import CHANNELS, FEATURES, write_clips

QUICK = ContactTrainingSettings(steps=90, batch=12, length=24, learning_rate=5e-3, ema_decay=0.9)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 48)
    return folder


@pytest.fixture(scope="module")
def trained(clips):
    torch.set_num_threads(1)
    trainer = Trainer(QUICK, load_data([clips], "train"))
    for _ in range(QUICK.steps):
        trainer.train_step()
    return trainer


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return ContactNet(ContactShape(FEATURES, CHANNELS, **changes)).eval()


def test_classes_are_the_actions_and_rest():
    assert list(CLASSES) == [*ACTIONS, "rest"]


def test_it_tells_touching_from_mimicking_on_clips_it_has_not_seen(trained, clips):
    averaged, held_back = trained.averaged(), load_data([clips], "test")
    calibrate(averaged, load_data([clips], "val"))
    figures = measure(averaged, held_back)
    assert figures["acting_f1"] > 0.9 and figures["action_accuracy"] > 0.9
    assert figures["found"]["interaction"] == 1 and figures["found"]["pantomime"] == 0
    # Not by chance: before training it knows nothing of the kind.
    assert measure(network(), held_back)["acting_f1"] < 0.7


def test_temperature_makes_probabilities_likely_and_changes_no_decision(trained, clips):
    data = load_data([clips], "val")
    # Every tenth label is wrong, so that a sure network is too sure.
    wrong = np.arange(39) % 10 == 0
    unsure = tuple(replace(s, contact=s.contact ^ wrong) for s in data.sequences)
    data = replace(data, sequences=unsure)
    calibrated, sharp = trained.averaged(), trained.averaged()
    sharp.contact.weight.mul_(8)
    sharp.contact.bias.mul_(8)
    calibrate(calibrated, data)
    calibrate(sharp, data)
    # Logits that are eight times as large need eight times the temperature.
    assert sharp.log_temperature[0] - calibrated.log_temperature[0] == pytest.approx(np.log(8), abs=0.05)
    assert measure(calibrated, data)["contact_error"] < 0.6 * measure(trained.averaged(), data)["contact_error"]
    sequence = data.sequences[1]
    cells = torch.from_numpy(sequence.cells.astype(np.float32))[None]
    features = torch.from_numpy(sequence.features.astype(np.float32))[None]
    p, q = calibrated.probabilities(features, encode(calibrated, cells))
    contact, action = logits(calibrated, sequence)
    np.testing.assert_array_equal((p[0] > 0.5).numpy(), (contact > 0).numpy())
    np.testing.assert_array_equal(q[0].argmax(-1).numpy(), action.argmax(-1).numpy())
    np.testing.assert_allclose(q.sum(-1).numpy(), 1, atol=1e-5)


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(clips, tmp_path):
    data = load_data([clips], "train")
    whole, first, second = (Trainer(QUICK, data) for _ in range(3))
    for _ in range(4):
        whole.train_step()
    for _ in range(2):
        first.train_step()
    first.save(tmp_path / "state.pt")
    second.load(tmp_path / "state.pt")
    for _ in range(2):
        second.train_step()
    for name, value in whole.averaged().state_dict().items():
        torch.testing.assert_close(second.averaged().state_dict()[name], value, rtol=0, atol=0)
    other = Trainer(QUICK.model_copy(update={"seed": 1}), data)
    with pytest.raises(ValueError, match="other settings or clips"):
        other.load(tmp_path / "state.pt")


def test_mimed_actions_are_drawn_more_often_and_passing_touches_hardly_teach_rest(clips):
    data = load_data([clips], "train")
    mimed = np.array([s.acts and s.notes["performance"] == "pantomime" for s in data.sequences])
    acts = np.array([s.acts and s.notes["performance"] == "interaction" for s in data.sequences])
    chances = Trainer(QUICK, data)._chances
    np.testing.assert_allclose(chances[mimed], QUICK.mimed_weight * chances[acts][0])

    # The hand touches for a while before and after it acts; another hand is only laid on the cloth.
    acting = next(s for s in data.sequences if s.contact.any())
    start, end = np.flatnonzero(acting.contact)[[0, -1]]
    action = acting.action.copy()
    action[start : start + 4] = action[end - 3 : end + 1] = CLASSES.index("rest")
    laid = np.where(acting.contact, CLASSES.index("rest"), -1)
    trainer = Trainer(QUICK.model_copy(update={"length": 39}), data)
    for labels, least in ((action, QUICK.passing_weight), (laid, 1.0)):
        *_, named, _, weight, naming = trainer._window(replace(acting, action=labels), np.random.default_rng(0))
        rest = named == CLASSES.index("rest")
        torch.testing.assert_close(naming[rest], least * weight[rest])
        torch.testing.assert_close(naming[~rest], weight[~rest])


def test_what_was_not_seen_is_not_made_up():
    net = network()
    features = torch.full((1, 20, len(FEATURES)), torch.nan)
    contact, action, distance = net(features, torch.zeros(1, 20, 48))
    assert all(v.isfinite().all() for v in (contact, action, distance))
    mean = net.feature_mean.expand(1, 20, -1)
    torch.testing.assert_close(contact, net(mean, torch.zeros(1, 20, 48))[0])
    cells = torch.full((1, 3, len(CHANNELS), 9, 9), torch.nan)
    assert (encode(net, cells) == 0).all()


def test_an_answer_depends_on_its_second_and_no_more():
    net = network()
    features, encoded = torch.randn(1, 60, len(FEATURES)), torch.randn(1, 60, 48)
    before = net(features, encoded)[0]
    changed = features.clone()
    changed[:, 40:] += 1
    after = net(changed, encoded)[0]
    reach = net.shape.reach
    torch.testing.assert_close(after[:, : 40 - reach], before[:, : 40 - reach])
    assert not torch.allclose(after[:, 40 - reach], before[:, 40 - reach])
    # So a long video can be read in parts.
    part = net(features[:, : 20 + reach], encoded[:, : 20 + reach])[0]
    torch.testing.assert_close(part[:, :20], before[:, :20])


def test_weights_come_back_and_are_the_same_bytes(tmp_path):
    net = network()
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save(net, one, {"b": 1, "a": 2})
    save(net, two, {"a": 2, "b": 1})
    assert one.read_bytes() == two.read_bytes()
    again = load(one, FEATURES, CHANNELS)
    features, encoded = torch.randn(1, 20, len(FEATURES)), torch.randn(1, 20, 48)
    torch.testing.assert_close(again(features, encoded)[0], net(features, encoded)[0], rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match=r"other features \(gaze\)"):
        load(one, (*FEATURES, "gaze"), CHANNELS)
    with pytest.raises(ValueError, match="the order"):
        load(one, FEATURES[::-1], CHANNELS)
    with pytest.raises(FileNotFoundError, match="train it with"):
        load(tmp_path / "none.safetensors")


def test_the_weights_that_ship_fit_what_is_measured():
    from pipelines.captions.contact_cells import CELLS
    from pipelines.captions.contact_cells import CHANNELS as MEASURED_CHANNELS
    from pipelines.captions.contact_geometry import FEATURES as MEASURED

    net = load(features=MEASURED, channels=MEASURED_CHANNELS)
    assert net.shape.cells == CELLS
    assert sum(p.numel() for p in net.parameters()) < 300_000
    assert len(weights_digest()) == 64


def test_clips_keep_their_split_and_splits_share_no_clip(clips):
    parts = {s: {x.clip for x in load_data([clips], s).sequences} for s in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == 48 and len(set.union(*parts.values())) == 48
    shares = np.unique([split_of(s) for s in range(4000)], return_counts=True)[1] / 4000
    np.testing.assert_allclose(shares, (0.2, 0.68, 0.12), atol=0.02)


def test_augmentation_keeps_what_is_known_known_and_its_sources_untouched():
    generator = torch.Generator().manual_seed(0)
    features, cells = torch.randn(8, 24, len(FEATURES)), torch.randn(8, 24, len(CHANNELS), 9, 9)
    cells[:, :, 2] = 1
    copies = features.clone(), cells.clone()
    rubs = torch.zeros(8, 24, dtype=torch.bool)
    rubs[:4, 10:] = True
    off = AugmentSettings(**dict.fromkeys(AugmentSettings.model_fields, 0.0))
    names = (FEATURES, CHANNELS)
    scale = torch.ones(len(FEATURES))
    same = augment(features, cells, rubs, rubs, names, scale, off, generator)
    torch.testing.assert_close(same[0], features)
    torch.testing.assert_close(same[1], cells)
    changed = augment(features, cells, rubs, rubs, names, scale, AugmentSettings(), generator)
    torch.testing.assert_close(features, copies[0])
    torch.testing.assert_close(cells, copies[1])
    assert changed[0].isnan().any() and not torch.equal(changed[0], features)
    # A cell whose track is lost says nothing of motion.
    seen = ~changed[1].flatten(2).isnan().any(-1)
    lost = (changed[1][:, :, 2] == 0) & seen[..., None, None]
    assert lost.any() and (changed[1][:, :, 0][lost] == 0).all()
    stiller = augment(
        features, cells, rubs, rubs, names, scale, off.model_copy(update={"still_cloth": 1.0}), generator
    )[1]
    share = stiller[:, :, 0] / cells[:, :, 0]
    torch.testing.assert_close(share[~rubs], torch.ones_like(share[~rubs]))
    assert (share[:4, 10:] < 1).all() and (share[:4, 10:] >= 0).all()


def test_hands_meet_only_where_nothing_is_touched():
    names = ((*FEATURES, "other_hand_x", "other_apart"), CHANNELS)
    features, cells = torch.full((6, 20, len(names[0])), 2.0), torch.zeros(6, 20, len(CHANNELS), 9, 9)
    cells[5, 3] = torch.nan
    touches = torch.zeros(6, 20, dtype=torch.bool)
    touches[:3, 12] = True
    only = AugmentSettings(**dict.fromkeys(AugmentSettings.model_fields, 0.0) | {"meet": 1.0})
    generator = torch.Generator().manual_seed(0)
    found, seen = augment(features, cells, touches, touches, names, torch.ones(len(names[0])), only, generator)
    torch.testing.assert_close(found[:3], features[:3])
    torch.testing.assert_close(seen[:3], cells[:3])
    # At the end of a window hands have met; what is apart is near, the place counts from the palm.
    assert (found[3:, -1, -1] < 1).all() and ((found[3:, -1, -2] - 2).abs() < 1).all()
    assert (found[3:, :, : len(FEATURES)] == 2).all()
    limb = seen[3:, :, CHANNELS.index("limb")]
    assert (limb[:, -1, 8, 8] == 1).all() and (limb[:, -1, 0] == 0).all()
    assert seen[5, 3].isnan().all()


def test_sequences_play_at_another_speed():
    at, speed = warp_positions(10, 40, 1.5, 0.5)
    assert speed == 1.5 and at[0] >= 0 and at[-1] <= 39
    np.testing.assert_allclose(np.diff(at), 1.5)
    at, speed = warp_positions(10, 10, 2.0, 0.5)
    assert speed == 1 and at.tolist() == list(range(10))
    ramp = torch.arange(40.0)
    torch.testing.assert_close(read_at(ramp, torch.tensor([1.25, 38.5]), smooth=True), torch.tensor([1.25, 38.5]))
    assert read_at(ramp, torch.tensor([1.25, 38.6]), smooth=False).tolist() == [1, 39]


def test_training_refuses_what_it_cannot_use(tmp_path, clips, capsys):
    assert main(["--data", str(tmp_path), "--work", str(tmp_path / "w")]) == 2
    assert "no clips in" in capsys.readouterr().err
    write_clips(tmp_path / "other", 1)
    path = next((tmp_path / "other").glob("*.npz"))
    with np.load(path) as file:
        arrays = dict(file)
    arrays["inputs"] = np.array(json.dumps({"features": ["a"], "channels": ["b"]}))
    np.savez(tmp_path / "other" / "zzz.npz", **arrays)
    with pytest.raises(ValueError, match="another version of the features"):
        load_data([tmp_path / "other"])
