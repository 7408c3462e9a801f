package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"nsm-e2e-cluster/internal/cluster"
	"nsm-e2e-cluster/internal/process"
	"nsm-e2e-cluster/internal/state"
)

// These tests start real clusters, under names of their own, so they take root and a minute.
// They run with CLUSTER_E2E=1.
const testVariable = "CLUSTER_E2E"

// driver is the program under test, pointed at one cluster.
type driver struct {
	t      *testing.T
	binary string
	name   string
}

func newDriver(t *testing.T, name string) *driver {
	t.Helper()
	if os.Getenv(testVariable) == "" {
		t.Skipf("starts a real cluster: set %s=1", testVariable)
	}
	d := &driver{t: t, binary: filepath.Join(t.TempDir(), "cluster"), name: name}
	if output, err := exec.Command("go", "build", "-o", d.binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the driver: %v\n%s", err, output)
	}
	t.Cleanup(func() { d.run("down") })
	d.run("down")
	return d
}

// try runs a command and returns its standard output and exit code.
func (d *driver) try(stdin string, args ...string) (string, int) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, d.binary, append([]string{"--name", d.name}, args...)...)
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &stdout, &stderr
	started := time.Now()
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	d.t.Logf("cluster %s: %s in %.2fs\n%s", strings.Join(args, " "), command.ProcessState, time.Since(started).Seconds(), stderr.String())
	return strings.TrimSpace(stdout.String()), command.ProcessState.ExitCode()
}

// run runs a command that has to succeed.
func (d *driver) run(args ...string) string {
	d.t.Helper()
	return d.feed("", args...)
}

func (d *driver) feed(stdin string, args ...string) string {
	d.t.Helper()
	output, code := d.try(stdin, args...)
	if code != 0 {
		d.t.Fatalf("cluster %s: exit code %d\n%s", strings.Join(args, " "), code, output)
	}
	return output
}

// traces is what a cluster could leave on the machine.
type traces struct {
	Mounts, Links, NamedNetns, Groups, Processes []string
}

func (d *driver) traces() traces {
	d.t.Helper()
	var found traces
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		d.t.Fatal(err)
	}
	found.Mounts = strings.Split(string(mounts), "\n")
	links, err := netlink.LinkList()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, link := range links {
		found.Links = append(found.Links, link.Attrs().Name)
	}
	named, err := filepath.Glob("/run/netns/*")
	if err != nil {
		d.t.Fatal(err)
	}
	found.NamedNetns = named
	for _, depth := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		groups, err := filepath.Glob(depth + "*nsm-e2e-" + d.name + "*")
		if err != nil {
			d.t.Fatal(err)
		}
		found.Groups = append(found.Groups, groups...)
	}
	owned, err := process.Owned(string(d.dir()))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, identity := range owned {
		found.Processes = append(found.Processes, identity.Describe())
	}
	return found
}

func (d *driver) dir() state.Dir {
	d.t.Helper()
	dir, err := state.DirOf(d.name)
	if err != nil {
		d.t.Fatal(err)
	}
	return dir
}

// namespaces returns those that the cluster's first processes hold open.
func (d *driver) namespaces() []string {
	d.t.Helper()
	record, err := state.Load(d.dir())
	if err != nil || record == nil {
		d.t.Fatalf("record %v, error %v", record, err)
	}
	var namespaces []string
	for name, identity := range record.All() {
		if !strings.HasSuffix(name, "init") {
			continue
		}
		for _, kind := range []string{"net", "pid", "mnt"} {
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", identity.PID, kind))
			if err != nil {
				d.t.Fatal(err)
			}
			namespaces = append(namespaces, link)
		}
	}
	return namespaces
}

// residents returns the processes that live in any of the namespaces. One that has ended and that
// its parent, a stranger, has not yet noticed does not live.
func residents(namespaces []string) []string {
	links, _ := filepath.Glob("/proc/[0-9]*/ns/*")
	var found []string
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !slices.Contains(namespaces, target) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil {
			continue
		}
		if _, err := process.Identify(pid); err == nil {
			found = append(found, link)
		}
	}
	return found
}

func (d *driver) status() (status cluster.Status) {
	d.t.Helper()
	output, _ := d.try("", "status", "-o", "json")
	if err := json.Unmarshal([]byte(output), &status); err != nil {
		d.t.Fatal(err)
	}
	return status
}

