package namespace

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A program that is to outlive this process must not be its child: inside the namespaces it
// would be an orphan of a stranger, and the first process there, which waits for all others
// before it ends, would have to wait for that stranger to notice their ends. So a launcher
// inside the namespaces starts the program and goes; what it leaves is the first process's.

const (
	launched      = "launched"
	launchTimeout = 20 * time.Second
	// launcherProgram is the file descriptor by which a launcher is executed: the driver's own
	// program has no path on a node.
	launcherProgram = 3
)

// Launch starts a program inside place, apart from this process, and returns its number. The
// program's output goes to log. Launcher is a command line of this very program that calls
// [LaunchMain] with the program and its arguments.
func (p Place) Launch(launcher, program, environment []string, log *os.File) (pid int, err error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return 0, fmt.Errorf("open the driver's own program: %w", err)
	}
	defer self.Close()
	var hold io.WriteCloser
	var answer *os.File
	command, err := p.Start(func() (*exec.Cmd, error) {
		command := exec.Command(fmt.Sprintf("/proc/self/fd/%d", launcherProgram))
		command.Args = append(append([]string{"cluster"}, launcher...), program...)
		command.ExtraFiles = []*os.File{self}
		command.Env, command.Dir, command.Stderr = environment, "/", log
		command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if hold, err = command.StdinPipe(); err != nil {
			return nil, err
		}
		pipe, err := command.StdoutPipe()
		if err != nil {
			return nil, err
		}
		answer, _ = pipe.(*os.File)
		return command, nil
	})
	if err != nil {
		return 0, err
	}
	defer func() {
		// The launcher goes when its standard input ends.
		err = errors.Join(err, hold.Close(), command.Wait())
	}()
	if err := answer.SetReadDeadline(time.Now().Add(launchTimeout)); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(answer).ReadString('\n')
	if line = strings.TrimSpace(line); line != launched {
		return 0, errors.Join(errors.New(line), err)
	}
	return onlyChild(command.Process.Pid)
}

// LaunchMain is the launcher: it starts the program, says so on out, and waits until in ends.
func LaunchMain(program []string, in io.Reader, out io.Writer) error {
	unix.CloseOnExec(launcherProgram)
	unix.Umask(0o022)
	command := exec.Command(program[0], program[1:]...)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		_, writing := fmt.Fprintln(out, err)
		return errors.Join(err, writing)
	}
	if _, err := fmt.Fprintln(out, launched); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, in)
	return err
}

// onlyChild returns the number, as seen from here, of the only child of a process.
func onlyChild(parent int) (int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		return 0, err
	}
	var children []string
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			return 0, fmt.Errorf("look for the program that was launched: %w", err)
		}
		children = append(children, strings.Fields(string(text))...)
	}
	if len(children) != 1 {
		return 0, fmt.Errorf("look for the program that was launched: %d children", len(children))
	}
	return strconv.Atoi(children[0])
}
