package state

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"nsm-e2e-cluster/internal/process"
)

func TestARecordIsReadBackAsItWasWritten(t *testing.T) {
	dir := Dir(filepath.Join(t.TempDir(), "nsm"))
	cluster, err := New(dir, Spec{Nodes: 2, Programs: "/cache/programs"}, Ports{API: 16443})
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Record("etcd", process.Identity{PID: 7, Start: 99}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.SetPhase(Up); err != nil {
		t.Fatal(err)
	}
	again, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.Phase != Up || again.Spec != cluster.Spec || again.Ports != cluster.Ports {
		t.Errorf("read back %+v", again)
	}
	if etcd, ok := again.Process("etcd"); !ok || etcd.Start != 99 {
		t.Errorf("etcd is %+v, known: %v", etcd, ok)
	}
}

func TestNoRecordIsNoClusterAndNoError(t *testing.T) {
	cluster, err := Load(Dir(t.TempDir()))
	if cluster != nil || err != nil {
		t.Errorf("cluster %v, error %v", cluster, err)
	}
}

func TestABrokenRecordSaysHowToGetRidOfIt(t *testing.T) {
	dir := Dir(t.TempDir())
	if err := os.WriteFile(dir.record(), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("no error")
	}
}

func TestProcessesCanBeRecordedAtTheSameTime(t *testing.T) {
	dir := Dir(t.TempDir())
	cluster, err := New(dir, Spec{}, Ports{})
	if err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for i := range 20 {
		writers.Go(func() {
			if err := cluster.Record(fmt.Sprint(i), process.Identity{PID: i}); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	again, err := Load(dir)
	if err != nil || len(again.All()) != 20 {
		t.Errorf("%d processes, error %v; want 20", len(again.All()), err)
	}
}

func TestANameThatCouldLeaveItsDirectoryIsRefused(t *testing.T) {
	for _, name := range []string{"", "..", "a/b", "Nsm", "-a", "a-", "a b"} {
		if dir, err := DirOf(name); err == nil {
			t.Errorf("%q was accepted as %s", name, dir)
		}
	}
}

func TestTheStateRootCanBeMoved(t *testing.T) {
	t.Setenv(RootVariable, "/elsewhere")
	if dir, err := DirOf("nsm"); err != nil || dir != "/elsewhere/nsm" {
		t.Errorf("directory %s, error %v", dir, err)
	}
}
