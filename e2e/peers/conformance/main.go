// Command conformance runs upstream's own tests of a mesh's control plane against our nsmgr and
// registry. It copies the sdk from the module cache, gives the sandbox of its tests identities of a
// Workload API, and has it start our programs where it would have made its own nsmgr and registry:
//
//	NSM_BIN=… go run ./conformance [-run regexp] [-upstream]
//
// Tests that are listed in left-out.txt, with the reason, are not run. All others have to pass.
// Upstream's clients write to /etc/resolv.conf: for root they do so in a mount namespace of their own.
package main

import (
	"bytes"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// The module whose tests are run, and the package they are in.
	module = "github.com/networkservicemesh/sdk"
	suite  = "pkg/networkservice/chains/nsmgr"
	// Longest time that all tests together may take.
	limit = "10m"
	// What upstream's clients write to.
	resolvConf = "/etc/resolv.conf"
)

// packages are those that files are added to, by the folders in testdata.
var packages = map[string]string{
	"sandbox": "pkg/tools/sandbox",
	"nsmgr":   suite,
	"memory":  "pkg/registry/chains/memory",
}

//go:embed left-out.txt
var leftOut string

// change replaces a text of the copied module that is there this many times.
type change struct {
	file  string
	times int
	from  string
	to    string
}

var identities = []change{
	{"pkg/tools/sandbox/dial_options.go", 1, "insecure.NewCredentials()", "clientCredentials()"},
	{"pkg/tools/sandbox/dial_options.go", 1, "\t\"google.golang.org/grpc/credentials/insecure\"\n", ""},
	{"pkg/tools/sandbox/grpc_utils.go", 1, "insecure.NewCredentials()", "serverCredentials()"},
	{"pkg/tools/sandbox/grpc_utils.go", 1, "\t\"google.golang.org/grpc/credentials/insecure\"\n", ""},
	{
		"pkg/tools/sandbox/utils.go",
		1,
		"func GenerateTestToken(_ credentials.AuthInfo) (string, time.Time, error) {\n",
		"func GenerateTestToken(peer credentials.AuthInfo) (string, time.Time, error) {\n" +
			"\tif peer != nil {\n\t\treturn tokens(time.Hour)(peer)\n\t}\n",
	},
	{
		"pkg/tools/sandbox/utils.go",
		1,
		"\treturn func(_ credentials.AuthInfo) (string, time.Time, error) {\n",
		"\treturn func(peer credentials.AuthInfo) (string, time.Time, error) {\n" +
			"\t\tif peer != nil {\n\t\t\treturn tokens(duration)(peer)\n\t\t}\n",
	},
}

// In the tests themselves: servers and clients that the sandbox did not make.
var plaintext = []change{
	{suite + "/single_test.go", 1, "grpc.NewServer()", "grpc.NewServer(sandbox.Mutual())"},
	{suite + "/suite_test.go", 2, "grpc.NewServer()", "grpc.NewServer(sandbox.Mutual())"},
	{suite + "/heal_test.go", 1, insecureDial, secureDial},
	// Where nothing can be is no address for an endpoint.
	{suite + "/single_test.go", 1, "\"nseURL\"", "\"tcp://127.0.0.1:1\""},
	// A server that stops closes its listeners first and its connections somewhat later: an answer that comes in
	// between is passed on, and the call that has to fail does not.
	{suite + "/single_test.go", 1, forwarderDies, "time.Sleep(100 * time.Millisecond)\n\t\t\t\t\t" + forwarderDies},
	// It would name a namespace whose file cannot come along over TCP, which is refused.
	{suite + "/suite_test.go", 1, "kernel.NewClient(),", "sandbox.WithoutFile(kernel.NewClient()),"},
	{suite + "/suite_test.go", 1, insecureDial, secureDial},
}

const (
	insecureDial = "WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials()))"
	secureDial   = "WithDialOptions(append(sandbox.DialOptions(), sandbox.Instead(grpc.WithTransportCredentials(insecure.NewCredentials())))...)"

	forwarderDies = "// wait until the forwarder dies\n"
)

