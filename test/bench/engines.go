package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// archive writes the image as a docker archive, which every engine can load.
func (b *bench) archive() (string, error) {
	path := filepath.Join(b.work, "image.tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, command("skopeo", "copy", "-q", "oci:"+b.layout+":busybox", "docker-archive:"+path+":docker.io/bench/busybox:latest")()
}

// registry serves the image, for the engine that only pulls.
func (b *bench) registry() (string, error) {
	const address = "127.0.0.1:5055" // the network namespace is our own
	config := filepath.Join(b.work, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", filepath.Join(b.work, "registry"), address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", err
	}
	check := command("curl", "-fs", "http://"+address+"/v2/")
	if _, err := b.background(check, "docker-registry", "serve", config); err != nil {
		return "", err
	}
	image := address + "/bench/busybox:latest"
	return image, command("skopeo", "copy", "-q", "--dest-tls-verify=false", "oci:"+b.layout+":busybox", "docker://"+image)()
}

func (b *bench) startBerth() engine {
	e := engine{name: "berth", client: b.berth("berth"), flags: []string{"--host", "unix://" + b.work + "/berth.sock"}}
	image, err := b.registry()
	if err != nil {
		e.skip = err.Error()
		return e
	}
	e.image = image
	pid, err := b.background(e.do("version"), b.berth("berthd"), "--root", b.work+"/berth-root", "--state", b.work+"/berth-state",
		"--address", "unix://"+b.work+"/berth.sock", "--bridge-name", "berthbench0", "--bridge-subnet", "10.231.0.0/24", "--nft-table", "berth-bench")
	if err == nil {
		err = e.do("pull", "-q", image)()
	}
	if err != nil {
		e.skip = err.Error()
	}
	e.pids = []int{pid}
	return e
}

// startContainerd starts Debian's containerd privately and loads the image, for ctr.
func (b *bench) startContainerd() engine {
	e := engine{name: "ctr", client: "ctr", flags: []string{"--address", b.work + "/containerd.sock", "--namespace", "bench"}, image: "docker.io/bench/busybox:latest"}
	pid, err := b.containerd("containerd", b.work+"/containerd.sock")
	if err == nil {
		var archive string
		if archive, err = b.archive(); err == nil {
			err = e.do("image", "import", archive)()
		}
	}
	if err != nil {
		e.skip = err.Error()
	}
	e.pids = []int{pid}
	return e
}

func (b *bench) containerd(name, socket string) (int, error) {
	if _, err := exec.LookPath("containerd"); err != nil {
		return 0, errors.New("containerd is not installed")
	}
	config := filepath.Join(b.work, name+".toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		b.work+"/"+name+"-root", b.work+"/"+name+"-state", socket, socket+".ttrpc")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return 0, err
	}
	return b.background(command("ctr", "--address", socket, "version"), "containerd", "--config", config, "--log-level", "error")
}

func (b *bench) startDocker() engine {
	socket := "unix://" + b.work + "/docker.sock"
	e := engine{name: "docker", client: "docker", flags: []string{"--host", socket}, image: "docker.io/bench/busybox:latest"}
	for _, program := range []string{"dockerd", "docker"} {
		if _, err := exec.LookPath(program); err != nil {
			e.skip = program + " is not installed"
			return e
		}
	}
	containerdPid, err := b.containerd("docker-containerd", b.work+"/docker-containerd.sock")
	if err != nil {
		e.skip = err.Error()
		return e
	}
	pid, err := b.background(e.do("version"), "dockerd", "--host", socket, "--data-root", b.work+"/docker-root", "--exec-root", b.work+"/docker-exec",
		"--pidfile", b.work+"/docker.pid", "--containerd", b.work+"/docker-containerd.sock", "--bip", "10.232.0.1/24", "--cgroup-parent", cgroupParent, "--log-level", "error")
	if err == nil {
		var archive string
		if archive, err = b.archive(); err == nil {
			err = e.do("load", "-q", "-i", archive)()
		}
	}
	if err != nil {
		e.skip = firstLine(err)
	}
	e.pids = []int{pid, containerdPid}
	return e
}

func (b *bench) setUpPodman() engine {
	e := engine{name: "podman", client: "podman", image: "docker.io/bench/busybox:latest", flags: []string{
		"--root", b.work + "/podman-root", "--runroot", b.work + "/podman-run", "--tmpdir", b.work + "/podman-tmp",
		"--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "runc", "--network-config-dir", b.work + "/podman-net",
	}}
	if _, err := exec.LookPath("podman"); err != nil {
		e.skip = "not installed"
		return e
	}
	archive, err := b.archive()
	if err == nil {
		err = e.do("load", "-q", "-i", archive)()
	}
	e.runArgs = []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--cgroup-parent", cgroupParent} // its default raises limits, which needs CAP_SYS_RESOURCE
	if err == nil {
		err = e.do(append(append([]string{"run", "--rm"}, e.runArgs...), e.image, "true")...)()
	}
	if err != nil {
		e.skip = firstLine(err)
	}
	return e
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
