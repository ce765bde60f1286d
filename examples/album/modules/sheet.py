"""All small pictures of an album on one sheet, in the order of the album; what is missing is named below them."""

import math

import cv2
import ion_module
import numpy

CELL, LINE = 100, 16

given = ion_module.gathered()
columns = max(1, math.ceil(math.sqrt(len(given.events))))
rows = math.ceil(len(given.events) / columns)
missing = [f"missing: {it.module} of {it.event_id}: {it.reason}" for it in given.missing]

sheet = numpy.full((rows * CELL + LINE * len(missing) + 8, max(columns * CELL, 800), 3), 255, numpy.uint8)
for n, event in enumerate(given.events):
    thumb = cv2.imread(str(event.inputs[0]))
    height, width = thumb.shape[:2]
    top, left = n // columns * CELL + (CELL - height) // 2, n % columns * CELL + (CELL - width) // 2
    sheet[top : top + height, left : left + width] = thumb
for n, line in enumerate(missing):
    cv2.putText(sheet, line, (4, rows * CELL + (n + 1) * LINE), cv2.FONT_HERSHEY_PLAIN, 0.9, (0, 0, 0))
cv2.imwrite(str(ion_module.output("sheet.png")), sheet)

ion_module.insights({"photographs": len(given.events), "missing": len(given.missing)})
pairs = {"photographs": len(given.events), "missing": "\n".join(missing)}
ion_module.emit("sheet.made", files=["sheet.png"], pairs=pairs)
