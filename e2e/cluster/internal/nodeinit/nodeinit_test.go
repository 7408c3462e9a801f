package nodeinit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAFirstProcessThatFailedIsQuoted(t *testing.T) {
	err := AwaitReady(strings.NewReader("mount proc on /proc: operation not permitted\n"))
	if err == nil || !strings.Contains(err.Error(), "operation not permitted") {
		t.Errorf("error %v", err)
	}
}

func TestAFirstProcessThatDiedIsNotTakenForReady(t *testing.T) {
	if err := AwaitReady(strings.NewReader("")); err == nil {
		t.Error("no error")
	}
	if err := AwaitReady(strings.NewReader(ready)); err != nil {
		t.Errorf("ready, but %v", err)
	}
}

func TestCopiesKeepSymbolicLinksAndForgiveWhatIsMissing(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(filepath.Join(from, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr/sbin/iptables-nft", filepath.Join(from, "iptables")); err != nil {
		t.Fatal(err)
	}
	if err := copyAny(from, to); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(filepath.Join(to, "iptables")); err != nil || target != "/usr/sbin/iptables-nft" {
		t.Errorf("link to %q, error %v", target, err)
	}
	if err := copyAny(filepath.Join(from, "absent"), to); err != nil {
		t.Error(err)
	}
}
