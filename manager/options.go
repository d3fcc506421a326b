package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/grpcserve"
	"github.com/berthd/berth/internal/unixsocket"
	"github.com/berthd/berth/internal/version"
)

// options are berthd's flags.
type options struct {
	root, state        string
	addresses          list
	group              string
	level              slog.Level
	bridgeName         string
	bridgeSubnet       netip.Prefix
	nftTable           string
	contentAddress     string
	snapshotterAddress string
	snapshotter        string
	programs
	pluginDirs   list
	cgroupParent string
	imageOptions
}

// programs are those that berthd starts.
type programs struct {
	runtime, shim, init string
}

// list is a flag that can be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

// Set implements flag.Value.
func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// parseFlags reads the command line. It returns flag.ErrHelp if it has printed what was asked for.
func parseFlags(args []string, stdout io.Writer) (options, error) {
	var o options
	var showVersion bool
	set := flag.NewFlagSet("berthd", flag.ContinueOnError)
	set.StringVar(&o.root, "root", "/var/lib/berth", "`directory` for what outlives a reboot")
	set.StringVar(&o.state, "state", "/run/berth", "`directory` for what does not")
	set.Var(&o.addresses, "address", "`socket` to serve on, as unix:///run/berth/berthd.sock (the default); can be given several times")
	set.StringVar(&o.group, "group", grpcserve.Group, "`group` whose members may use the socket")
	set.TextVar(&o.level, "log-level", slog.LevelInfo, "least `level` to log: debug, info, warn or error")
	set.StringVar(&o.bridgeName, "bridge-name", "berth0", "`interface` of the default network")
	set.TextVar(&o.bridgeSubnet, "bridge-subnet", netip.Prefix{}, "`addresses` of the default network, as 10.86.0.0/16; without it some that the host does not use")
	set.StringVar(&o.nftTable, "nft-table", "berth", "nftables `table` of the networks")
	set.StringVar(&o.contentAddress, "content-address", "", "`socket` of a content store in another process")
	set.StringVar(&o.snapshotterAddress, "snapshotter-address", "", "`socket` of a snapshotter in another process")
	set.StringVar(&o.snapshotter, "snapshotter", "", "`name` of the snapshotter: overlay or native; without it overlay where that works")
	set.StringVar(&o.runtime, "runtime", "berth-runtime", "OCI runtime: a `path`, or a name beside berthd or in PATH")
	set.StringVar(&o.shim, "shim", "containerd-shim-berth-v2", "shim: a `path`, or a name beside berthd or in PATH")
	set.StringVar(&o.init, "init", "berth-init", "init of containers that ask for one: a `path`, or a name beside berthd or in PATH")
	set.Var(&o.pluginDirs, "cni-plugin-dir", "`directory` of CNI plugins that are not berth's; can be given several times")
	o.register(set)
	set.StringVar(&o.cgroupParent, "cgroup-parent", "berth", "`cgroup` that holds those of the containers")
	set.BoolVar(&showVersion, "version", false, "print the version and exit")
	if err := grpcserve.ParseFlags(set, args, stdout); err != nil {
		return o, err
	}
	if showVersion {
		if _, err := fmt.Fprintf(stdout, "berthd version %s\n", version.String()); err != nil {
			return o, err
		}
		return o, flag.ErrHelp
	}
	if set.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	given := map[string]bool{}
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if err := o.check(given); err != nil {
		return o, err
	}
	return o, o.complete()
}

// complete makes paths of the addresses, and checks their lengths.
func (o *options) complete() error {
	if len(o.addresses) == 0 {
		o.addresses = list{"unix:///run/berth/berthd.sock"}
	}
	for i, address := range o.addresses {
		path := strings.TrimPrefix(strings.TrimPrefix(address, "unix:"), "//")
		switch {
		case !filepath.IsAbs(path):
			return fmt.Errorf("invalid --address %q: want unix:///path/of/socket; other kinds are not implemented", address)
		case len(path) > unixsocket.MaxPath: // clients of other makers can't connect to a longer one
			return fmt.Errorf("invalid --address %q: a socket's path has at most %d bytes", address, unixsocket.MaxPath)
		case slices.Contains(o.addresses[:i], path):
			return fmt.Errorf("invalid --address %q: it is given twice", address)
		}
		o.addresses[i] = path
	}
	if o.nftTable == "" {
		return errors.New("invalid --nft-table \"\": want the name of a table")
	}
	if address := o.bridgeSubnet.Addr(); o.bridgeSubnet.IsValid() && (!address.Is4() || address.IsMulticast()) {
		return fmt.Errorf("invalid --bridge-subnet %q: want unicast IPv4 addresses", o.bridgeSubnet)
	}
	return nil
}

func (o *options) listen() ([]net.Listener, error) {
	var listeners []net.Listener
	for _, address := range o.addresses {
		listener, err := grpcserve.Listen(address, o.group)
		if err != nil {
			for _, open := range listeners {
				err = errors.Join(err, open.Close())
			}
			return nil, err
		}
		listeners = append(listeners, listener)
	}
	return listeners, nil
}

// locks keep other daemons away from our directories for as long as this process lives.
type locks []*os.File

func lockDirectories(dirs ...string) (locks, error) {
	var held locks
	for _, dir := range dirs {
		file, err := lockDirectory(dir)
		if err != nil {
			return nil, errors.Join(err, held.close())
		}
		held = append(held, file)
	}
	return held, nil
}

func lockDirectory(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("cannot make directory: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock directory: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("another berthd uses directory %q: stop it, or choose another --root and --state", dir), file.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock directory %q: %w", dir, err), file.Close())
	}
	return file, nil
}

func (l locks) close() error {
	var errs []error
	for _, file := range l {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}
