"""What a lake costs as it grows: generated lakes of the paper's size and of ten times that."""

from benchmarks.scale.measure import scale

__all__ = ["scale"]
