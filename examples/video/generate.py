"""Prints the frames of a few cameras as JSON Lines: `python generate.py 60 > frames.jsonl`, 60 of each.

Each camera sees bright discs that move at constant velocity, and bounce off the edges, over a textured ground that
changes with the light, with noise in each pixel. A frame is a JPEG of about 5 kB.
"""

import base64
import io
import json
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 160, 120
CAMERAS = ("north", "east", "south")
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)


class Scene:
    """What one camera sees."""

    def __init__(self, seed: int, discs: int = 5) -> None:
        self.random = np.random.default_rng(seed)
        self.ground = self._ground()
        self.radius = self.random.uniform(3.5, 5.5, discs)
        self.light = self.random.uniform(70, 120, discs)
        self.start = self.random.uniform((0, 0), (WIDTH, HEIGHT), (discs, 2))
        direction = self.random.uniform(0, 2 * math.pi, discs)
        speed = self.random.uniform(0.5, 2.5, discs)  # pixels per frame
        self.velocity = np.column_stack([speed * np.cos(direction), speed * np.sin(direction)])

    def _ground(self) -> Floats:
        """Make slow waves in several directions, and a fine grain."""
        ground: Floats = 90 + self.random.normal(0, 2, X.shape)
        for _ in range(4):
            angle, length = self.random.uniform(0, 2 * math.pi), self.random.uniform(50, 150)
            phase = self.random.uniform(0, 2 * math.pi)
            ground += 8 * np.sin((X * math.cos(angle) + Y * math.sin(angle)) * 2 * math.pi / length + phase)
        return ground

    def positions(self, frame: int) -> Floats:
        """Return x and y of each disc."""
        size = np.array([WIDTH - 1, HEIGHT - 1])
        places: Floats = size - np.abs((self.start + self.velocity * frame) % (2 * size) - size)
        return places

    def picture(self, frame: int) -> bytes:
        """Return the JPEG of a frame; call it for one frame after the other, for the noise."""
        picture = self.ground + 6 * math.sin(frame / 15) + self.random.normal(0, 4, X.shape)
        for (x, y), radius, light in zip(self.positions(frame), self.radius, self.light, strict=True):
            picture += light / (1 + np.exp(2 * (np.hypot(X - x, Y - y) - radius)))
        file = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        return file.getvalue()


def frames(count: int, seed: int = 1, name: str = "") -> Iterator[dict[str, Any]]:
    """Yield `count` frames of each camera, as they would come; the same arguments give the same frames."""
    scenes = {f"{camera}{name}": Scene(seed + number) for number, camera in enumerate(CAMERAS)}
    for frame in range(count):
        for camera, scene in scenes.items():
            image = base64.b64encode(scene.picture(frame)).decode()
            yield {"camera": camera, "frame": frame, "image": image}


if __name__ == "__main__":
    # Other cameras each time: a frame that has been tracked is not tracked again.
    for each in frames(int(sys.argv[1]) if len(sys.argv) > 1 else 60, name=f"-{int(time.time())}"):
        sys.stdout.write(json.dumps(each) + "\n")
