"""What the orchestration has to know of the report. No heavy imports."""

CODE_VERSION = "1"
"""Raise it when the same tables give other figures."""