// Our programs instead of upstream's chains, listening where those would have been served.
var programs = []change{
	{suite + "/server.go", 1, "func NewServer(", "func newServer("},
	{"pkg/registry/chains/memory/server.go", 1, "func NewServer(", "func newServer("},
	{
		"pkg/tools/sandbox/builder.go",
		1,
		"b.supplyRegistry(\n\t\t\tctx,",
		"b.supplyRegistry(\n\t\t\tlisteningOn(ctx, entry.URL),",
	},
	{
		"pkg/tools/sandbox/builder.go",
		1,
		"serve(ctx, b.t, entry.URL, entry.Register)\n\n\t\tlog.FromContext(ctx).Infof(\"%s: registry serve",
		"serveOthers(ctx, b.t, entry.URL, entry.Registry)\n\n\t\tlog.FromContext(ctx).Infof(\"%s: registry serve",
	},
	{
		"pkg/tools/sandbox/node.go",
		1,
		"supplyNSMgr(ctx, generatorFunc,",
		"supplyNSMgr(listeningOn(ctx, entry.URL), generatorFunc,",
	},
	{
		"pkg/tools/sandbox/node.go",
		1,
		"serve(ctx, n.t, entry.URL, entry.Register)",
		"serveOthers(ctx, n.t, entry.URL, entry.Nsmgr)",
	},
}

// copyModule makes a writable copy of what the module cache has.
func copyModule(to string) error {
	found, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return fmt.Errorf("where is %s: %w", module, err)
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.CopyFS(to, os.DirFS(strings.TrimSpace(string(found)))); err != nil {
		return err
	}
	return filepath.WalkDir(to, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return os.Chmod(path, 0o644)
	})
}

