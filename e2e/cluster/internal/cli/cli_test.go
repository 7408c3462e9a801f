package cli

import (
	"bytes"
	"strings"
	"testing"

	"nsm-e2e-cluster/internal/state"
)

func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	t.Setenv(state.RootVariable, t.TempDir())
	var out, errors bytes.Buffer
	code = Main(args, &out, &errors)
	return out.String(), errors.String(), code
}

func TestStatusOfAClusterThatIsDownExitsWithThree(t *testing.T) {
	out, _, code := run(t, "status", "--name", "absent", "-o", "json")
	if code != exitDown || !strings.Contains(out, `"state": "down"`) {
		t.Errorf("exit code %d, output %s", code, out)
	}
}

func TestErrorsSayWhichClusterIsMeantAndWhatToDo(t *testing.T) {
	out, complaint, code := run(t, "--name", "absent", "kubeconfig")
	if code != exitError || out != "" || !strings.Contains(complaint, "cluster up --name absent") {
		t.Errorf("exit code %d, output %q, complaint %q", code, out, complaint)
	}
}

func TestTheClusterCanBeNamedByTheEnvironment(t *testing.T) {
	t.Setenv(NameVariable, "elsewhere")
	if _, complaint, _ := run(t, "kubeconfig"); !strings.Contains(complaint, "elsewhere") {
		t.Error(complaint)
	}
}

func TestKubectlsFlagsAreNotTheDrivers(t *testing.T) {
	_, complaint, code := run(t, "--name", "absent", "kubectl", "get", "pods", "-A", "--name", "x")
	if code != exitError || !strings.Contains(complaint, "cluster absent") {
		t.Errorf("exit code %d, complaint %q", code, complaint)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	for _, command := range newRoot(&app{}).Commands() {
		if !command.Hidden && command.Short == "" {
			t.Errorf("%s has no description", command.Name())
		}
	}
}

func TestAnUnknownOutputFormatIsRefused(t *testing.T) {
	if _, complaint, code := run(t, "status", "-o", "xml"); code != exitError || !strings.Contains(complaint, "text or json") {
		t.Errorf("exit code %d, complaint %q", code, complaint)
	}
}
