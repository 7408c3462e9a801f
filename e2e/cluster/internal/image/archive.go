// Package image writes container images of a few files, without any container tool.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"time"
)

// Image is an image of one layer.
type Image struct {
	// Name is what pods call it, with registry and tag: "e2e.test/pause:1".
	Name       string
	Entrypoint []string
	// Files are executables by their path in the image, without a leading slash.
	Files []File
}

// File is one file of an image.
type File struct {
	Path    string
	Content []byte
}

// Write writes the image to out as an archive that container runtimes can load. The same image
// always gives the same bytes.
func (i Image) Write(out io.Writer) error {
	layer, err := pack(0o755, i.Files...)
	if err != nil {
		return fmt.Errorf("pack the files of %s: %w", i.Name, err)
	}
	type object = map[string]any
	config, err := json.Marshal(object{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      time.Unix(0, 0).UTC(),
		"config":       object{"Entrypoint": i.Entrypoint},
		"rootfs":       object{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
		"history":      []object{{"created": time.Unix(0, 0).UTC()}},
	})
	if err != nil {
		return fmt.Errorf("encode the configuration of %s: %w", i.Name, err)
	}
	const layerName = "layer.tar"
	configName := digest(config) + ".json"
	manifest, err := json.Marshal([]object{{
		"Config":   configName,
		"RepoTags": []string{i.Name},
		"Layers":   []string{layerName},
	}})
	if err != nil {
		return fmt.Errorf("encode the manifest of %s: %w", i.Name, err)
	}
	archive, err := pack(0o644, File{"manifest.json", manifest}, File{configName, config}, File{layerName, layer})
	if err != nil {
		return fmt.Errorf("pack %s: %w", i.Name, err)
	}
	if _, err := out.Write(archive); err != nil {
		return fmt.Errorf("write image %s: %w", i.Name, err)
	}
	return nil
}

// pack returns a tar archive of files, all with the same mode.
func pack(mode int64, files ...File) ([]byte, error) {
	var packed bytes.Buffer
	archive := tar.NewWriter(&packed)
	for _, file := range files {
		header := tar.Header{Typeflag: tar.TypeReg, Name: file.Path, Mode: mode, Size: int64(len(file.Content))}
		if err := archive.WriteHeader(&header); err != nil {
			return nil, fmt.Errorf("%s: %w", file.Path, err)
		}
		if _, err := archive.Write(file.Content); err != nil {
			return nil, fmt.Errorf("%s: %w", file.Path, err)
		}
	}
	err := archive.Close()
	return packed.Bytes(), err
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
