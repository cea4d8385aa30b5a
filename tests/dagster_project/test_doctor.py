"""`itryon doctor`: what it says of machines that lack something, and that only what stops the pipeline fails it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from collections import namedtuple

import pytest
from typer.testing import CliRunner

from dagster_project import doctor
from dagster_project.cli import app
from dagster_project.doctor import Finding
from models import weights

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine with an empty lake, an empty cache of weights, room, and no key of an endpoint."""
    monkeypatch.setenv("ITRYON_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ITRYON_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 0, 100 << 30))
    for name in [e for e in ("OPENAI_API_KEY", doctor.ChatSettings().api_key_env) if e]:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def said(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *options])
    return result.exit_code, " ".join(result.output.split())


def levels(findings: list[Finding], word: str) -> list[str]:
    return [f.level for f in findings if word in f.text]


def test_missing_weights_are_named_and_no_error():
    findings = doctor.examine()
    missing = [f for f in findings if "`itryon weights` gets it" in f.text]
    assert len(missing) == len(weights.verify()) > 0 and {f.level for f in missing} == {"note"}
    code, text = said()
    assert code == 0 and missing[0].text.split(";")[0].split()[-1] in text


def test_weights_that_are_there_are_said_to_be(monkeypatch):
    monkeypatch.setattr(weights, "verify", lambda groups=None: [])
    assert levels(doctor.examine(), "weights of the default backends") == ["ok"]


def test_brief_says_no_more_than_that_all_is_well_or_what_is_left_to_do(machine, monkeypatch):
    code, text = said("--brief")
    assert code == 0 and text == "ready after `itryon weights`; `itryon doctor` shows details"
    monkeypatch.setattr(weights, "verify", lambda groups=None: [])
    code, text = said("--brief")
    assert code == 0 and text == "ready; `itryon doctor` shows details"
    assert (machine / "lake" / "tables" / "videos").is_dir()


def test_a_lake_that_cannot_be_written_is_an_error_that_says_what_to_do(machine):
    (machine / "lake").write_text("a file stands where the lake should be")
    code, text = said("--brief")
    assert code == 1 and text.startswith("error") and "choose another with ITRYON_LAKE" in text
    assert "ready" not in text and "GiB free" not in text


def test_little_room_is_noted(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 0, 3 << 30))
    assert levels(doctor.examine(), "3 GiB free") == ["note"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 0, 6 << 30))
    assert levels(doctor.examine(), "6 GiB free") == ["ok"]


def test_two_packages_of_opencv_are_an_error(monkeypatch):
    class Installed:
        def __init__(self, name):
            self.metadata = {"Name": name}

    installed = [Installed(n) for n in ("opencv-python", "numpy", "opencv-contrib-python", None)]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: installed)
    code, text = said("--brief")
    assert code == 1 and "2 packages own the folder cv2 (opencv-contrib-python, opencv-python)" in text
    assert "pip uninstall all of them" in text
    del installed[0]
    assert said("--brief")[0] == 0


def test_optional_backends(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert levels(doctor.examine(), "HaMeR is not installed") == ["note"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert levels(doctor.examine(), "HaMeR is installed") == ["ok"]
    name = doctor.ChatSettings().api_key_env
    assert levels(doctor.examine(), f"{name} is not set") == ["note"]
    monkeypatch.setenv(name, "secret")
    (finding,) = [f for f in doctor.examine() if name in f.text]
    assert f"{name} is set" in finding.text and "secret" not in finding.text
