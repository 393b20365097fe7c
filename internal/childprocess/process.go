// Package childprocess runs programs for tests as children that never outlive the
// test: they can be killed, stopped for a while and continued, and they die with
// this process, however it dies.
package childprocess

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// Process is a child that was started. Its methods may be called concurrently.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the child has ended and err is set
	err  error
}

// Start starts cmd. The kernel ties the child's life to the thread that started
// it, not to the process, so one goroutine starts it, waits for it and never
// leaves its thread.
func Start(cmd *exec.Cmd) (*Process, error) {
	dieWithParent(cmd)
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Pid is the child's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// State is how the child ended, and the error of waiting for it. It may be called
// once Done is closed.
func (p *Process) State() (*os.ProcessState, error) { return p.cmd.ProcessState, p.err }

// Signal sends a signal; a child that has ended is no error.
func (p *Process) Signal(s os.Signal) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(s); err != nil && err != os.ErrProcessDone {
		return err
	}
	return nil
}

// Kill ends the child the hard way, also a stopped one, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// Pause stops the child where it stands: its connections stay open and silent.
func (p *Process) Pause() error { return p.Signal(syscall.SIGSTOP) }

// Continue lets a paused child go on.
func (p *Process) Continue() error { return p.Signal(syscall.SIGCONT) }
