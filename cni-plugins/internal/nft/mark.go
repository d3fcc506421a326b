package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// markPrefix begins the comment of every table that berth made.
const markPrefix = "made by berth"

const mark = markPrefix + ": rules of your own belong into chain admin"

// claim makes the table with its mark, or makes sure that the one that is there has it.
func (t Table) claim() error {
	body := attribute(nil, unix.NFTA_TABLE_NAME, text(t.Name))
	body = attribute(body, tableUserdata, comment(mark))
	return t.sockets.do(func(s socket) error {
		err := s.batch([]message{{kind: newTable, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, body: body}})
		if errors.Is(err, unix.EEXIST) {
			_, err = t.mine(s)
		}
		return err
	})
}

// mine tells whether there is a table. One that berth did not make is errdefs.ErrFailedPrecondition.
func (t Table) mine(s socket) (present bool, err error) {
	marked := false
	question := message{kind: getTable, body: attribute(nil, unix.NFTA_TABLE_NAME, text(t.Name))}
	err = s.ask(question, newTable, func(payload []byte) error {
		present = true
		return attributes(payload, func(kind uint16, value []byte) error {
			if kind == tableUserdata {
				marked = strings.HasPrefix(parseComment(value), markPrefix)
			}
			return nil
		})
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err == nil && present && !marked {
		err = errdefs.As(errdefs.ErrFailedPrecondition, errors.New("it exists and was not made by berth: choose another name"))
	}
	return present, err
}

// Claimable fails if there is a table of the name that berth did not make.
func (t Table) Claimable() error {
	err := t.sockets.do(func(s socket) error {
		_, err := t.mine(s)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot use nftables table %q: %w", t.Name, err)
	}
	return nil
}

// deletePatience is how long a table is looked at again because others change the host's rules meanwhile.
const deletePatience = 5 * time.Second

// DeleteIfUnused removes the table if berth made it and nobody uses it: it holds no elements, which are attachments of any CNI caller, and
// nothing of an administrator's. What others add meanwhile makes the kernel refuse the removal.
func (t Table) DeleteIfUnused() error {
	var err error
	for deadline := time.Now().Add(deletePatience); time.Now().Before(deadline); {
		if err = t.sockets.do(t.deleteIfUnused); !isChanging(err) {
			break
		}
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot delete nftables table %q: %w", t.Name, err)
	}
	return nil
}

// isChanging tells whether an error says that the rules have changed while they were read, or since then.
func isChanging(err error) bool {
	return errors.Is(err, unix.ERESTART) || errors.Is(err, unix.EINTR) || errors.Is(err, errInterrupted)
}

func (t Table) deleteIfUnused(s socket) error {
	generation, err := s.generation()
	if err != nil {
		return err
	}
	present, err := t.mine(s)
	if err != nil || !present {
		return ignoreForeign(err)
	}
	used, err := t.used(s)
	if err != nil || used {
		return err
	}
	return s.batchAt(generation, []message{{kind: deleteTable, body: attribute(nil, unix.NFTA_TABLE_NAME, text(t.Name))}})
}

func ignoreForeign(err error) error {
	if errors.Is(err, errdefs.ErrFailedPrecondition) {
		return nil
	}
	return err
}

// used tells whether the table holds more than the layout.
func (t Table) used(s socket) (bool, error) {
	for _, set := range setNames() {
		for _, family := range []string{"4", "6"} {
			if listed, err := t.list(s, set+family); err != nil || len(listed) > 0 {
				return true, err
			}
		}
	}
	conn, err := connect()
	if err != nil {
		return true, err
	}
	table := t.kernel()
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return true, err
	}
	for _, chain := range chains {
		if chain.Table.Name == t.Name && !slices.Contains(chainNames(), chain.Name) {
			return true, nil
		}
	}
	sets, err := conn.GetSets(table)
	if err != nil {
		return true, err
	}
	for _, set := range sets {
		if name := strings.TrimRight(set.Name, "46"); !slices.Contains(setNames(), name) {
			return true, nil
		}
	}
	rules, err := conn.GetRules(table, &nftables.Chain{Name: adminChain, Table: table})
	if errors.Is(err, unix.ENOENT) {
		return false, nil // only half made
	}
	return len(rules) > 0, err
}

// generation is the number of the ruleset's present state.
func (s socket) generation() (generation uint32, err error) {
	err = s.ask(message{kind: getGeneration}, newGeneration, func(payload []byte) error {
		return attributes(payload, func(kind uint16, value []byte) error {
			if kind == unix.NFTA_GEN_ID && len(value) >= 4 {
				generation = binary.BigEndian.Uint32(value)
			}
			return nil
		})
	})
	return generation, err
}