func (c change) apply(root string) error {
	path := filepath.Join(root, c.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if count := bytes.Count(text, []byte(c.from)); count != c.times {
		return fmt.Errorf("%s has %d times %q, not %d", c.file, count, c.from, c.times)
	}
	return os.WriteFile(path, bytes.ReplaceAll(text, []byte(c.from), []byte(c.to)), 0o644)
}

// prepare makes the module that is tested.
func prepare(root string, upstream bool) error {
	if err := copyModule(root); err != nil {
		return err
	}
	changes, added := append(identities, plaintext...), []string{"always"}
	if !upstream {
		changes, added = append(changes, programs...), append(added, "programs")
	}
	for _, from := range added {
		for name, folder := range packages {
			from := os.DirFS(filepath.Join("conformance/testdata", from, name))
			if err := os.CopyFS(filepath.Join(root, folder), from); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	for _, change := range changes {
		if err := change.apply(root); err != nil {
			return err
		}
	}
	return nil
}

// skipped is a pattern for the tests that are left out, each of which must be there.
func skipped(root string) (string, error) {
	var tests []byte
	files, err := filepath.Glob(filepath.Join(root, suite, "*_test.go"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		tests = append(tests, text...)
	}
	var patterns []string
	for line := range strings.Lines(leftOut) {
		name, reason, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "" || name == "#" {
			continue
		}
		if reason == "" {
			return "", fmt.Errorf("%s is left out without a reason", name)
		}
		function, _, _ := strings.Cut(name, "/")
		if !bytes.Contains(tests, []byte("\nfunc "+function+"(")) {
			return "", fmt.Errorf("%s is left out, but there is no such test", name)
		}
		patterns = append(patterns, "^"+strings.ReplaceAll(name, "/", "$/^")+"$")
	}
	return strings.Join(patterns, "|"), nil
}

// apart has a command see a copy of /etc/resolv.conf in the place of the machine's. Who may not write
// to the machine's needs none.
func apart(copied string, command ...string) ([]string, error) {
	text, err := os.ReadFile(resolvConf)
	if os.Getuid() != 0 || errors.Is(err, os.ErrNotExist) {
		return command, nil
	}
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(copied, text, 0o644); err != nil {
		return nil, err
	}
	bind := `mount --bind "$0" ` + resolvConf + ` && exec "$@"`
	return append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c", bind, copied}, command...), nil
}

// unchanged tells whether the machine's /etc/resolv.conf is as it was.
func unchanged(before []byte) error {
	if after, _ := os.ReadFile(resolvConf); !bytes.Equal(before, after) {
		return fmt.Errorf("the tests changed %s from %q to %q", resolvConf, before, after)
	}
	return nil
}

func run() error {
	only := flag.String("run", "", "the tests to run")
	upstream := flag.Bool("upstream", false, "with upstream's nsmgr and registry, to compare")
	flag.Parse()
	if os.Getenv("NSM_BIN") == "" {
		return errors.New("NSM_BIN is to name our program")
	}
	work, err := filepath.Abs("../../target/conformance")
	if err != nil {
		return err
	}
	root, logs, socket := filepath.Join(work, "sdk"), filepath.Join(work, "logs"), filepath.Join(work, "identity.sock")
	if err := errors.Join(os.RemoveAll(logs), os.MkdirAll(logs, 0o755)); err != nil {
		return err
	}
	if err := prepare(root, *upstream); err != nil {
		return err
	}
	// The sandbox knows one identity, which all its processes have. Identities come from the names of
	// programs.
	program := filepath.Join(work, filepath.Base(suite)+".test")
	_ = os.Remove(program)
	if err := os.Link(os.Getenv("NSM_BIN"), program); err != nil {
		return fmt.Errorf("NSM_BIN: %w", err)
	}
	environment := append(os.Environ(),
		"NSM_BIN="+program, "SPIFFE_ENDPOINT_SOCKET=unix://"+socket, "NSM_CONFORMANCE_LOGS="+logs)

	identity := exec.Command(program, "identity", "standalone")
	identity.Env = append(slices.Clone(environment), "NSM_LISTEN_ON=unix://"+socket, "NSM_BASE_DIR="+filepath.Join(work, "identity"))
	identity.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := identity.Start(); err != nil {
		return fmt.Errorf("NSM_BIN: %w", err)
	}
	defer func() {
		_ = identity.Process.Kill()
		_ = identity.Wait()
	}()

	arguments := []string{"test", "-count=1", "-v", "-timeout", limit, "-run", *only}
	skip, err := skipped(root)
	if err != nil {
		return err
	}
	if *only == "" {
		arguments = append(arguments, "-skip", skip)
	}
	command, err := apart(filepath.Join(work, "resolv.conf"), append(append([]string{"go"}, arguments...), "./"+suite)...)
	if err != nil {
		return err
	}
	resolvers, _ := os.ReadFile(resolvConf)
	tests := exec.Command(command[0], command[1:]...)
	tests.Dir, tests.Env = root, environment
	// What the tests started ends with them.
	tests.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := os.Create(filepath.Join(work, "output"))
	if err != nil {
		return err
	}
	tests.Stdout, tests.Stderr = output, output
	started := time.Now()
	if err := tests.Start(); err != nil {
		return err
	}
	failed := tests.Wait()
	_ = syscall.Kill(-tests.Process.Pid, syscall.SIGKILL)
	return errors.Join(report(output.Name(), time.Since(started)), failed, unchanged(resolvers))
}

// report prints the verdicts of the tests, and a last line as that of cargo's runs.
func report(path string, took time.Duration) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	counts := map[string]int{}
	for line := range strings.Lines(string(text)) {
		verdict, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "--- "), ": ")
		if !slices.Contains([]string{"PASS", "FAIL", "SKIP"}, verdict) || rest == "" {
			continue
		}
		counts[verdict]++
		fmt.Printf("%s %s", verdict, rest+"\n")
	}
	fmt.Printf("all that was said: %s\n", path)
	fmt.Printf("test result: done. %d passed; %d failed; %d ignored; in %s\n",
		counts["PASS"], counts["FAIL"], counts["SKIP"], took.Round(time.Second))
	return nil
}

func main() {
	// The death of this thread is that of the process.
	runtime.LockOSThread()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}
