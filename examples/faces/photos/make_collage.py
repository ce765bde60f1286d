"""Makes collage.jpg, a picture with three faces, from astronaut.jpg: `python make_collage.py`.

The portrait is shown as it is, mirrored and larger, and smaller in black and white, so that the three faces differ in
size, direction and colour, as people in a group picture do. Needs ../requirements.txt.
"""

from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).parent
WIDTH, HEIGHT, MARGIN = 784, 400, 20
BACKGROUND = (214, 222, 226)  # blue, green, red: OpenCV's order


def main() -> None:
    portrait = cv2.imread(str(HERE / "astronaut.jpg"))
    head = portrait[0:260, 110:330]
    grey = cv2.cvtColor(cv2.cvtColor(head, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    tiles = [head, resized(cv2.flip(head, 1), 1.3), resized(grey, 0.9)]

    collage = np.full((HEIGHT, WIDTH, 3), BACKGROUND, dtype=np.uint8)
    left = MARGIN
    for tile in tiles:
        height, width = tile.shape[:2]
        top = (HEIGHT - height) // 2
        collage[top : top + height, left : left + width] = tile
        left += width + MARGIN
    cv2.imwrite(str(HERE / "collage.jpg"), collage, [cv2.IMWRITE_JPEG_QUALITY, 90])


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


if __name__ == "__main__":
    main()
