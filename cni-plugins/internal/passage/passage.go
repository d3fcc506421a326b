// Package passage lets the traffic of berth's bridges pass the firewalls of others. In netfilter an accept in one table does not
// overrule a drop in another: where dockerd or ufw has set iptables' FORWARD chain to DROP, or where firewalld runs, containers have no
// network unless the owner of the drop accepts their bridge.
//
//	ip, ip6 filter FORWARD (iptables-nft)   two rules by netlink, in the form that iptables reads
//	iptables-legacy                         the same rules by its program
//	firewalld                               the bridge becomes an interface of the zone trusted, by firewall-cmd
//	any other base chain that drops         is an administrator's own: it is named, and left alone
//
// The rules come last, behind everything that an administrator has in the chain, and carry a comment. They open no more than the
// bridge's own network has open: berth's own table drops what is not for its containers.
package passage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// patience is how long another program may take. What it should do is then left undone, and said.
const patience = 10 * time.Second

// comment marks the rules of a bridge.
func comment(bridge string) string { return "berth: " + bridge }

// Open lets the bridge's traffic pass. It can be repeated: what is there already stays. An error names what still is in the way.
func Open(bridge string) error {
	chains, err := list()
	if err != nil {
		return err
	}
	var errs []error
	for _, chain := range chains {
		switch {
		case isFilter(chain):
			errs = append(errs, openChain(chain, bridge))
		case chain.Table.Name == firewalldTable:
		case drops(chain):
			errs = append(errs, fmt.Errorf("chain %q of nftables table %q drops what it does not accept: accept what is forwarded from and to bridge %q there",
				chain.Name, chain.Table.Name, bridge))
		}
	}
	for _, program := range legacyPrograms() {
		errs = append(errs, openLegacy(program, bridge))
	}
	if slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == firewalldTable }) {
		errs = append(errs, openFirewalld(bridge))
	}
	return errors.Join(errs...)
}

// Close removes what Open made for the bridge, wherever that was.
func Close(bridge string) error {
	chains, err := list()
	if err != nil {
		return err
	}
	var errs []error
	for _, chain := range chains {
		if isFilter(chain) {
			errs = append(errs, closeChain(chain, bridge))
		}
	}
	for _, program := range legacyPrograms() {
		errs = append(errs, closeLegacy(program, bridge))
	}
	if slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == firewalldTable }) {
		errs = append(errs, closeFirewalld(bridge))
	}
	return errors.Join(errs...)
}

// list returns the base chains of the forward hook.
func list() ([]*nftables.Chain, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("cannot open nftables: %w", err)
	}
	all, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("cannot list the firewall's chains: %w", err)
	}
	return slices.DeleteFunc(all, func(c *nftables.Chain) bool {
		family := c.Table.Family
		return c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Type != nftables.ChainTypeFilter ||
			family != nftables.TableFamilyIPv4 && family != nftables.TableFamilyIPv6 && family != nftables.TableFamilyINet
	}), nil
}

func drops(c *nftables.Chain) bool { return c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop }

// isFilter tells whether the chain is iptables-nft's.
func isFilter(c *nftables.Chain) bool {
	return c.Name == "FORWARD" && c.Table.Name == "filter" && c.Table.Family != nftables.TableFamilyINet
}

// legacyPrograms are the iptables programs for tables of the kernel's old interface that are in use.
func legacyPrograms() []string {
	var programs []string
	for name, file := range map[string]string{"iptables": "ip_tables_names", "ip6tables": "ip6_tables_names"} {
		// /proc/net would be that of the main thread.
		tables, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil || !slices.Contains(strings.Fields(string(tables)), "filter") {
			continue
		}
		if _, err := exec.LookPath(name + "-legacy"); err == nil {
			name += "-legacy"
		}
		programs = append(programs, name)
	}
	return programs
}

// IsSilent tells whether the host has a firewall whose changes nobody is told of.
func IsSilent() bool { return len(legacyPrograms()) > 0 }

// run executes another firewall's program in the calling thread's network namespace.
func run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	command.WaitDelay = time.Second
	output, err := command.CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("cannot run %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return string(output), nil
}

func legacyRule(bridge, direction string) []string {
	return []string{direction, bridge, "-m", "comment", "--comment", comment(bridge), "-j", "ACCEPT"}
}

func openLegacy(program, bridge string) error {
	listed, err := run(program, "-w", "5", "-S", "FORWARD")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(listed), "\n")
	last := lines[len(lines)-1]
	refuses := strings.HasPrefix(last, "-A FORWARD -j REJECT") || last == "-A FORWARD -j DROP"
	if !refuses && lines[0] != "-P FORWARD DROP" {
		return nil
	}
	for _, direction := range []string{"-i", "-o"} {
		rule := legacyRule(bridge, direction)
		if _, err := run(program, append([]string{"-w", "5", "-C", "FORWARD"}, rule...)...); err == nil {
			continue
		}
		where := []string{"-A", "FORWARD"}
		if refuses {
			where = []string{"-I", "FORWARD", strconv.Itoa(len(lines) - 1)} // before the last rule
		}
		if _, err := run(program, append(append([]string{"-w", "5"}, where...), rule...)...); err != nil {
			return err
		}
	}
	return nil
}

func closeLegacy(program, bridge string) error {
	for _, direction := range []string{"-i", "-o"} {
		rule := legacyRule(bridge, direction)
		if _, err := run(program, append([]string{"-w", "5", "-C", "FORWARD"}, rule...)...); err != nil {
			continue // there is none
		}
		if _, err := run(program, append([]string{"-w", "5", "-D", "FORWARD"}, rule...)...); err != nil {
			return err
		}
	}
	return nil
}

// firewalldTable is the table of a firewalld that runs, and uses nftables.
const firewalldTable = "firewalld"

func openFirewalld(bridge string) error {
	if _, err := run("firewall-cmd", "--zone=trusted", "--query-interface="+bridge); err == nil {
		return nil
	}
	_, err := run("firewall-cmd", "--zone=trusted", "--change-interface="+bridge)
	return err
}

func closeFirewalld(bridge string) error {
	if _, err := run("firewall-cmd", "--zone=trusted", "--query-interface="+bridge); err != nil {
		return nil //nolint:nilerr // it says no, or does not run any more
	}
	_, err := run("firewall-cmd", "--zone=trusted", "--remove-interface="+bridge)
	return err
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
