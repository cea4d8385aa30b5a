"""Values and their intervals as people read them. No heavy imports."""

from __future__ import annotations

UNKNOWN = "–"
_UNITS = {
    "share": (100, 1, " %"),
    "px": (1, 1, " px"),
    "mm": (1, 1, " mm"),
    "deg": (1, 1, " °"),
    "torso": (1, 2, " torso"),
}
"""Unit -> factor, digits behind the point, and what stands behind the number."""


def shown(
    value: float | None, low: float | None = None, high: float | None = None, *, digits: int = 2, unit: str = ""
) -> str:
    """A value with its interval, such as `0.81 (0.72 to 0.89)` or `14.9 mm`; a dash where it is not known.

    Args:
        value: The value.
        low: Lower end of the interval; without both ends there is none.
        high: Upper end.
        digits: Behind the point, for units that do not say.
        unit: Such as share (shown in percent), px, mm, deg or torso; others are left out.
    """
    if value is None:
        return UNKNOWN
    interval = "" if low is None or high is None else f" ({interval_shown(low, high, digits=digits, unit=unit)})"
    factor, digits, name = _UNITS.get(unit, (1, digits, ""))
    return f"{factor * value:.{digits}f}{name}{interval}"


def interval_shown(low: float | None, high: float | None, *, digits: int = 2, unit: str = "") -> str:
    """An interval by itself, such as `0.72 to 0.89` or `14.1 to 15.3 mm`; see `shown`."""
    if low is None or high is None:
        return UNKNOWN
    factor, digits, _ = _UNITS.get(unit, (1, digits, ""))
    return f"{factor * low:.{digits}f} to {shown(high, digits=digits, unit=unit)}"
