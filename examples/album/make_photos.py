"""Makes photographs for the album: coloured, numbered, of several sizes, and one of them broken if asked for."""

import argparse
from pathlib import Path

import cv2
import numpy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=12, help="how many")
    parser.add_argument("--broken", type=int, help="the number of one that is no picture")
    asked = parser.parse_args()
    asked.directory.mkdir(parents=True, exist_ok=True)
    for n in range(1, asked.count + 1):
        path = asked.directory / f"photo-{n:04}.png"
        if n == asked.broken:
            path.write_bytes(b"\x89PNG broken")
            continue
        picture = numpy.zeros((120 + n % 3 * 20, 160 + n % 5 * 20, 3), numpy.uint8)
        picture[:] = (180 * n // asked.count, 200, 150)
        picture = cv2.cvtColor(picture, cv2.COLOR_HSV2BGR)
        cv2.putText(picture, str(n), (20, 80), cv2.FONT_HERSHEY_SIMPLEX, 2, (0, 0, 0), 3)
        cv2.imwrite(str(path), picture)


if __name__ == "__main__":
    main()
