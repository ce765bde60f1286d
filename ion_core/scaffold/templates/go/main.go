// @NAME@ passes on every file it is given, with its size. Put your own work here.
//
// Takes @SUBSCRIBES@, publishes @PUBLISHES@. Reads in/data, writes out/data, out/events and out/insights.json.
package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"strconv"
)

// pair is how Ion passes facts on: both are text.
type pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func main() {
	log.SetFlags(0)
	base := os.Getenv("HANDLER_BASE_DIR")
	if base == "" {
		base = "/ion"
	}
	inData := filepath.Join(base, "in", "data")
	count := 0
	// WalkDir goes by name.
	err := filepath.WalkDir(inData, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(inData, path)
		if err != nil {
			return err
		}
		size, err := passOn(base, path, name, count)
		if err != nil {
			return err
		}
		fmt.Printf("%s: %d bytes\n", name, size)
		count++
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	insights := []pair{{"files", strconv.Itoa(count)}}
	if err := writePairs(filepath.Join(base, "out", "insights.json"), insights); err != nil {
		log.Fatal(err)
	}
}

// passOn copies a file to the outputs and writes the event for it; it returns the size in bytes.
func passOn(base, path, name string, number int) (int, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	target := filepath.Join(base, "out", "data", name)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return 0, err
	}
	if err := os.WriteFile(target, content, 0o644); err != nil {
		return 0, err
	}
	// One file is one event; they are published in the order of their names.
	event := filepath.Join(base, "out", "events", fmt.Sprintf("%06d.json", number))
	pairs := []pair{{"eventType", "@PUBLISHES@"}, {"files", name}, {"bytes", strconv.Itoa(len(content))}}
	return len(content), writePairs(event, pairs)
}

func writePairs(path string, pairs []pair) error {
	text, err := json.MarshalIndent(pairs, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
