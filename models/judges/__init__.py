"""Judges of an interaction: did the person in the result do to the garment what the caption says?

A judge is one module of this package with a function `make(settings, cache_dir)` that returns a `base.Judge`. Its name
is that of its module; nothing else lists it.
"""

from pkgutil import iter_modules

_SHARED = ("base", "settings", "voting")

JUDGES: tuple[str, ...] = tuple(sorted(m.name for m in iter_modules(__path__) if not m.ispkg and m.name not in _SHARED))
"""Names of all judges. Found by looking at file names, so nothing is imported."""
