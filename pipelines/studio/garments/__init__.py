"""Garments of the studio: cloth cut to a body, worn in any pose, and handled by hands."""

from pipelines.studio.garments.garment import Garment
from pipelines.studio.garments.lower import LowerClothes
from pipelines.studio.garments.spec import KINDS, GarmentSpec, sample_spec

__all__ = ["KINDS", "Garment", "GarmentSpec", "LowerClothes", "sample_spec"]
