package process

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func startSleeper(t *testing.T, owner string) (Identity, *exec.Cmd) {
	t.Helper()
	command := exec.Command("sleep", "60")
	command.Env = append(os.Environ(), Mark(owner))
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	identity, err := Identify(command.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return identity, command
}

func TestANameWithSpacesAndParenthesesDoesNotShiftTheFields(t *testing.T) {
	stat := "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 0 0"
	state, start, err := parseStat(stat)
	if err != nil || state != "S" || start != 987654 {
		t.Errorf("state %q, start %d, error %v", state, start, err)
	}
}

func TestATruncatedStatIsAnError(t *testing.T) {
	if _, _, err := parseStat("42 (a) S 1"); err == nil {
		t.Error("no error")
	}
}

func TestAProcessWithAReusedNumberIsNotTouched(t *testing.T) {
	identity, _ := startSleeper(t, t.Name())
	predecessor := Identity{PID: identity.PID, Start: identity.Start - 1}
	if predecessor.Alive() {
		t.Error("the predecessor counts as alive")
	}
	if err := predecessor.End(t.Context(), unix.SIGKILL); err != nil {
		t.Errorf("ending what has ended: %v", err)
	}
	if !identity.Alive() {
		t.Error("the successor was killed in its predecessor's place")
	}
}

func TestEndWaitsUntilTheProcessIsGone(t *testing.T) {
	identity, _ := startSleeper(t, t.Name())
	if err := identity.End(t.Context(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if identity.Alive() {
		t.Error("still alive")
	}
}

func TestMarkedProcessesAreFoundAndEndedByTheirOwner(t *testing.T) {
	mine, _ := startSleeper(t, t.Name())
	other, _ := startSleeper(t, t.Name()+"-other")
	owned, err := Owned(t.Name())
	if err != nil || len(owned) != 1 || owned[0] != mine {
		t.Fatalf("owned %v, error %v; want only %v", owned, err, mine)
	}
	if !strings.Contains(mine.Describe(), "sleep 60") {
		t.Errorf("described as %s", mine.Describe())
	}
	if err := EndAll(t.Context(), owned); err != nil {
		t.Fatal(err)
	}
	if mine.Alive() || !other.Alive() {
		t.Errorf("mine alive: %v, the other's alive: %v", mine.Alive(), other.Alive())
	}
}
