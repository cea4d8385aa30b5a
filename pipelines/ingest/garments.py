"""One garment photo, measured in a worker process: upright size and foreground mask."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.ingest.segmentation import segment_garment
from pipelines.ingest.settings import IngestSettings

_LEAST, _MOST = 0.02, 0.97
# Those of `pipelines.ingest.landing.PHOTO_SUFFIXES`. Pillow goes by content, not by name: without this list, an EPS
# named jacket.jpg starts Ghostscript on it.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


@dataclass
class GarmentAnalysis:
    """Measurements of one photo; the fields are columns of `garments`, apart from `mask_png` and `error`."""

    width: int | None = None
    height: int | None = None
    foreground_fraction: float | None = None
    mask_png: bytes | None = None
    error: str | None = None


def analyse_garment(path: str, mask_path: str | None, settings: IngestSettings) -> dict[str, object]:
    """Read a photo and find its garment; a `GarmentAnalysis` as a dict.

    The mask comes from the given file, else from the photo's own transparency, else from `segment_garment`.
    """
    try:
        rgb, alpha = read_photo(path, settings.max_photo_side)
        if mask_path is not None:
            mask = _read_mask(mask_path, rgb.shape[:2], settings.max_photo_side)
        elif alpha is not None:
            mask = alpha
        else:
            mask = segment_garment(rgb)
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as e:
        return asdict(GarmentAnalysis(error=_reason(e)))
    height, width = rgb.shape[:2]
    fraction = float((mask > 0).mean())
    analysis = GarmentAnalysis(width, height, fraction)
    if not _LEAST <= fraction <= _MOST:
        analysis.error = (
            f"No garment found: the mask covers {fraction:.0%} of the photo. Put it on a background of another colour, "
            f"or put a mask beside it ({Path(path).stem}_mask.png, white = garment)"
        )
        return asdict(analysis)
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", optimize=True)
    analysis.mask_png = buffer.getvalue()
    return asdict(analysis)


def read_photo(path: str, max_side: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """A photo as its viewer shows it: upright after EXIF, and transparency on white.

    Args:
        path: The file.
        max_side: Longest side that is accepted, pixels; any of photos that the ingestion accepted.

    Returns:
        Shape (height, width, 3) uint8 RGB, and the mask of its opaque part, (height, width) uint8 of 0 and 255, or None
        where the photo has no transparent part.

    Raises:
        OSError: Not an image, or cut off.
        ValueError: Longer than `max_side`.
    """
    with Image.open(path, formats=_FORMATS) as stored:
        if max_side is not None and max(stored.size) > max_side:
            raise ValueError(f"Is {stored.width}x{stored.height} pixels, a side is above {max_side}")
        image = ImageOps.exif_transpose(stored)
        if not image.has_transparency_data:
            return np.asarray(image.convert("RGB")), None
        rgba = np.asarray(image.convert("RGBA"))
    opaque = rgba[..., 3:].astype(np.float32) / 255
    rgb = np.round(rgba[..., :3] * opaque + 255 * (1 - opaque)).astype(np.uint8)
    mask = ((rgba[..., 3] > 127) * 255).astype(np.uint8)
    return rgb, mask if (mask == 0).mean() > 0.01 else None


def _read_mask(path: str, shape: tuple[int, int], max_side: int) -> np.ndarray:
    with Image.open(path, formats=_FORMATS) as image:
        if image.size != shape[::-1] or max(image.size) > max_side:
            raise ValueError(f"Its mask is {image.width}x{image.height} pixels, the photo {shape[1]}x{shape[0]}")
        return ((np.asarray(image.convert("L")) > 127) * 255).astype(np.uint8)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "Not a readable photo: damaged, or none of JPEG, PNG, WebP, BMP and TIFF"
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return str(error)
    return f"Not a readable photo: {getattr(error, 'strerror', None) or error}"
