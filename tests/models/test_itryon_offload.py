"""Offloading by diffusers' own switches and accelerate's own hooks, on a machine without accelerator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.utils._python_dispatch import TorchDispatchMode

from models.itryon.pipeline import ITryOnPipeline
from models.vae import load_nano_vae
from models.vae.patch_autoencoder import PatchAutoencoder
from tests.models.itryon_tiny import tiny_model, tiny_vae, trained
from tests.models.test_itryon_pipeline import inputs
from tests.pipelines.tryon_scene import bert_parts

CALL = {"prompt": "zip up", "output_type": "latent", "num_inference_steps": 2}


def whole(nano: bool = False) -> ITryOnPipeline:
    """A pipeline with all three models: with Wan's autoencoder, or with the embedded one."""
    if nano:
        vae, model = load_nano_vae(), tiny_model(in_channels=32, out_channels=32, vace_in_channels=128)
    else:
        vae, model = tiny_vae(), tiny_model()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = ITryOnPipeline(vae, trained(model), scheduler, *bert_parts(), num_frames=5)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe: ITryOnPipeline, frames: int = 5) -> torch.Tensor:
    given = {k: v for k, v in inputs(frames).items() if not k.endswith("embeds")}
    return torch.cat(pipe(**(given | CALL | {"overlap": 1})).frames, 2)


class Watch(TorchDispatchMode):
    """Which model is on the accelerator by accelerate's hooks, and whether an operator reads weights of another one.

    Both devices are the CPU here, so nothing would fail by itself.
    """

    def __init__(self, pipe: ITryOnPipeline):
        super().__init__()
        self.names = {id(m): n for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
        self.owner = {
            t.untyped_storage().data_ptr(): name
            for name, model in pipe.components.items()
            if isinstance(model, torch.nn.Module)
            for t in (*model.parameters(), *model.buffers())
        }
        self.there: set[str] = set()
        self.log: list[str] = []
        self.strays: set[str] = set()
        self.moving = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for value in args:
            if isinstance(value, torch.Tensor) and not self.moving:
                owner = self.owner.get(value.untyped_storage().data_ptr())
                if owner is not None and owner not in self.there:
                    self.strays.add(owner)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(pipe: ITryOnPipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    watch = Watch(pipe)
    fetch, send_back = CpuOffload.pre_forward, CpuOffload.init_hook

    def pre_forward(hook, module, *args, **kwargs):
        watch.moving = True
        result = fetch(hook, module, *args, **kwargs)
        watch.moving = False
        name = watch.names[id(module)]
        watch.there.add(name)
        if watch.log[-1:] != [name]:
            watch.log.append(name)
        return result

    def init_hook(hook, module):
        watch.there.discard(watch.names[id(module)])
        return send_back(hook, module)

    monkeypatch.setattr(CpuOffload, "pre_forward", pre_forward)
    monkeypatch.setattr(CpuOffload, "init_hook", init_hook)
    pipe.enable_model_cpu_offload(device="cpu")
    with watch:
        yield watch


@pytest.mark.parametrize("nano", [False, True])
def test_every_model_is_fetched_before_it_computes(nano, monkeypatch):
    pipe = whole(nano)
    expected = call(pipe, 9)
    with watched(pipe, monkeypatch) as watch:
        result = call(pipe, 9)
    assert torch.equal(result, expected)
    assert not watch.strays, "these computed while they were away"
    # Captions, garment and conditions of the first window, its steps, its picture and what the second one needs, steps.
    assert watch.log == ["text_encoder", "vae", "transformer", "vae", "transformer"]
    assert not watch.there, "all are sent back in the end"


def test_the_watch_would_see_a_model_that_stays_away(monkeypatch):
    pipe = whole(nano=True)
    for name in ("encode", "decode"):
        monkeypatch.setattr(PatchAutoencoder, name, getattr(PatchAutoencoder, name).__wrapped__)
    with watched(pipe, monkeypatch) as watch:
        call(pipe)
    assert watch.strays == {"vae"}


def test_the_order_names_every_model():
    models = {n for n, m in whole().components.items() if isinstance(m, torch.nn.Module)}
    assert set(ITryOnPipeline.model_cpu_offload_seq.split("->")) == models


@pytest.mark.parametrize("nano", [False, True])
def test_weights_may_be_fetched_layer_by_layer(nano):
    """Sequential offloading leaves tensors without memory behind: whatever is not fetched fails by itself."""
    pipe = whole(nano)
    expected = call(pipe)
    for model in (pipe.text_encoder, pipe.transformer, pipe.vae):
        # As `enable_sequential_cpu_offload` does it, which takes no plain `cpu`.
        cpu_offload(model, torch.device("cpu"), offload_buffers=len(model._parameters) > 0)
        assert all(p.is_meta for p in model.parameters()), "nothing is offloaded"
    assert torch.equal(call(pipe), expected)
