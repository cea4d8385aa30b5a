"""The code location. What is in it is assembled in `dagster_project.build`."""

from dagster_project.build import build_defs

defs = build_defs()
