"""A small picture of a photograph. What is no picture fails."""

import sys

import cv2
import ion_module

SIDE = 96

[path] = ion_module.inputs()
picture = cv2.imread(str(path))
if picture is None:
    sys.exit(f"{path.name}: is no picture that OpenCV can read")
scale = min(1.0, SIDE / max(picture.shape[:2]))
thumb = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
cv2.imwrite(str(ion_module.output("thumb.png")), thumb)
ion_module.emit("thumb.made", files=["thumb.png"], pairs={"photo": ion_module.metadata()["photo"]})
