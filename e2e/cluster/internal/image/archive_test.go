package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"testing"
)

var sample = Image{
	Name:       "e2e.test/sample:1",
	Entrypoint: []string{"/sample"},
	Files:      []File{{Path: "sample", Content: []byte("#!/bin/true\n")}},
}

func unpack(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	reader := tar.NewReader(bytes.NewReader(archive))
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(reader); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnArchiveNamesItsImageAndTheDigestOfItsLayer(t *testing.T) {
	var archive bytes.Buffer
	if err := sample.Write(&archive); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, archive.Bytes())
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if manifest[0].RepoTags[0] != sample.Name {
		t.Errorf("image is called %v", manifest[0].RepoTags)
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	layer := files[manifest[0].Layers[0]]
	if want := "sha256:" + digest(layer); config.RootFS.DiffIDs[0] != want {
		t.Errorf("layer %s, want %s", config.RootFS.DiffIDs[0], want)
	}
	if got := unpack(t, layer)["sample"]; !bytes.Equal(got, sample.Files[0].Content) {
		t.Errorf("content %q", got)
	}
}

func TestTheSameImageAlwaysGivesTheSameBytes(t *testing.T) {
	var first, second bytes.Buffer
	if err := sample.Write(&first); err != nil {
		t.Fatal(err)
	}
	if err := sample.Write(&second); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the bytes differ")
	}
}
