"""Names of batches that hold one video each, which somebody wanted dressed: `itryon tryon --video` makes them.

Nobody gave those videos to train on or to compare checkpoints by, so whatever takes all batches leaves them out.
"""

from __future__ import annotations

import re

from pipelines.stage import digest

_NAME = re.compile(r"tryon-[0-9a-f]{16}")


def private_batch(sha256: str, suffix: str) -> str:
    """The batch of a video that is dressed by itself.

    Args:
        sha256: Of its bytes.
        suffix: Of its name, in lower case.
    """
    return f"tryon-{digest(sha256, suffix)[:16]}"


def is_private(batch: str) -> bool:
    """Whether a batch was made for one video that somebody wanted dressed."""
    return bool(_NAME.fullmatch(batch))
