"""A picture that a person has, as codes: PNG or JPEG, turned as the camera says, and made small."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import DataError
from genzoo.safe_files import read_limited, reason
from genzoo.text import plain

FORMATS = ("PNG", "JPEG")
MOST_BYTES = 2**26
"""Of a file: the largest of a camera have a third."""

MOST_PIXELS = 10**8
"""Of a picture: unpacked it takes three or four bytes each."""

GREY_MODES = ("1", "L", "LA")
"""Pillow's words for pixels without colour."""


def read_picture(path: Path, side: int) -> NDArray[np.uint8]:
    """The picture in `path` as `(c, h, w)` codes 0..255, c 1 or 3, its longer side at most `side` pixels (by averaging;
    none is made larger). What is transparent is put on white.

    Raises:
        DataError: no PNG or JPEG, one that is broken, or one that is too large.
    """
    from PIL import Image, ImageOps

    try:
        content = read_limited(path, MOST_BYTES)
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}; make the picture smaller first") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange metadata, and of sizes, which are looked at here
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    size = f"{width:,} x {height:,} pixels; at most {MOST_PIXELS:,} are read"
                    raise DataError(f"{path}: it has {size}: make it smaller first")
                # a JPEG can be unpacked at a half, a quarter or an eighth of its size
                image.draft(None, (2 * side, 2 * side))
                pixels = _pixels(ImageOps.exif_transpose(image), side)
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{path}: unpacking it takes more memory than there is: make it smaller first") from None
    # Pillow lets its decoders raise what they will: OSError, SyntaxError, struct.error, zlib.error, ValueError and more
    except Exception as error:
        raise DataError(f"{path}: it is no PNG or JPEG, or a broken one: {plain(error, 200)}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _pixels(image: Any, side: int) -> NDArray[np.uint8]:
    """`(h, w, c)` codes of Pillow's image."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would cut off what is above 255
        values = np.asarray(image, dtype=np.float64) / 257
        image = Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    elif "A" in image.mode.upper() or "transparency" in image.info:
        above = image.convert("RGBA")
        ground = Image.new("RGBA", above.size, "white")
        grey = image.mode in GREY_MODES
        image = Image.alpha_composite(ground, above).convert("L" if grey else "RGB")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode in GREY_MODES else "RGB")
    share = min(1.0, side / max(image.size))
    size = tuple(max(1, round(share * length)) for length in image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels
