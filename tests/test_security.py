"""What the README's section on security promises: loopback, paths, pickles, secrets."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import dagster as dg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipelines.checkpoints.train import CheckpointMissing, checkpoint_folder
from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.inventory import take_inventory
from pipelines.ingest.landing import landing_folder, validate_batch
from pipelines.ingest.manifest import ManifestEntry, manifest_lines, parse_manifest
from pipelines.ingest.settings import IngestSettings
from pipelines.ingest.workers import WorkerFailure, run_isolated
from pipelines.store import TABLES, BlobStore, Commit, DeltaStore
from pipelines.store.blobs import sha256_file
from pipelines.store.schemas import STAGE_STATUS
from tests.chat_endpoint import ChatEndpoint, completion
from tests.conftest import REPOSITORY
from tests.pipelines.lake_videos import BATCH, add_videos

PACKAGES = ("pipelines", "assets", "models", "dagster_project")
KEY = "sk-test-5e0f1c2b7a9d4e6f"


# --- the web server ---


def test_the_ui_listens_on_loopback_only(tmp_path, monkeypatch):
    from dagster_project.cli import app

    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: started.append(command))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    here = Path.cwd()
    assert CliRunner().invoke(app, ["ui", "--port", "3456"]).exit_code == 0
    (command,) = started
    assert Path.cwd() == here, "relative paths of settings and variables begin where the user is"
    assert command[command.index("-h") + 1] == "127.0.0.1" and command[command.index("-p") + 1] == "3456"
    assert CliRunner().invoke(app, ["ui", "--host", "0.0.0.0"]).exit_code != 0, "there is no option to open it"


def test_nothing_in_the_code_binds_more_than_loopback():
    for path, tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in ("0.0.0.0", "::"), f"{path}:{node.lineno}"


# --- paths ---

segments = st.sampled_from(["..", ".", "a", "b.mp4", "", "/", "~", "C:", "..\\x", "\0", "é", "‥", "%2e%2e"])
paths = st.one_of(st.text(max_size=30), st.lists(segments, max_size=6).map("/".join))


@given(paths)
@settings(max_examples=300)
def test_no_path_of_a_manifest_leaves_its_folder(path):
    (line,) = parse_manifest([json.dumps({"video": path, "garment": path}).encode()])
    if line.entry is None:
        assert line.error
        return
    for name in (line.entry.video, line.entry.garment):
        joined = os.path.normpath(f"/landing/b/{name}")
        assert joined.startswith("/landing/b/") and "\0" not in name


@given(st.one_of(paths, paths.map(lambda p: f"blobs/{p}")))
@settings(max_examples=300)
def test_no_uri_of_a_row_leaves_the_blobs(tmp_path_factory, uri):
    blobs = BlobStore("/lake")
    try:
        path = blobs._path(uri)
    except ValueError:
        return
    assert os.path.normpath(path) == "/lake/blobs" or os.path.normpath(path).startswith("/lake/blobs/")


@given(st.one_of(st.text(max_size=20), paths))
@settings(max_examples=200)
def test_no_name_of_a_batch_leaves_the_landing_zone(name):
    try:
        validate_batch(name)
    except ValueError:
        return
    folder = landing_folder(DeltaStore("/lake"), name)
    assert Path(os.path.normpath(folder)).parent == Path("/lake/landing") and folder.name == name


@given(paths)
@settings(max_examples=200, deadline=None)
def test_no_clip_of_a_training_manifest_and_no_checkpoint_lies_outside_of_the_lake(uri):
    from models.training.blobs import Blobs

    blobs, lake = Blobs("/lake"), DeltaStore("/lake")
    try:
        _, path = blobs._path(uri)
    except OSError as e:
        assert "leads out of" in str(e)
    else:
        assert os.path.normpath(path) == "/lake" or os.path.normpath(path).startswith("/lake/")
    with pytest.raises(CheckpointMissing):  # There is no folder /lake here: whatever passes is looked for inside of it.
        checkpoint_folder(lake, {"checkpoint_id": "c", "uri": uri})
    for uri in ("checkpoints/../../etc", "/etc", "../etc", "tables/pose"):
        with pytest.raises(CheckpointMissing, match="is no checkpoint folder"):
            checkpoint_folder(lake, {"checkpoint_id": "c", "uri": uri})


OUTSIDE = ("secret.mp4", "private/secret.mp4", "../secret.mp4", "/etc/hostname")
links = st.tuples(
    st.sampled_from(["x.mp4", "garments/p.png", "sub", "sub/y.mp4", "m_mask.png"]), st.sampled_from(OUTSIDE)
)


@given(st.lists(links, min_size=1, max_size=4, unique_by=lambda link: link[0]), st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_links_out_of_a_landing_folder_are_not_read(tmp_path_factory, made, relative):
    root = tmp_path_factory.mktemp("zone")
    (root / "private").mkdir()
    for name in ("secret.mp4", "private/secret.mp4"):
        (root / name).write_bytes(b"what must not be read")
    folder = root / "landing" / "b"
    (folder / "garments").mkdir(parents=True)
    for name, target in made:
        link = folder / name
        if not link.parent.is_dir() or link.exists():
            continue
        goal = root / target if not target.startswith("/") else Path(target)
        link.symlink_to(os.path.relpath(goal, link.parent) if relative else goal)
    lines = [{"video": n, "garment": "garments/p.png", "garment_mask": "m_mask.png"} for n in ("x.mp4", "sub/y.mp4")]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    inventory = take_inventory(folder)
    found = [*inventory.videos, *inventory.photos.values(), *(p.mask for p in inventory.photos.values() if p.mask)]
    assert {sha256_file(root / "secret.mp4")} & {c.sha256 for c in found} == set()
    for candidate in found:
        assert candidate.sha256 is None or candidate.file.location.is_relative_to(folder.resolve())
        if candidate.file is not None and candidate.file.refused:
            assert candidate.problem


def test_a_line_without_end_does_not_fill_the_memory(tmp_path):
    good = ManifestEntry(video="a.mp4").as_json()
    file = tmp_path / "manifest.jsonl"
    file.write_bytes(b"{" + b"x" * (5 << 20) + b"\n" + good.encode() + b"\n" + b"y" * (3 << 20))
    with file.open("rb") as stream:
        lines = list(manifest_lines(stream))
    assert len(lines) == 3 and max(map(len, lines)) <= (1 << 20) + 1
    assert [p.entry.video if p.entry else "longer than" in p.error for p in parse_manifest(lines)] == [
        True,
        "a.mp4",
        True,
    ]


# --- decoders ---


def _take(gigabytes: float) -> int:
    return len(b"x" * int(gigabytes * 2**30))


def _stack(gigabytes: float) -> int:
    import numpy as np

    return np.ones(int(gigabytes * 2**30), np.uint8).size


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_DATA")
def test_a_file_that_wants_too_much_memory_costs_only_itself():
    tasks = {"small": (_take, (0.01,)), "bytes": (_take, (3.0,)), "pixels": (_stack, (3.0,)), "after": (_take, (0.02,))}
    done = dict(run_isolated(tasks, 1, 60, 1.5))
    for name in ("bytes", "pixels"):
        assert isinstance(done[name], WorkerFailure) and "1.5 GiB of memory" in done[name].reason
    assert (done["small"], done["after"]) == (int(0.01 * 2**30), int(0.02 * 2**30))


# --- pickles ---


def _sources() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            yield str(PurePosixPath(path.relative_to(REPOSITORY))), ast.parse(path.read_text())


def test_no_foreign_file_is_unpickled():
    """The one call of `pickle.loads` reads what the same process has just written."""
    own = {"pipelines/stage/pool.py"}
    for path, tree in _sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            where = f"{path}:{node.lineno}"
            if called == "torch.load":
                assert keywords.get("weights_only") == "True", where
            assert called not in ("yaml.load", "joblib.load", "pickle.load", "marshal.loads", "dill.loads"), where
            assert called != "pickle.loads" or path in own, where
            assert keywords.get("allow_pickle", "False") == "False", where


def test_every_network_is_read_from_safetensors():
    """diffusers and transformers fall back to pickles where a folder has no safetensors; they must not."""
    seen = 0
    for path, tree in _sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith(".from_pretrained"):
                continue
            name = ast.unparse(node.func).removesuffix(".from_pretrained")
            # What holds no weights, and the one that hands its arguments on.
            if name.endswith(("Tokenizer", "Processor")) or name == "super()":
                continue
            seen += 1
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert keywords.get("use_safetensors") == "True", f"{path}:{node.lineno}"
    assert seen >= 8


# --- secrets ---


class Echo(ChatEndpoint):
    """Refuses with what it was sent, as some proxies do, then answers, with the key in its captions."""

    def answer(self, path, body):
        if len(self.requests) <= 2:
            return 400, {"error": {"message": f"bad request, headers: {{'Authorization': 'Bearer {KEY}'}}"}}
        names = [p["text"] for m in body["messages"] if isinstance(m["content"], list) for p in m["content"][1::2]]
        if "Frame 1" not in names[0]:
            return 200, completion(body, json.dumps({"caption": f"A person holds {KEY}."}))
        quiet = {"interaction": False, "action": "none", "hand": "none", "text": ""}
        return 200, completion(body, json.dumps({"frames": [{"frame": i + 1} | quiet for i in range(len(names))]}))


@pytest.mark.slow
def test_the_key_of_a_language_model_is_written_nowhere(tmp_path, moving_video, monkeypatch, capfd):
    from dagster_project.instance import run_job

    monkeypatch.setenv("ITRYON_LAKE", str(tmp_path / "lake"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("OUR_KEY", KEY)
    store = DeltaStore()
    store.ensure_tables()
    (row,) = add_videos(store, moving_video)
    for stage in ("pose", "hands", "agnostic_masks"):
        status = {"batch": BATCH, "video_id": row["video_id"], "stage": stage, "status": "ok", "fingerprint": stage}
        numbers = {"rows": 0, "frames": 60, "seconds": 0.1, "model_seconds": 0.1, "run_id": "", "created_at": 0}
        table = pa.Table.from_pylist([status | numbers], STAGE_STATUS.schema)
        store.replace(STAGE_STATUS, table, {"batch": BATCH, "stage": stage}, Commit())
    with Echo() as endpoint:
        connection = {"base_url": endpoint.url, "model": "test-vl", "api_key_env": "OUR_KEY", "max_retries": 0}
        vlm = {"endpoint": connection, "sample_fps": 4, "frames_per_call": 4, "overlap": 1, "global_frames": 2}
        config = {"captions": {"backend": "vlm", "vlm": vlm}, "workers": {"workers": 1}}
        results = [run_job("annotate", batch=BATCH, assets=["captions"], resources=config) for _ in range(3)]
        assert set(endpoint.keys) == {f"Bearer {KEY}"}, "the key was really sent"
    (status,) = [s for s in store.read(STAGE_STATUS).to_pylist() if s["stage"] == "captions"]
    assert status["status"] == "ok", status["reason"]
    history = store.open(STAGE_STATUS).history()
    assert len(history) > 4
    texts = [repr([store.read(spec).to_pylist() for spec in TABLES.values()])]
    # The refusals of the first runs are in older versions.
    texts += [repr(store.read(STAGE_STATUS, version=h["version"]).to_pylist()) for h in history if h["version"]]
    assert any("answered 400" in t and "[key]" in t for t in texts)
    with dg.DagsterInstance.from_config(f"{store.root}/dagster") as instance:
        for result in results:
            texts.append(repr(instance.all_logs(result.run_id)) + repr(instance.get_run_by_id(result.run_id)))
    output = capfd.readouterr()
    texts += [output.out, output.err]
    assert not any(KEY in t for t in texts)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.suffix == ".db" for p in files), "the history is among the files that are searched"
    assert any("cache/vlm" in p.as_posix() for p in files)
    assert [p for p in files if KEY.encode() in p.read_bytes()] == []


@pytest.mark.slow
def test_the_keys_of_an_object_store_are_written_nowhere(tmp_path, moving_video, monkeypatch, capfd):
    """Neither when all goes well nor when the store refuses, which is when libraries print what they asked for."""
    pytest.importorskip("moto", reason="the extra `dev` is not installed: it brings the S3 server")
    boto3 = pytest.importorskip("boto3")
    from dagster_project.instance import run_job
    from tests.faults.proxy import Proxy, Trouble
    from tests.s3_store import S3Store

    secrets = {
        "AWS_ACCESS_KEY_ID": "AKIATEST5E0F1C2B7A9D",
        "AWS_SECRET_ACCESS_KEY": "secret-5e0f1c2b7a9d4e6f",
        "AWS_SESSION_TOKEN": "token-9d4e6f5e0f1c2b7a",
    }
    home, landing = tmp_path / "home", tmp_path / "landing"
    with S3Store() as server, Proxy(server.environment["AWS_ENDPOINT_URL"]) as proxy:
        for name, value in (server.environment | secrets | {"ITRYON_LAKE": "s3://bucket-of-keys/lake"}).items():
            monkeypatch.setenv(name, value)
        for name, path in (("DAGSTER_HOME", home), ("ITRYON_LANDING", landing), ("XDG_CACHE_HOME", tmp_path / "cache")):
            monkeypatch.setenv(name, str(path))
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket-of-keys")
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        (landing / BATCH).mkdir(parents=True)
        (landing / BATCH / "a.mp4").write_bytes(moving_video.read_bytes())
        config = {"ingest": {"workers": 1}}
        assets = ["videos", "garments"]
        results = [run_job("annotate", batch=BATCH, assets=assets, resources=config)]
        proxy.trouble(Trouble(errors=1.0, status=403))
        results.append(run_job("annotate", batch=BATCH, assets=assets, resources=config))
        seen = proxy.trouble(Trouble())
        assert [r.success for r in results] == [True, False] and seen["injected"] > 0
        listed = client.list_objects_v2(Bucket="bucket-of-keys")["Contents"]
        stored = [client.get_object(Bucket="bucket-of-keys", Key=o["Key"])["Body"].read() for o in listed]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        texts = [repr(instance.all_logs(r.run_id)) + repr(instance.get_run_by_id(r.run_id)) for r in results]
    assert any("403" in t for t in texts), "the refusal is among what is searched"
    output = capfd.readouterr()
    texts += [output.out, output.err]
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.suffix == ".db" for p in files) and len(stored) > 20
    for secret in secrets.values():
        assert not any(secret in t for t in texts)
        assert not any(secret.encode() in data for data in (*stored, *(p.read_bytes() for p in files)))


def test_a_password_in_the_url_of_an_endpoint_is_refused():
    from models.vlm.settings import ChatSettings

    with pytest.raises(ValueError, match="base_url"):
        ChatSettings(base_url="https://user:password@models.example.com/v1")


# --- all of it at once ---


def test_a_photo_that_announces_a_huge_picture_is_a_row(lake):
    """A PNG of some hundred bytes that says it is 50,000 pixels wide and high."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    folder = landing_folder(lake, "b")
    (folder / "garments").mkdir(parents=True)
    (folder / "garments" / "bomb.png").write_bytes(bomb)
    report = ingest_batch(lake, "b", IngestSettings(workers=1))
    assert report.garment_errors == 1 and "pixels" in report.problems["garments/bomb.png"]
