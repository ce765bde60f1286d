"""An event for each photograph of an album."""

import ion_module

for path in ion_module.inputs():
    name = ion_module.name_of(path)
    ion_module.output(name).write_bytes(path.read_bytes())
    ion_module.emit("photo.found", files=[name], pairs={"photo": name})
