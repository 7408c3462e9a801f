package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func TestTheVersionComesFromGoMod(t *testing.T) {
	version, err := kubernetesVersion()
	if err != nil || !strings.HasPrefix(version, "v1.") {
		t.Errorf("version %q, error %v", version, err)
	}
}

func TestABuildIsNamedByItsInputs(t *testing.T) {
	first, err := digest([]string{"go1"}, []string{"pause"})
	if err != nil {
		t.Fatal(err)
	}
	again, _ := digest([]string{"go1"}, []string{"pause"})
	otherFact, _ := digest([]string{"go2"}, []string{"pause"})
	otherInput, _ := digest([]string{"go1"}, []string{"kube"})
	if first != again || first == otherFact || first == otherInput {
		t.Errorf("digests %s, %s, %s, %s", first, again, otherFact, otherInput)
	}
}

func TestWhatWasBuiltIsNotBuiltAgain(t *testing.T) {
	cache, builds := t.TempDir(), 0
	for range 2 {
		dir, err := kept(t.Context(), cache, "thing", nil, []string{"pause"}, func(source, into string) error {
			builds++
			if _, err := os.Stat(filepath.Join(source, "pause", "main.go")); err != nil {
				t.Errorf("the sources are not there: %v", err)
			}
			return os.WriteFile(filepath.Join(into, "made"), nil, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "made")); err != nil {
			t.Error(err)
		}
	}
	if builds != 1 {
		t.Errorf("built %d times", builds)
	}
}

func TestAFailedBuildLeavesNothingInTheCache(t *testing.T) {
	cache, broken := t.TempDir(), errors.New("broken")
	_, err := kept(t.Context(), cache, "thing", nil, []string{"pause"}, func(string, string) error { return broken })
	if !errors.Is(err, broken) {
		t.Fatalf("error %v", err)
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) != 0 {
		t.Errorf("left %v, error %v", left, err)
	}
}

func TestComplaintsAreToldFromPackageNames(t *testing.T) {
	var compiled atomic.Int64
	complaints := readOutput(strings.NewReader("internal/abi\nk8s.io/api/core/v1\n# k8s.io/api\nkube/main.go:3:1: syntax error\n"), &compiled)
	if compiled.Load() != 2 || len(complaints) != 2 {
		t.Errorf("%d packages, complaints %q", compiled.Load(), complaints)
	}
}
