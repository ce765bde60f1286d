"""@NAME@: passes on every file it is given, with its size. Put your own work here.

Takes @SUBSCRIBES@, publishes @PUBLISHES@. Reads in/data, writes out/data, out/events and out/insights.json.
"""

import ion_module


def main() -> None:
    files = ion_module.inputs()
    for path in files:
        name = ion_module.name_of(path)
        content = path.read_bytes()
        ion_module.output(name).write_bytes(content)
        ion_module.emit("@PUBLISHES@", files=[name], pairs={"bytes": len(content)})
        print(f"{name}: {len(content)} bytes")
    ion_module.insight("files", len(files))


if __name__ == "__main__":
    main()
