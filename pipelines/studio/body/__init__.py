"""The people of the capture studio: a parametric body, its skeleton, and what can be read off a posed one."""

from pipelines.studio.body.rig import Posed, Rig, Shape, load_rig

__all__ = ["Posed", "Rig", "Shape", "load_rig"]
