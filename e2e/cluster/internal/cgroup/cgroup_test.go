package cgroup

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestVersionOneHierarchiesAreFoundWithTheirControllers(t *testing.T) {
	hierarchies, err := parse(strings.NewReader(`
30 23 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Hierarchy{
		{Mount: "/sys/fs/cgroup/cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}},
		{Mount: "/sys/fs/cgroup/cpuset", Controllers: []string{"cpuset"}},
		{Mount: "/sys/fs/cgroup/systemd", Controllers: []string{"xattr", "name=systemd"}},
		{Mount: "/sys/fs/cgroup/unified", Unified: true},
	}
	if !reflect.DeepEqual(hierarchies, want) {
		t.Errorf("got  %+v\nwant %+v", hierarchies, want)
	}
}

func TestTheUnifiedHierarchyIsTakenOnceAndOnlyFromItsUsualPlace(t *testing.T) {
	hierarchies, err := parse(strings.NewReader(`30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
90 80 0:26 / /sys/fs/cgroup/again rw - cgroup2 cgroup2 rw
91 80 0:31 / /var/lib/other/cgroup rw - cgroup cgroup rw,memory
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Hierarchy{{Mount: "/sys/fs/cgroup", Unified: true}}
	if !reflect.DeepEqual(hierarchies, want) {
		t.Errorf("got  %+v\nwant %+v", hierarchies, want)
	}
}

func TestAControllerlessUnifiedHierarchyIsCreatedAndRemoved(t *testing.T) {
	mount := t.TempDir()
	if err := os.MkdirAll(filepath.Join(mount, "nsm-e2e", "node1"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, level := range []string{"", "nsm-e2e", "nsm-e2e/node1"} {
		if err := os.WriteFile(filepath.Join(mount, level, "cgroup.controllers"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree := &Tree{hierarchies: []Hierarchy{{Mount: mount, Unified: true}}, name: "nsm-e2e"}
	if err := tree.Create("node1/system"); err != nil {
		t.Fatal(err)
	}
	if left := tree.Left(); len(left) != 1 {
		t.Fatalf("left %v", left)
	}
	if err := tree.Remove(t.Context(), "node1/system"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(mount, "nsm-e2e/node1/system")); !os.IsNotExist(err) {
		t.Errorf("the group is still there: %v", err)
	}
}

func TestRemovingATreeThatIsNotThereIsNoError(t *testing.T) {
	tree := &Tree{hierarchies: []Hierarchy{{Mount: t.TempDir()}}, name: "absent"}
	if err := tree.Remove(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
}
