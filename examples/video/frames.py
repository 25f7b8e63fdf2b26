"""The stages `decode` and `detect`: from a compressed picture to an array, from an array to the blobs in it.

Both run in Consumers, and need nothing but the one frame: so as many processes as there are CPUs may work on the frames
of one camera. Coordinates are in pixels, x to the right and y down.
"""

import io
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mqworker import Reject, Result

NARROW, WIDE = 1.5, 12.0  # pixels: what is smaller is noise, what is larger is background


@dataclass
class Params:
    """How much brighter than its surroundings a blob is, in grey levels of 256; how many pixels it has at least."""

    threshold: Annotated[float, Meta(gt=0, le=255)] = 12.0
    min_pixels: Annotated[int, Meta(ge=1)] = 12


class Frame(msgspec.Struct):
    """A picture as a camera sends it; in JSON its bytes are base64."""

    camera: str
    frame: Annotated[int, Meta(ge=0)]  # 0, 1, 2, ... for each camera
    image: bytes  # of any format that Pillow knows


def decode(body: Any) -> Result:
    """Return the picture as an array of grey levels; the header `camera` goes along to the last stage."""
    try:
        frame = msgspec.convert(body, Frame)
        with Image.open(io.BytesIO(frame.image)) as image:
            pixels = np.asarray(image.convert("L"))
    except (msgspec.ValidationError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise Reject(f"no frame: {error}") from None
    found = {"camera": frame.camera, "frame": frame.frame, "pixels": pixels}
    return Result(found, headers={"camera": frame.camera})


def detect(body: dict[str, Any], params: Params) -> dict[str, Any]:
    """Return the blobs of a frame, one row each: x, y, and number of pixels."""
    image = Image.fromarray(body["pixels"])
    narrow, wide = (np.asarray(image.filter(ImageFilter.GaussianBlur(size)), np.int16) for size in (NARROW, WIDE))
    above = narrow - wide
    blobs = measure(above, components(above > params.threshold))
    return {"camera": body["camera"], "frame": body["frame"], "blobs": blobs[blobs[:, 2] >= params.min_pixels]}


def components(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Give all pixels of a connected component one number, other than 0 and other than that of the next component.

    Each pixel begins with a number of its own, and the largest spreads to neighbours above, below, left and right until
    nothing changes: as many rounds as the longest way through a component, few for blobs.
    """
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        edged = np.pad(labels, 1)
        around = edged[1:-1, 1:-1], edged[:-2, 1:-1], edged[2:, 1:-1], edged[1:-1, :-2], edged[1:-1, 2:]
        spread = np.where(mask, np.maximum.reduce(around), 0)
        if np.array_equal(spread, labels):
            return labels
        labels = spread


def measure(above: NDArray[np.int16], labels: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return x and y of each component, weighted by brightness, and its number of pixels."""
    y, x = np.nonzero(labels)
    _, which = np.unique(labels[y, x], return_inverse=True)
    light = above[y, x].astype(np.float64)
    total = np.bincount(which, light)
    return np.column_stack(
        [np.bincount(which, light * x) / total, np.bincount(which, light * y) / total, np.bincount(which)]
    )
