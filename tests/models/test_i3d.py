"""I3D and the other video networks against independent formulations, and I3D's weights on real clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.signal import correlate
from torch.nn import functional

from models import weights
from models.features import networks
from models.features.i3d import I3D, MIN_FRAMES, Unit, fold_batch_norm, load_i3d, same_max_pool, same_padding
from models.features.lpips import SqueezeLPIPS, load_squeeze_lpips, squeeze_heads
from models.features.networks import NetworkMissing, PublishedFile, find_network
from models.features.resnext3d import MEAN, Bottleneck, ResNeXt3D
from pipelines.evaluation.clip_frames import rgb_square
from pipelines.video import VideoReader


@pytest.fixture(scope="module")
def i3d() -> I3D:
    try:
        return load_i3d()
    except weights.MissingWeights as error:
        pytest.skip(f"I3D weights are not in the cache: {error}")


def tensorflow_same(x: np.ndarray, kernel: int, stride: int, fill: float) -> np.ndarray:
    """Pads the last three axes as TensorFlow documents `SAME`: by the rest of the size, the odd one behind."""
    for axis in range(x.ndim - 3, x.ndim):
        n = x.shape[axis]
        total = max(kernel - stride, 0) if n % stride == 0 else max(kernel - n % stride, 0)
        widths = [(0, 0)] * x.ndim
        widths[axis] = (total // 2, total - total // 2)
        x = np.pad(x, widths, constant_values=fill)
    return x


@pytest.mark.parametrize(("kernel", "stride", "shape"), [(7, 2, (9, 10, 11)), (3, 1, (5, 6, 7)), (1, 1, (3, 4, 5))])
def test_a_unit_is_a_same_convolution_with_folded_norm(kernel: int, stride: int, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(kernel)
    x = rng.normal(size=(2, *shape))
    w = rng.normal(size=(3, 2, kernel, kernel, kernel))
    mean, var, shift, scale = rng.normal(size=3), rng.uniform(0.5, 2, 3), rng.normal(size=3), rng.uniform(0.5, 2, 3)
    padded = tensorflow_same(x, kernel, stride, 0)
    y = np.stack([sum(correlate(padded[i], w[o, i], "valid") for i in range(2)) for o in range(3)])
    y = y[:, ::stride, ::stride, ::stride]
    normed = [(y[o] - mean[o]) / np.sqrt(var[o] + 1e-3) * scale[o] + shift[o] for o in range(3)]
    unit = Unit(2, 3, kernel, stride)
    state = {"u.conv3d.weight": w, "u.bn.running_mean": mean, "u.bn.running_var": var, "u.bn.bias": shift}
    folded = fold_batch_norm({k: torch.from_numpy(v) for k, v in (state | {"u.bn.weight": scale}).items()})
    unit.load_state_dict({k.removeprefix("u."): v for k, v in folded.items()})
    with torch.inference_mode():
        out = unit(torch.from_numpy(x)[None].float())[0].numpy()
    np.testing.assert_allclose(out, np.maximum(np.stack(normed), 0), atol=2e-4)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 2, 8), (3, 2, 9), (2, 2, 7), (3, 1, 5)])
def test_pools_pad_as_tensorflow_and_padding_never_wins(kernel: int, stride: int, size: int) -> None:
    x = np.random.default_rng(size).normal(size=(1, size, size, size)) - 5  # all negative: zeros would win
    padded = tensorflow_same(x, kernel, stride, -np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel,) * 3, axis=(1, 2, 3))
    expected = windows[:, ::stride, ::stride, ::stride].max((-1, -2, -3))
    out = same_max_pool(torch.from_numpy(x)[None], (kernel,) * 3, (stride,) * 3)[0]
    np.testing.assert_array_equal(out.numpy(), expected)
    assert sum(same_padding(size, kernel, stride)) == padded.shape[1] - size


def test_clips_must_be_long_and_square_enough() -> None:
    model = I3D()
    with pytest.raises(ValueError, match=f"at least {MIN_FRAMES} frames"):
        model(torch.zeros(1, 3, MIN_FRAMES - 1, 224, 224))
    with pytest.raises(ValueError, match="takes clips"):
        model(torch.zeros(1, 3, 16, 112, 112))


def test_converted_weights_are_complete(i3d: I3D) -> None:
    tensors = load_file(weights.path("i3d_kinetics400.safetensors"))
    assert tensors["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert tensors["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)
    assert sum(t.numel() for k, t in tensors.items() if k.endswith("conv3d.weight")) > 12e6
    assert all((t > 0).all() for k, t in tensors.items() if k.endswith("running_var"))
    with pytest.raises(RuntimeError, match="Missing key"):
        I3D({k: v for k, v in tensors.items() if not k.startswith("Mixed_4c")})


def test_logits_are_the_classifier_on_the_features_of_a_dancing_woman(i3d: I3D) -> None:
    clip = weights.path("demo/dancer.avi")
    with VideoReader(clip) as reader:
        frames = [rgb_square(f.rgb) for f in reader.frames(400, 432)][::2]
    with torch.inference_mode():
        logits, features = i3d(2 * torch.stack(frames, 1)[None] - 1)
    head = i3d.logits["conv3d"]
    expected = features.double() @ head.weight.double().flatten(1).T + head.bias.double()
    torch.testing.assert_close(logits.double(), expected, atol=1e-3, rtol=1e-4)
    # Kinetics' classes in alphabetical order: ballet, Charleston, Gangnam style and macarena dancing, headbanging,
    # jumpstyle, krumping, robot, salsa and swing dancing, sword fighting, tai chi, tango and tap dancing, yoga, zumba.
    moves = {84, 85, 86, 87, 149, 173, 179, 277, 283, 342, 345, 346, 348, 349, 398, 399}
    assert moves & set(logits[0].topk(5).indices.tolist())


def batch_norm(x: torch.Tensor, norm: torch.nn.Module) -> torch.Tensor:
    view = (1, -1, 1, 1, 1)
    centred = (x - norm.running_mean.view(view)) / torch.sqrt(norm.running_var.view(view) + 1e-5)
    return centred * norm.weight.view(view) + norm.bias.view(view)


def test_a_resnext_block_is_32_small_convolutions_side_by_side() -> None:
    torch.manual_seed(0)
    block = Bottleneck(64, 128, 2).eval()
    for norm in (block.bn1, block.bn2, block.bn3, block.downsample[1]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 64, 3, 5, 5)
    with torch.inference_mode():
        y = batch_norm(torch.einsum("oi,bithw->bothw", block.conv1.weight[:, :, 0, 0, 0], x), block.bn1).relu()
        # Four channels in and out of each of the 32 groups.
        parts = [
            functional.conv3d(y[:, 4 * g : 4 * g + 4], block.conv2.weight[4 * g : 4 * g + 4], stride=2, padding=1)
            for g in range(32)
        ]
        y = batch_norm(torch.cat(parts, 1), block.bn2).relu()
        y = batch_norm(torch.einsum("oi,bithw->bothw", block.conv3.weight[:, :, 0, 0, 0], y), block.bn3)
        strided = x[:, :, ::2, ::2, ::2]
        shortcut = torch.einsum("oi,bithw->bothw", block.downsample[0].weight[:, :, 0, 0, 0], strided)
        expected = (y + batch_norm(shortcut, block.downsample[1])).relu()
        torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-4)


def test_resnext_101_has_the_published_tensors_and_loads_with_their_prefix() -> None:
    with torch.device("meta"):
        whole = ResNeXt3D()
    # 47.6 million without the classifier, Hara et al. 2018, table 2: ResNeXt-101 of cardinality 32.
    assert 45e6 < sum(p.numel() for p in whole.parameters()) < 48e6
    torch.manual_seed(0)
    small = ResNeXt3D(layers=(1, 1, 1, 1))
    state = {f"module.{k}": v for k, v in small.state_dict().items()} | {"module.fc.weight": torch.zeros(400, 2048)}
    again = ResNeXt3D(state, (1, 1, 1, 1))
    x = torch.rand(1, 3, 10, 64, 64) * 255 - torch.tensor(MEAN).view(1, 3, 1, 1, 1)
    with torch.inference_mode():
        assert torch.equal(again(x), small(x)) and small(x).shape == (1, 2048)


def test_squeeze_lpips_takes_torchvisions_names_and_the_published_heads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = SqueezeLPIPS()
    names = {"conv": "0", **{f"fires.{i}": str(p) for i, p in enumerate((3, 4, 6, 7, 9, 10, 11, 12))}}
    backbone = {}
    for key, value in made.state_dict().items():
        for ours, place in names.items():
            if key.startswith(f"{ours}."):
                backbone[f"features.{place}.{key.removeprefix(f'{ours}.')}"] = value
    torch.save(backbone | {"classifier.1.weight": torch.zeros(1)}, tmp_path / "squeeze.pth")
    model = load_squeeze_lpips(tmp_path / "squeeze.pth")
    heads = torch.load(squeeze_heads(), map_location="cpu", weights_only=True)
    a, b = torch.rand(2, 1, 3, 48, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = 0.0
    for i, (x, y) in enumerate(zip(*(squeeze_layers(p, backbone) for p in (a, b)))):
        x, y = (v / v.norm(dim=1, keepdim=True) for v in (x, y))
        weight = heads[f"lin{i}.model.1.weight"].double()
        expected += float(((x - y).double().square() * weight.view(1, -1, 1, 1)).sum(1).mean())
    assert float(model(a, b)) == pytest.approx(expected, rel=1e-4)
    assert float(model(a, a)) == 0


def squeeze_layers(picture: torch.Tensor, state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """SqueezeNet 1.1 by torchvision's numbering: 2, 5 and 8 are pools with a ceiling."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (picture - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
    x = functional.conv2d(x, state["features.0.weight"], state["features.0.bias"], 2).relu()
    found = [x]
    for place in range(2, 13):
        if place in (2, 5, 8):
            x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
            continue
        part = {k.removeprefix(f"features.{place}."): v for k, v in state.items() if f"features.{place}." in k}
        s = functional.conv2d(x, part["squeeze.weight"], part["squeeze.bias"]).relu()
        one = functional.conv2d(s, part["expand1x1.weight"], part["expand1x1.bias"])
        three = functional.conv2d(s, part["expand3x3.weight"], part["expand3x3.bias"], padding=1)
        x = torch.cat([one, three], 1).relu()
        if place in (4, 7, 9, 10, 11, 12):
            found.append(x)
    return found


def test_videomae_equals_its_formula() -> None:
    from models.features.videomae import VideoMAE, giant_config

    config = giant_config()
    config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size = 32, 2, 4, 64
    config.image_size, config.num_frames = 28, 4
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g) * 0.3

    state = {"patch_embed.proj.weight": normal(32, 3, 2, 14, 14), "patch_embed.proj.bias": normal(32)}
    for i in range(2):
        block = {"norm1.weight": normal(32), "norm1.bias": normal(32), "attn.qkv.weight": normal(96, 32)}
        block |= {"attn.q_bias": normal(32), "attn.v_bias": normal(32), "attn.proj.weight": normal(32, 32)}
        block |= {"attn.proj.bias": normal(32), "norm2.weight": normal(32), "norm2.bias": normal(32)}
        block |= {"mlp.fc1.weight": normal(64, 32), "mlp.fc1.bias": normal(64)}
        block |= {"mlp.fc2.weight": normal(32, 64), "mlp.fc2.bias": normal(32)}
        state |= {f"blocks.{i}.{k}": v for k, v in block.items()}
    state |= {"fc_norm.weight": normal(32), "fc_norm.bias": normal(32), "head.weight": normal(174, 32)}
    video = torch.rand((1, 3, 4, 28, 28), generator=g)

    patches = [
        video[0, :, t : t + 2, y : y + 14, x : x + 14].flatten() for t in (0, 2) for y in (0, 14) for x in (0, 14)
    ]
    h = torch.stack(patches) @ state["patch_embed.proj.weight"].flatten(1).T + state["patch_embed.proj.bias"]
    place = torch.arange(8.0)[:, None] / 10000 ** (2 * (torch.arange(32) // 2) / 32)
    h = h + torch.where(torch.arange(32) % 2 == 0, place.sin(), place.cos())
    for i in range(2):
        s = {k.removeprefix(f"blocks.{i}."): v for k, v in state.items()}
        n = functional.layer_norm(h, (32,), s["norm1.weight"], s["norm1.bias"], 1e-6)
        q, k, v = (n @ s["attn.qkv.weight"].T).split(32, -1)
        q, v = q + s["attn.q_bias"], v + s["attn.v_bias"]
        heads = [
            torch.softmax(q[:, c : c + 8] @ k[:, c : c + 8].T / 8**0.5, -1) @ v[:, c : c + 8] for c in range(0, 32, 8)
        ]
        h = h + torch.cat(heads, -1) @ s["attn.proj.weight"].T + s["attn.proj.bias"]
        n = functional.layer_norm(h, (32,), s["norm2.weight"], s["norm2.bias"], 1e-6)
        n = functional.gelu(n @ s["mlp.fc1.weight"].T + s["mlp.fc1.bias"])
        h = h + n @ s["mlp.fc2.weight"].T + s["mlp.fc2.bias"]
    expected = functional.layer_norm(h.mean(0), (32,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(VideoMAE(state, config)(video)[0], expected, atol=1e-4, rtol=1e-4)


def test_a_missing_network_names_its_file_and_folder(tmp_path: Path) -> None:
    for name, file in {
        "resnext101": "resnext-101.pth",
        "videomae": "vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        "lpips_squeeze": "squeezenet1_1-b8a52dc0.pth",
    }.items():
        with pytest.raises(NetworkMissing, match=file) as error:
            find_network(name, tmp_path)
        assert str(tmp_path) in str(error.value)
    (tmp_path / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"something else")
    with pytest.raises(NetworkMissing, match="not the published file"):
        find_network("lpips_squeeze", tmp_path)
    (tmp_path / "resnext-101.pth").write_bytes(b"no checkpoint")
    found = find_network("resnext101", tmp_path)
    with pytest.raises(NetworkMissing, match="does not load"):
        found.load("cpu")


def test_a_published_i3d_goes_before_the_embedded_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    torch.manual_seed(0)
    state = {k: v for k, v in I3D().state_dict().items() if k.endswith("weight") or k.startswith("logits")}
    for key in [k for k in state if k.endswith("conv3d.weight") and not k.startswith("logits")]:
        unit, channels = key.removesuffix(".conv3d.weight"), len(state[key])
        state |= {f"{unit}.bn.{n}": torch.zeros(channels) for n in ("bias", "running_mean")}
        state |= {f"{unit}.bn.{n}": torch.ones(channels) for n in ("weight", "running_var")}
        state[f"{unit}.bn.num_batches_tracked"] = torch.tensor(0)
    torch.save(state, tmp_path / "i3d.pt")
    found = find_network("i3d", tmp_path)
    assert found.label == f"i3d.pt {hashlib.sha256((tmp_path / 'i3d.pt').read_bytes()).hexdigest()}"
    loaded = found.load("cpu")
    expected = state["Mixed_3b.b0.conv3d.weight"] / np.sqrt(1 + 1e-3)
    torch.testing.assert_close(loaded.get_parameter("Mixed_3b.b0.conv3d.weight").contiguous(), expected)
    monkeypatch.setitem(networks.PUBLISHED, "i3d", PublishedFile("other.pt", "nowhere"))
    try:
        assert find_network("i3d", tmp_path).label.startswith("i3d-kinetics-400 ")
    except NetworkMissing as error:
        assert "itryon weights" in str(error)