const podOnEachNode = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: probe}
spec:
  selector: {matchLabels: {app: probe}}
  template:
    metadata: {labels: {app: probe}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: pause
        image: e2e.test/pause:1
        imagePullPolicy: Never
`

func TestAClusterRunsPodsOnEveryNodeAndLeavesNothingBehind(t *testing.T) {
	d := newDriver(t, "e2e-test")
	before := d.traces()
	auditLog := filepath.Join(t.TempDir(), "audit.log")

	kubeconfig := d.run("up", "--audit-log", auditLog)
	if _, err := os.Stat(kubeconfig); err != nil {
		t.Errorf("the kubeconfig is not where `up` said: %v", err)
	}
	status := d.status()
	if status.State != cluster.StateUp || len(status.Nodes) != 2 || status.Version != status.Nodes[0].Version {
		t.Errorf("status %+v", status)
	}

	record, err := os.ReadFile(filepath.Join(string(d.dir()), "cluster.json"))
	if err != nil {
		t.Fatal(err)
	}
	d.run("up", "--audit-log", auditLog)
	if again, err := os.ReadFile(filepath.Join(string(d.dir()), "cluster.json")); err != nil || !bytes.Equal(record, again) {
		t.Errorf("the second `up` changed the cluster (error %v)", err)
	}
	if _, code := d.try("", "up", "--nodes", "3"); code != 1 {
		t.Errorf("`up` with another number of nodes: exit code %d", code)
	}

	d.feed(podOnEachNode, "kubectl", "apply", "-f", "-")
	d.run("kubectl", "rollout", "status", "daemonset/probe", "--timeout=60s")
	nodes := strings.Fields(d.run("kubectl", "get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"))
	slices.Sort(nodes)
	if !slices.Equal(nodes, []string{"node1", "node2"}) {
		t.Errorf("pods run on %v", nodes)
	}

	if host := d.run("exec", "2", "--", "hostname"); host != "node2" {
		t.Errorf("the host name on node 2 is %s", host)
	}
	if _, code := d.try("", "exec", "0", "--", "sh", "-c", "exit 7"); code != 7 {
		t.Errorf("exit code %d of a command that exits with 7", code)
	}
	throughService := d.run("exec", "1", "--", "kubectl", "--kubeconfig", "/etc/kubernetes/kubelet.kubeconfig",
		"--server", "https://10.202.0.1", "get", "--raw", "/readyz")
	if throughService != "ok" {
		t.Errorf("the API server by its service address says %q", throughService)
	}
	if routes := d.run("exec", "1", "--", "ip", "route", "show", "default"); routes != "" {
		t.Errorf("a node has a default route: %s", routes)
	}
	if info, err := os.Stat(auditLog); err != nil || info.Size() == 0 {
		t.Errorf("the audit log is empty (error %v)", err)
	}

	inside := d.namespaces()
	d.run("down")
	after := d.traces()
	if left := residents(inside); len(left) > 0 {
		t.Errorf("processes still live in the cluster's namespaces: %v", left)
	}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("traces left:\nbefore %+v\nafter  %+v", before, after)
	}
	if _, err := os.Stat(string(d.dir())); !os.IsNotExist(err) {
		t.Errorf("the state directory is still there: %v", err)
	}
	d.run("down")
	if _, code := d.try("", "status"); code != 3 {
		t.Errorf("status exits with %d", code)
	}
}

func TestAClusterWhoseStartWasKilledIsClearedAndStartedAfresh(t *testing.T) {
	d := newDriver(t, "e2e-killed")
	before := d.traces()
	for _, after := range []time.Duration{50 * time.Millisecond, 400 * time.Millisecond, 1500 * time.Millisecond} {
		start := exec.Command(d.binary, "--name", d.name, "up", "--nodes", "1")
		if err := start.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(after, func() { _ = start.Process.Kill() })
		_ = start.Wait()
		timer.Stop()
		if state := d.status().State; state == cluster.StateUp {
			t.Fatalf("killed after %s, the cluster counts as up", after)
		}
	}
	d.run("up", "--nodes", "1")
	d.run("down")
	if after := d.traces(); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("traces left:\nbefore %+v\nafter  %+v", before, after)
	}
}

func TestANodeComesBackAfterItsProgramsWereStoppedAndItsPowerWasCut(t *testing.T) {
	d := newDriver(t, "e2e-trouble")
	d.run("up", "--nodes", "1")
	d.feed(podOnEachNode, "kubectl", "apply", "-f", "-")
	d.run("kubectl", "rollout", "status", "daemonset/probe", "--timeout=60s")

	d.run("node", "stop", "1", "kubelet")
	if status := d.status(); status.State != cluster.StateDegraded || !slices.Contains(status.Problems, "node1/kubelet is not running") {
		t.Errorf("without kubelet: %+v", status)
	}
	d.run("node", "start", "1", "kubelet")
	d.run("node", "stop", "1", "containerd", "--kill")
	d.run("node", "start", "1", "containerd")
	d.run("api", "restart")
	d.run("kubectl", "rollout", "status", "daemonset/probe", "--timeout=60s")

	d.run("node", "kill", "1")
	if _, code := d.try("", "exec", "1", "--", "true"); code != 1 {
		t.Errorf("a command on a node without power: exit code %d", code)
	}
	d.run("node", "boot", "1")
	d.run("kubectl", "wait", "node/node1", "--for=condition=Ready", "--timeout=60s")
	// Its disk survived, so it knows its pod; its processes did not, so the pod starts once more.
	d.run("kubectl", "wait", "pod", "-l", "app=probe", "--timeout=90s",
		"--for=jsonpath={.status.containerStatuses[0].restartCount}=1")
	d.run("kubectl", "wait", "pod", "-l", "app=probe", "--for=condition=Ready", "--timeout=90s")
	if status := d.status(); status.State != cluster.StateUp {
		t.Errorf("status %+v", status)
	}
}

func TestControlPlanesAloneRunSideBySide(t *testing.T) {
	first, second := newDriver(t, "e2e-alone-1"), newDriver(t, "e2e-alone-2")
	first.run("up", "--control-plane-only", "--with-controller-manager")
	second.run("up", "--control-plane-only")
	if first.status().Server == second.status().Server {
		t.Error("both answer at the same address")
	}
	first.run("kubectl", "create", "namespace", "only-here")
	if _, code := second.try("", "kubectl", "get", "namespace", "only-here"); code == 0 {
		t.Error("the second control plane shows the first one's namespace")
	}
	first.run("down")
	if state := second.status().State; state != cluster.StateUp {
		t.Errorf("with the first down, the second is %s", state)
	}
	second.run("api", "restart")
	second.run("down")
}
