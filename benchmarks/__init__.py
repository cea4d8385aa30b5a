"""Benchmarks: ratios against a baseline timed in the same run. `make bench` writes benchmarks/RESULTS.md."""
