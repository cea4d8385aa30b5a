"""Content-addressed files: `<lake>/blobs/<first two hex>/<sha256>.<ext>`.

A blob is written under a temporary name, flushed, and renamed, so a name that exists is a whole file; a row may name a
blob only after `put_*` returned. Delta tables hold references, never the bytes: binary columns overflow 32-bit offsets
at 3.3 GB and need five times the data in memory.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from platformdirs import user_cache_path
from pyarrow import fs

from models.filesystem import open_root

_CHUNK = 1 << 20
# A blob that is stored again becomes young again, or it could be removed as one that nothing names before its row is
# there; not each time, since a thousand videos may share one garment photo.
_YOUNG_S = 86400


@dataclass(frozen=True)
class StoredBlob:
    """A blob, or what a writer that was killed left of one.

    Attributes:
        uri: Relative URI; that of an unfinished blob ends with `.tmp`.
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
        return self._fs.get_file_info(self._path(uri)).type == fs.FileType.File

    def list(self) -> Iterator[StoredBlob]:
        """All blobs, those included that a killed writer left unfinished."""
        for info in self._fs.get_file_info(
            fs.FileSelector(f"{self._base}/blobs", recursive=True, allow_not_found=True)
        ):
            if info.type == fs.FileType.File:
                yield StoredBlob(info.path.removeprefix(f"{self._base}/"), info.size, info.mtime_ns / 1e9)

    def remove(self, uri: str, stored_before: float) -> bool:
        """Remove a blob that was stored last before a time, seconds since 1970; whether it was removed."""
        path = self._path(uri)
        info = self._fs.get_file_info(path)
        if info.type != fs.FileType.File or info.mtime_ns / 1e9 >= stored_before:
            return False
        self._fs.delete_file(path)
        return True

    def _stored(self, uri: str) -> bool:
        """Whether the blob is there, and young from now on."""
        path = self._path(uri)
        info = self._fs.get_file_info(path)
        if info.type != fs.FileType.File:
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
        if self._stored(uri):
            return uri
        with source.open("rb") as stream:
            self._write(stream, uri, digest)
        return uri

    def put_bytes(self, data: bytes, suffix: str) -> str:
        """Store bytes; returns the blob's URI."""
        digest = hashlib.sha256(data).hexdigest()
        uri = self.uri_for(digest, suffix)
        if not self._stored(uri):
            self._write(memoryview(data), uri, digest)
        return uri

    def _write(self, source, uri: str, digest: str) -> None:
        target = self._path(uri)
        temporary = f"{target}.{uuid.uuid4().hex}.tmp"
        if self._local:
            # Object stores have no folders; making one leaves an empty object behind.
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        check = hashlib.sha256()
        try:
            if self._local:
                with Path(temporary).open("wb") as out:
                    for chunk in _chunks(source):
                        check.update(chunk)
                        out.write(chunk)
                    out.flush()
                    os.fsync(out.fileno())
            else:
                with self._fs.open_output_stream(temporary) as out:
                    for chunk in _chunks(source):
                        check.update(chunk)
                        out.write(chunk)
            if check.hexdigest() != digest:
                raise OSError(f"{uri}: the file changed while it was being stored; run again once it is complete")
            self._fs.move(temporary, target)
        except BaseException:
            if self._fs.get_file_info(temporary).type == fs.FileType.File:
                self._fs.delete_file(temporary)
            raise

    def read_bytes(self, uri: str) -> bytes:
        """The blob's bytes, verified against its name.

        Raises:
            FileNotFoundError: There is no such blob.
            OSError: The bytes do not match the digest in the name: the blob was damaged.
        """
        with self._fs.open_input_file(self._path(uri)) as f:
            data = f.read()
        digest = hashlib.sha256(data).hexdigest()
        if digest != _digest_of(uri):
            raise OSError(_damaged(uri, digest))
        return data

    def local_path(self, uri: str) -> Path:
        """A local file with the blob's bytes: the blob itself, or a cached copy of a remote one.

        Raises:
            FileNotFoundError: There is no such blob.
            OSError: A remote blob's bytes do not match the digest in its name.
        """
        if self._local:
            path = Path(self._path(uri))
            if not path.is_file():
                raise FileNotFoundError(f"Blob {uri} is missing from {self.root}; run the stage that makes it again")
            return path
        cached = user_cache_path("itryon") / uri
        if not cached.is_file():
            self._fetch(uri, cached)
        return cached

    def _fetch(self, uri: str, target: Path) -> None:
        # Names are digests, so one cache serves all lakes, and what lies in it was verified once.
        path = self._path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        check = hashlib.sha256()
        try:
            with self._fs.open_input_stream(path) as f, temporary.open("wb") as out:
                for chunk in _chunks(f):
                    check.update(chunk)
                    out.write(chunk)
            if check.hexdigest() != _digest_of(uri):
                raise OSError(_damaged(uri, check.hexdigest()))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def _digest_of(uri: str) -> str:
    return PurePosixPath(uri).name.split(".")[0]


def _damaged(uri: str, digest: str) -> str:
    return f"{uri} is damaged: its bytes hash to {digest[:16]}…; delete it and run the stage again"


def _chunks(source):
    if isinstance(source, memoryview):
        for start in range(0, len(source), _CHUNK):
            yield source[start : start + _CHUNK]
        return
    while chunk := source.read(_CHUNK):
        yield chunk
