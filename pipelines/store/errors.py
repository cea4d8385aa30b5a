"""What went wrong below the lake, in words that say what to do.

Three things happen to a lake that no code can mend while it runs: its disk fills up, its object store does not answer,
and somebody changes a file below a table by hand. The libraries report them as parse errors of Parquet or JSON, with
the stack of another language behind them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError, TableNotFoundError

from models.filesystem import disk_is_full

# Of delta-rs, object_store and parquet, for a local folder; a store behind a URI says some of them for other reasons.
_DAMAGED = (
    "not found: No such file",
    "Requested range was invalid",
    "Parquet error",
    "Parquet argument error",
    "Json error",
    "contiguous commit files",
    "No table metadata or protocol",
    "Invalid JSON in log",
    "Invalid Checkpoint",
    "404 Not Found",
)
_UNANSWERED = (
    "error sending request",
    "Connect",
    "connect",
    "NETWORK_CONNECTION",
    "timed out",
    "Timeout",
    "max_retries",
    "retries",
    "Server Error",
    "Service Unavailable",
    "SlowDown",
    "INTERNAL_FAILURE",
    "SERVICE_UNAVAILABLE",
    "HTTP status 5",
)


class LakeError(OSError):
    """The lake cannot be read or written; the message says what to do."""


class DiskFull(LakeError):
    """The disk of the lake, or of what is prepared for it, is full."""


class DamagedTable(LakeError):
    """A file below a table is gone or was changed."""


class DamagedBlob(OSError):
    """The bytes of a blob do not match the digest in its name."""


class LakeUnreachable(LakeError):
    """The object store of the lake refuses, or does not answer in time."""


@contextlib.contextmanager
def explained(root: str, what: str) -> Iterator[None]:
    """Say what to do about errors of the disk, the object store, or a damaged table; others pass as they are.

    Args:
        root: The lake.
        what: What was read or written, such as `table pose`; begins the message.

    Raises:
        LakeError: In place of what the libraries raise. It has no cause, since Dagster and the command line would show
            that in its stead.
    """
    try:
        yield
    except (LakeError, CommitFailedError, SchemaMismatchError, TableNotFoundError):
        raise
    except (DeltaError, OSError, pa.ArrowException) as e:
        if (better := explain(e, root, what)) is None:
            raise
        raise better from None


def explain(error: BaseException, root: str, what: str) -> LakeError | None:
    """The error in words that say what to do; None where it is of another kind. See `explained`."""
    text = _short(error)
    if disk_is_full(error):
        return DiskFull(
            f"{what} cannot be written, the disk of {root} is full: free some space and run again; "
            "what was committed stands"
        )
    # Only plain ones come from the store: what other libraries cannot reach, they say in subclasses of OSError.
    of_store = type(error) is OSError or isinstance(error, (DeltaError, pa.ArrowException))
    if "://" in root and of_store and any(t in text for t in _UNANSWERED):
        return LakeUnreachable(
            f"{what} cannot be reached, the object store of {root} does not answer: check AWS_ENDPOINT_URL, "
            f"AWS_REGION, credentials and network, then run again; what was committed stands ({text})"
        )
    if what.startswith("Table") and any(t in text for t in _DAMAGED):
        if " at version " in what:
            return DamagedTable(
                f"{what} cannot be read, it was vacuumed or a file of it is gone: read a newer version, or run `itryon "
                f"repair` if it is the newest ({text})"
            )
        return DamagedTable(f"{what} of {root} is damaged: run `itryon repair`, then run again ({text})")
    return None


def _short(error: BaseException) -> str:
    """The message in one line, without colours and without the stack that delta-rs puts behind it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    text = re.split(r"\n\s+0: ", text)[0]
    return " ".join(text.split())[:600]
