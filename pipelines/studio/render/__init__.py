"""Pictures of the studio: a fast software renderer for people in clothes, with textures, light, and places to stand."""

from pipelines.studio.render.body import Region
from pipelines.studio.render.camera import StudioCamera
from pipelines.studio.render.look import Look, sample_look
from pipelines.studio.render.product import product_image
from pipelines.studio.render.renderer import Frame, Renderer

__all__ = ["Frame", "Look", "Region", "Renderer", "StudioCamera", "product_image", "sample_look"]
