"""Makes a face unrecognisable: a blurred crop and a `face.blurred` event for each `face.detected`.

Reads in/eventmeta.json and the crop in in/data, writes out/data/<crop> and out/events/blurred.json.
"""

import json
import os
import sys
from pathlib import Path

import cv2

BASE = Path(os.environ.get("HANDLER_BASE_DIR", "/ion"))

# The face is averaged into CELLS x CELLS squares. This is what protects: 36 colours are all that is left of it, while a
# Gaussian blur alone can be computed back.
CELLS = 6
# Then the squares are melted into each other, only for looks. In cells: half a cell hides every edge.
SOFTNESS = 0.5
# Where the face was found, handed on so that a later module could paste the blurred crop back into the photograph.
PASSED_ON = ("photo", "x", "y", "width", "height")


def main() -> None:
    meta = read_pairs(BASE / "in" / "eventmeta.json")
    crop = meta.get("crop")
    if crop is None:
        sys.exit('blur: in/eventmeta.json: no pair "crop" that names the file to blur. detect writes one.')
    face = cv2.imread(str(BASE / "in" / "data" / crop))
    if face is None:
        sys.exit(f"blur: in/data/{crop}: not there, or not a picture that OpenCV can read.")

    if not cv2.imwrite(str(BASE / "out" / "data" / crop), blurred(face), [cv2.IMWRITE_JPEG_QUALITY, 95]):
        sys.exit(f"blur: out/data/{crop}: OpenCV could not write it. Is there room on the disk?")
    event = {"eventType": "face.blurred", "files": crop, "crop": crop}
    event |= {key: meta[key] for key in PASSED_ON if key in meta}
    write_pairs(BASE / "out" / "events" / "blurred.json", event)
    print(f"{meta.get('photo', '?')}: {crop} blurred")


def blurred(face: cv2.typing.MatLike) -> cv2.typing.MatLike:
    height, width = face.shape[:2]
    cells = cv2.resize(face, (CELLS, CELLS), interpolation=cv2.INTER_AREA)  # the average of each cell
    mosaic = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
    return cv2.GaussianBlur(mosaic, (0, 0), sigmaX=SOFTNESS * width / CELLS, sigmaY=SOFTNESS * height / CELLS)


def read_pairs(path: Path) -> dict[str, str]:
    """Reads the event's pairs as a map: of two pairs with one key the later wins. No file means no pairs."""
    if not path.exists():
        return {}
    return {pair["key"]: pair["value"] for pair in json.loads(path.read_text(encoding="utf-8"))}


def write_pairs(path: Path, facts: dict[str, str]) -> None:
    pairs = [{"key": key, "value": value} for key, value in facts.items()]
    path.write_text(json.dumps(pairs, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
