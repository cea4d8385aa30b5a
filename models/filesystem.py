"""Opens the file system of a lake's root for what is not a Delta table: blobs, checkpoints, training clips; and knows
a full disk by the words of every library.

It lies here, below `pipelines`, because the trainer reads blobs too and knows nothing of the lake's tables.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import fs

_S3 = ("s3://", "s3a://")
_FULL = ("No space left on device", "Disk quota exceeded")


def disk_is_full(error: BaseException) -> bool:
    """Whether an error comes from a full disk or quota; libraries in other languages say so in their text alone."""
    number = getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in _FULL)


def open_root(root: str) -> tuple[fs.FileSystem, str]:
    """The file system of a folder or URI, and the path of `root` in it, without a slash at the end.

    Stores that speak S3 are found by the same environment variables that delta-rs reads: `AWS_ENDPOINT_URL` (or
    `AWS_ENDPOINT_URL_S3`), `AWS_REGION` (or `AWS_DEFAULT_REGION`), `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and
    `AWS_SESSION_TOKEN`. Without a region Arrow asks Amazon for the bucket's, which takes minutes to fail where Amazon
    cannot be reached, and never finds a bucket of another store.

    Args:
        root: Folder, or a URI that pyarrow's file systems take.
    """
    if "://" not in root:
        return fs.LocalFileSystem(), str(Path(root).resolve())
    if not root.startswith(_S3):
        system, base = fs.FileSystem.from_uri(root)
        return system, base.rstrip("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not endpoint and not region:
        system, base = fs.FileSystem.from_uri(root)
        return system, base.rstrip("/")
    options: dict[str, str] = {"region": region or "us-east-1"}
    if endpoint:
        url = urlsplit(endpoint)
        options |= {"endpoint_override": url.netloc, "scheme": url.scheme}
    return fs.S3FileSystem(**options), root.split("://", 1)[1].rstrip("/")
