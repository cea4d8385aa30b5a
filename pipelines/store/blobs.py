"""Content-addressed files: `<lake>/blobs/<first two hex>/<sha256>.<ext>`.

A blob is written under a temporary name in `blobs/tmp`, flushed, and renamed, so a name that exists is a whole file; a
row may name a blob only after `put_*` returned. What a killed process leaves in `blobs/tmp` is deleted after some days
(`pipelines.store.leftovers`); it lies in one folder, so that nobody has to look through all blobs for it. Delta tables
hold references, never the bytes: binary columns overflow 32-bit offsets at 3.3 GB and need five times the data in
memory.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from platformdirs import user_cache_path
from pyarrow import fs

from models.filesystem import open_root
from pipelines.store.errors import DamagedBlob, explained

TEMPORARY = "blobs/tmp"
"""Folder of blobs that are being written."""
_CHUNK = 1 << 20
_CONNECTIONS = 16  # Looking for a blob in an object store is a request, of which most is waiting.
# A blob that is stored again becomes young again, or it could be removed as one that nothing names before its row is
# there; not each time, since a thousand videos may share one garment photo.
_YOUNG_S = 86400


@dataclass(frozen=True)
class StoredBlob:
    """A blob.

    Attributes:
        uri: Relative URI.
        size: Bytes.
        modified: When it was stored last, seconds since 1970.
    """

    uri: str
    size: int
    modified: float


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes as 64 hex digits, read in chunks."""
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class BlobStore:
    """Blobs below one lake root, which may be a local folder or a URI that pyarrow's file systems take.

    URIs of blobs are relative to the root (`blobs/ab/ab12….mp4`), so a lake can be moved or copied.
    """

    def __init__(self, root: str):
        self.root = root
        self._fs, self._base = open_root(root)
        self._local = isinstance(self._fs, fs.LocalFileSystem)

    def _path(self, uri: str) -> str:
        parts = Path(uri).parts
        if Path(uri).is_absolute() or ".." in parts or not parts or parts[0] != "blobs":
            raise ValueError(f"Not a blob of this lake: {uri!r}")
        return f"{self._base}/{uri}"

    @staticmethod
    def uri_for(sha256: str, suffix: str) -> str:
        """Relative URI of the blob with this digest; `suffix` includes the dot."""
        return f"blobs/{sha256[:2]}/{sha256}{suffix}"

    def exists(self, uri: str) -> bool:
        """Whether the blob is there (a blob that is there is whole)."""
        with self._explained(uri):
            return self._fs.get_file_info(self._path(uri)).type == fs.FileType.File

    def missing(self, uris: Iterable[str | None]) -> set[str]:
        """Those of the given blobs that are not there; None and empty URIs name no blob."""
        named = sorted({u for u in uris if u})
        if self._local:
            return {u for u in named if not self.exists(u)}
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            return {u for u, there in zip(named, pool.map(self.exists, named), strict=True) if not there}

    def _explained(self, uri: str):
        return explained(self.root, f"Blob {uri}")

    def list(self) -> Iterator[StoredBlob]:
        """All blobs; those that are being written are none yet."""
        for info in self._fs.get_file_info(
            fs.FileSelector(f"{self._base}/blobs", recursive=True, allow_not_found=True)
        ):
            uri = info.path.removeprefix(f"{self._base}/")
            if info.type == fs.FileType.File and not uri.startswith(f"{TEMPORARY}/"):
                yield StoredBlob(uri, info.size, info.mtime_ns / 1e9)

    def remove(self, uri: str, stored_before: float) -> bool:
        """Remove a blob that was stored last before a time, seconds since 1970; whether it was removed."""
        path = self._path(uri)
        info = self._fs.get_file_info(path)
        if info.type != fs.FileType.File or info.mtime_ns / 1e9 >= stored_before:
            return False
        self._fs.delete_file(path)
        return True

    def _stored(self, uri: str, size: int) -> bool:
        """Whether nothing has to be written; the blob is young from now on.

        A blob of another size was cut off by hand or by a file system that lost its end; it is written anew.
        """
        path = self._path(uri)
        with self._explained(uri):
            info = self._fs.get_file_info(path)
        if info.type != fs.FileType.File or info.size != size:
            return False
        if time.time() - info.mtime_ns / 1e9 < _YOUNG_S:
            return True
        if not self._local:
            # Object stores have no other way to make an object young than to write it.
            return False
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def put_file(self, path: str | os.PathLike[str], suffix: str | None = None) -> str:
        """Copy a file into the store; returns its URI. Nothing is written when the blob is there already.

        Raises:
            OSError: The file changed while it was copied, or the disk is full; nothing is left behind.
        """
        source = Path(path)
        digest = sha256_file(source)
        uri = self.uri_for(digest, source.suffix.lower() if suffix is None else suffix)
        if self._stored(uri, source.stat().st_size):
            return uri
        with source.open("rb") as stream:
            self._write(stream, uri, digest)
        return uri

    def put_bytes(self, data: bytes, suffix: str) -> str:
        """Store bytes; returns the blob's URI."""
        digest = hashlib.sha256(data).hexdigest()
        uri = self.uri_for(digest, suffix)
        if not self._stored(uri, len(data)):
            self._write(memoryview(data), uri, digest)
        return uri

    def _write(self, source, uri: str, digest: str) -> None:
        target, temporary = self._path(uri), self._path(f"{TEMPORARY}/{uuid.uuid4().hex}")
        with self._explained(uri):
            if self._local:
                # Object stores have no folders; making one leaves an empty object behind.
                for path in (target, temporary):
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
            try:
                if self._fill(source, temporary) != digest:
                    raise OSError(f"{uri}: the file changed while it was being stored")
                self._fs.move(temporary, target)
            except BaseException:
                if self._fs.get_file_info(temporary).type == fs.FileType.File:
                    self._fs.delete_file(temporary)
                raise

    def _fill(self, source, temporary: str) -> str:
        """Write and flush a temporary file; returns the digest of what was written."""
        check = hashlib.sha256()
        with Path(temporary).open("wb") if self._local else self._fs.open_output_stream(temporary) as out:
            for chunk in _chunks(source):
                check.update(chunk)
                out.write(chunk)
            if self._local:
                out.flush()
                os.fsync(out.fileno())
        return check.hexdigest()

    def read_bytes(self, uri: str) -> bytes:
        """The blob's bytes, verified against its name.

        Raises:
            FileNotFoundError: There is no such blob.
            DamagedBlob: The bytes do not match the digest in the name.
        """
        with self._explained(uri), self._fs.open_input_file(self._path(uri)) as f:
            data = f.read()
        digest = hashlib.sha256(data).hexdigest()
        if digest != _digest_of(uri):
            raise _damaged(uri, digest)
        return data

    def local_path(self, uri: str) -> Path:
        """A local file with the blob's bytes: the blob itself, or a cached copy of a remote one.

        Raises:
            FileNotFoundError: There is no such blob.
            DamagedBlob: A remote blob's bytes do not match the digest in its name.
        """
        if self._local:
            path = Path(self._path(uri))
            if not path.is_file():
                raise FileNotFoundError(f"Blob {uri} is missing from {self.root}: {_AGAIN}")
            return path
        cached = user_cache_path("itryon") / uri
        if not cached.is_file():
            self._fetch(uri, cached)
        return cached

    def verified_path(self, uri: str) -> Path:
        """As `local_path`, after the bytes were compared with the digest in the name.

        For what decides what rows say: a video decodes with a few bytes changed, to other pixels.

        Raises:
            FileNotFoundError: There is no such blob.
            DamagedBlob: The bytes do not match.
        """
        path = self.local_path(uri)
        digest = sha256_file(path)
        if digest != _digest_of(uri) and not self._local:
            path.unlink()  # The copy on this machine; the store's may be right.
            path = self.local_path(uri)
            digest = sha256_file(path)
        if digest != _digest_of(uri):
            raise _damaged(uri, digest)
        return path

    def verify(self, uri: str) -> None:
        """Compare the blob's bytes with the digest in its name.

        Raises:
            FileNotFoundError: There is no such blob.
            DamagedBlob: They do not match.
            OSError: They cannot be read.
        """
        check = hashlib.sha256()
        with self._explained(uri), self._fs.open_input_stream(self._path(uri)) as f:
            for chunk in _chunks(f):
                check.update(chunk)
        if check.hexdigest() != _digest_of(uri):
            raise _damaged(uri, check.hexdigest())

    def _fetch(self, uri: str, target: Path) -> None:
        # Names are digests, so one cache serves all lakes, and what lies in it was verified once.
        path = self._path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        check = hashlib.sha256()
        try:
            with self._explained(uri), self._fs.open_input_stream(path) as f, temporary.open("wb") as out:
                for chunk in _chunks(f):
                    check.update(chunk)
                    out.write(chunk)
            if check.hexdigest() != _digest_of(uri):
                raise _damaged(uri, check.hexdigest())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


_AGAIN = "run `itryon repair`, then the batch again from its first stage on"


def _digest_of(uri: str) -> str:
    return PurePosixPath(uri).name.split(".")[0]


def _damaged(uri: str, digest: str) -> DamagedBlob:
    return DamagedBlob(f"Blob {uri} is damaged, its bytes hash to {digest[:16]}…: {_AGAIN}")


def _chunks(source):
    if isinstance(source, memoryview):
        for start in range(0, len(source), _CHUNK):
            yield source[start : start + _CHUNK]
        return
    while chunk := source.read(_CHUNK):
        yield chunk
