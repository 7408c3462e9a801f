// Package build makes the programs and images a cluster needs and keeps them in a cache. What
// it made is found again by the content it was made from.
package build

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	sources "nsm-e2e-cluster"
	"nsm-e2e-cluster/internal/image"
	"nsm-e2e-cluster/internal/lockfile"
	"nsm-e2e-cluster/internal/progress"
)

// CacheVariable is the environment variable that moves the cache.
const CacheVariable = "NSM_CACHE"

// PauseImage is the name of the image every pod's first process comes from.
const PauseImage = "e2e.test/pause:1"

// Artifacts are the things that were built.
type Artifacts struct {
	// Programs is a directory with etcd, kubectl and the Kubernetes programs.
	Programs string
	// Version is the version of Kubernetes they are.
	Version string
	// Pause is the archive of PauseImage.
	Pause string
}

// programNames are what the one binary is called by, see the package kube.
var programNames = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
}

// All builds whatever the cache does not hold yet.
func All(ctx context.Context, report *progress.Reporter) (Artifacts, error) {
	cache, err := cacheDir()
	if err != nil {
		return Artifacts{}, err
	}
	version, err := kubernetesVersion()
	if err != nil {
		return Artifacts{}, err
	}
	toolchain, err := toolchain(ctx)
	if err != nil {
		return Artifacts{}, err
	}
	made := Artifacts{Version: version}
	made.Programs, err = kept(ctx, cache, "kubernetes-"+version, []string{toolchain}, []string{"go.mod", "go.sum", "kube"},
		func(source, into string) error { return buildKubernetes(ctx, report, source, into, version) })
	if err != nil {
		return Artifacts{}, err
	}
	pause, err := kept(ctx, cache, "pause", []string{toolchain, PauseImage}, []string{"pause"},
		func(source, into string) error { return buildPause(ctx, report, source, into) })
	made.Pause = filepath.Join(pause, pauseArchive)
	return made, err
}

const pauseArchive = "pause.tar"

func cacheDir() (string, error) {
	if dir := os.Getenv(CacheVariable); dir != "" {
		return filepath.Abs(dir)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the cache: %w; set %s", err, CacheVariable)
	}
	return filepath.Join(home, ".cache", "nsm-e2e"), nil
}

// kept returns the directory in the cache that make fills from inputs, files and directories of
// this module. It calls make only when the cache does not hold the directory; make gets a copy
// of the whole module to build in.
func kept(ctx context.Context, cache, name string, facts, inputs []string, make func(source, into string) error) (string, error) {
	hash, err := digest(facts, inputs)
	if err != nil {
		return "", err
	}
	final := filepath.Join(cache, name+"-"+hash)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	lock, err := lockfile.Acquire(ctx, final+".lock")
	if err != nil {
		return "", fmt.Errorf("wait for another build of %s: %w", name, err)
	}
	defer lock.Release()
	if _, err := os.Stat(final); err == nil {
		return final, nil // made while this one waited
	}
	work := final + ".building"
	defer os.RemoveAll(work)
	if err := os.RemoveAll(work); err != nil { // of a build that was killed
		return "", fmt.Errorf("clear the build directory: %w", err)
	}
	source, into := filepath.Join(work, "source"), filepath.Join(work, "made")
	if err := os.CopyFS(source, sources.Files); err != nil {
		return "", fmt.Errorf("unpack the sources of %s: %w", name, err)
	}
	if err := os.Mkdir(into, 0o755); err != nil {
		return "", fmt.Errorf("make a build directory: %w", err)
	}
	if err := make(source, into); err != nil {
		return "", err
	}
	if err := os.Rename(into, final); err != nil {
		return "", fmt.Errorf("keep %s: %w", name, err)
	}
	return final, nil
}

// digest names a build by everything that decides its outcome.
func digest(facts, inputs []string) (string, error) {
	sum := sha256.New()
	for _, fact := range facts {
		fmt.Fprintf(sum, "%q\n", fact)
	}
	for _, input := range inputs {
		err := fs.WalkDir(sources.Files, input, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := sources.Files.ReadFile(path)
			fmt.Fprintf(sum, "%q %d\n%s\n", path, len(content), content)
			return err
		})
		if err != nil {
			return "", fmt.Errorf("read the source %s: %w", input, err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}

// kubernetesVersion returns the version of Kubernetes this module requires.
func kubernetesVersion() (string, error) {
	module, err := sources.Files.ReadFile("go.mod")
	if err != nil {
		return "", fmt.Errorf("read go.mod: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(module))
	for lines.Scan() {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(lines.Text()), "require "))
		if len(fields) >= 2 && fields[0] == "k8s.io/kubernetes" && strings.HasPrefix(fields[1], "v") {
			return fields[1], nil
		}
	}
	return "", errors.New("go.mod does not say which version of k8s.io/kubernetes to build")
}

func toolchain(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	version, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("ask for the version of Go: %w; a cluster's programs are built with Go, install it first", err)
	}
	return strings.TrimSpace(string(version)) + " linux/" + runtime.GOARCH, nil
}

func buildKubernetes(ctx context.Context, report *progress.Reporter, source, into, version string) error {
	report.Step("building Kubernetes %s and etcd; the first build takes about ten minutes of two cores", version)
	binary := filepath.Join(into, "kube")
	variables := "-s -w"
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	for name, value := range map[string]string{"gitVersion": version, "gitMajor": major, "gitMinor": minor} {
		variables += fmt.Sprintf(" -X k8s.io/component-base/version.%s=%s", name, value)
	}
	if err := compile(ctx, report, source, "-ldflags", variables, "-o", binary, "./kube"); err != nil {
		return fmt.Errorf("build Kubernetes: %w", err)
	}
	for _, name := range programNames {
		if err := os.Link(binary, filepath.Join(into, name)); err != nil {
			return fmt.Errorf("name the program %s: %w", name, err)
		}
	}
	report.Step("built Kubernetes")
	return nil
}

func buildPause(ctx context.Context, report *progress.Reporter, source, into string) error {
	binary := filepath.Join(into, "pause")
	if err := compile(ctx, report, source, "-ldflags", "-s -w", "-o", binary, "./pause"); err != nil {
		return fmt.Errorf("build the pause program: %w", err)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("read the pause program: %w", err)
	}
	var archive bytes.Buffer
	err = image.Image{
		Name:       PauseImage,
		Entrypoint: []string{"/pause"},
		Files:      []image.File{{Path: "pause", Content: content}},
	}.Write(&archive)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(into, pauseArchive), archive.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the pause image: %w", err)
	}
	report.Step("built the pause image")
	return nil
}
