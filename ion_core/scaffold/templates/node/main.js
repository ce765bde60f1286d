// @NAME@: passes on every file it is given, with its size. Put your own work here.
// Takes @SUBSCRIBES@, publishes @PUBLISHES@. Reads in/data, writes out/data, out/events and out/insights.json.
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const base = process.env.HANDLER_BASE_DIR || "/ion";
const inData = path.join(base, "in", "data");

// Every file in in/data, also in sub-directories, by name.
function inputs(directory = inData) {
  const found = fs.readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(directory, entry.name);
    return entry.isDirectory() ? inputs(file) : [file];
  });
  return found.sort();
}

// Ion's pairs: an array of key and value, both text.
function writePairs(file, facts) {
  const pairs = Object.entries(facts).map(([key, value]) => ({ key, value: String(value) }));
  fs.writeFileSync(file, JSON.stringify(pairs, null, 1));
}

const files = inputs();
files.forEach((file, number) => {
  const name = path.relative(inData, file);
  const content = fs.readFileSync(file);
  const target = path.join(base, "out", "data", name);
  fs.mkdirSync(path.dirname(target), { recursive: true });
  fs.writeFileSync(target, content);
  // One file is one event; they are published in the order of their names.
  const event = path.join(base, "out", "events", `${String(number).padStart(6, "0")}.json`);
  writePairs(event, { eventType: "@PUBLISHES@", files: name, bytes: content.length });
  console.log(`${name}: ${content.length} bytes`);
});
writePairs(path.join(base, "out", "insights.json"), { files: files.length });
