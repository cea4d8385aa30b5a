"""Two processes train what one would, with whole copies of the model and with shards of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from models.training.checkpoint import Checkpoints
from models.training.loop import train
from tests.models.distributed_runs import SHARED
from tests.models.training_clips import make_set
from tests.models.training_runs import assert_same, config, curve, weights

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path: Path):
    make_set(tmp_path)
    # One process that takes two batches a step sees the same batches and noises as two that take one each.
    train(config(tmp_path, tmp_path / "one", **SHARED, gradient_accumulation_steps=2))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "tests.models.distributed_runs", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    one = torch.tensor([r[1:] for r in curve(tmp_path / "one")])
    first = weights(tmp_path / "one/final")
    for name in ("parallel", "sharded"):
        torch.testing.assert_close(torch.tensor([r[1:] for r in curve(tmp_path / name)]), one, rtol=1e-4, atol=1e-6)
        # The averaged weights are what is exported.
        other = weights(tmp_path / name / "final")
        assert other.keys() == first.keys()
        for key, value in first.items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}")
    assert Checkpoints(tmp_path / "resumed").steps() == [2, 4]
    last = Checkpoints(tmp_path / "sharded").path(4), Checkpoints(tmp_path / "resumed").path(4)
    assert_same(weights(last[0]), weights(last[1]))
    assert curve(last[0]) == curve(last[1])
    assert_same(weights(tmp_path / "sharded/final"), weights(tmp_path / "resumed/final"))
    # Two processes write to one pipe: their words may run into each other.
    assert "Adapters are not sharded" in done.stdout
    assert "A sharded model makes no validation videos" in done.stdout
    # One process goes on where shards stopped.
    summary = train(
        config(tmp_path, tmp_path / "resumed", **{**SHARED, "steps": 5}, gradient_accumulation_steps=2),
        allow_changes=True,
    )
    assert summary["steps"] == 5


def test_accelerate_takes_the_configuration():
    path = REPOSITORY / "models/training/accelerate/fsdp2.yaml"
    read = load_config_from_file(str(path))
    assert read.distributed_type == "FSDP" and read.fsdp_config == yaml.safe_load(path.read_text())["fsdp_config"]
    from accelerate.commands.launch import launch_command_parser

    known = {a.dest for a in launch_command_parser()._actions}
    assert set(read.fsdp_config) <= known
