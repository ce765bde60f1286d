"""Finds the faces in the photographs of an event: one crop and one `face.detected` event for each face.

Reads in/data/*, writes out/data/face-NNN.jpg, out/events/face-NNN.json and out/insights.json.
"""

import json
import os
import sys
from pathlib import Path

import cv2

BASE = Path(os.environ.get("HANDLER_BASE_DIR", "/ion"))

# OpenCV's bundled detectors differ: on portraits this one gives the fewest false alarms.
CASCADE = Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"
# The picture is searched again and again, 10 % smaller each time; finer steps cost time and find the same faces.
SCALE_FACTOR = 1.1
# A real face is hit by many overlapping search windows (more than 30 in the photographs of this example), a chance
# pattern by one or two. Five tells them apart with room on both sides.
MIN_NEIGHBORS = 5
# Smaller than this there is too little to see to be sure of a face.
MIN_SIZE = (40, 40)


def main() -> None:
    inputs = BASE / "in" / "data"
    photos = sorted(path for path in inputs.rglob("*") if path.is_file())
    if not photos:
        sys.exit(f"detect: {inputs}: no photograph in the event. Publish it with --file PHOTO.")

    detector = cv2.CascadeClassifier(str(CASCADE))
    count = 0
    for photo in photos:
        name = photo.relative_to(inputs).as_posix()
        image = cv2.imread(str(photo))
        if image is None:
            sys.exit(f"detect: {name}: not a picture that OpenCV can read. Publish a JPEG or PNG file.")
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        found = detector.detectMultiScale(grey, SCALE_FACTOR, MIN_NEIGHBORS, minSize=MIN_SIZE)
        for x, y, width, height in sorted(tuple(map(int, box)) for box in found):  # from left to right
            count += 1
            # The crop is not named after the photograph, whose name may hold a comma: `files` is separated by them.
            crop = f"face-{count:03}.jpg"
            write_image(BASE / "out" / "data" / crop, image[y : y + height, x : x + width])
            write_pairs(
                BASE / "out" / "events" / f"face-{count:03}.json",
                {
                    "eventType": "face.detected",
                    "files": crop,
                    "photo": name,
                    "crop": crop,
                    "x": x,
                    "y": y,
                    "width": width,
                    "height": height,
                },
            )
        print(f"{name}: {len(found)} face(s)")

    write_pairs(BASE / "out" / "insights.json", {"photos": len(photos), "faces": count})


def write_image(path: Path, image: cv2.typing.MatLike) -> None:
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95]):
        sys.exit(f"detect: {path}: OpenCV could not write the crop. Is there room on the disk?")


def write_pairs(path: Path, facts: dict[str, str | int]) -> None:
    """Writes facts as Ion passes them on: an array of key and value, both strings."""
    pairs = [{"key": key, "value": str(value)} for key, value in facts.items()]
    path.write_text(json.dumps(pairs, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
