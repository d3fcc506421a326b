package passage

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// openChain puts two rules at the end of iptables-nft's FORWARD chain, if that refuses what it does not accept. iptables-nft refuses to
// work with a chain that has a rule in it which it can't read: these have the form of its own.
func openChain(chain *nftables.Chain, bridge string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	rules, err := conn.GetRules(chain.Table, chain)
	if err != nil {
		return fmt.Errorf("cannot list the rules of chain FORWARD: %w", err)
	}
	refusal := trailingRefusal(rules)
	if refusal == nil && !drops(chain) {
		return nil
	}
	for _, direction := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		if len(findRules(rules, bridge, direction)) > 0 {
			continue
		}
		rule := &nftables.Rule{Table: chain.Table, Chain: chain, Exprs: accept(bridge, direction), UserData: ruleComment(bridge)}
		if refusal == nil {
			conn.AddRule(rule)
			continue
		}
		rule.Position = refusal.Handle // before it
		conn.InsertRule(rule)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot accept bridge %q in chain FORWARD of iptables: %w", bridge, err)
	}
	return nil
}

func closeChain(chain *nftables.Chain, bridge string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	rules, err := conn.GetRules(chain.Table, chain)
	if err != nil {
		return fmt.Errorf("cannot list the rules of chain FORWARD: %w", err)
	}
	for _, direction := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		for _, rule := range findRules(rules, bridge, direction) {
			if err := conn.DelRule(rule); err != nil {
				return fmt.Errorf("cannot remove the rules of bridge %q from chain FORWARD of iptables: %w", bridge, err)
			}
		}
	}
	if err := ignoreGone(conn.Flush()); err != nil {
		return fmt.Errorf("cannot remove the rules of bridge %q from chain FORWARD of iptables: %w", bridge, err)
	}
	return nil
}

func accept(bridge string, direction expr.MetaKey) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, bridge)
	return []expr.Any{
		&expr.Meta{Key: direction, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept},
	}
}

func ruleComment(bridge string) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, comment(bridge))
}

// findRules returns the bridge's rules for a direction: there are two of a kind where two processes opened the way at once.
// iptables-restore, which saves and loads all rules, may have written them anew: with the comment in a match of its own, and with less of
// the name's padding.
func findRules(rules []*nftables.Rule, bridge string, direction expr.MetaKey) (found []*nftables.Rule) {
	for _, rule := range rules {
		if len(rule.Exprs) < 3 {
			continue
		}
		meta, isMeta := rule.Exprs[0].(*expr.Meta)
		cmp, isCmp := rule.Exprs[1].(*expr.Cmp)
		verdict, isVerdict := rule.Exprs[len(rule.Exprs)-1].(*expr.Verdict)
		if !isMeta || !isCmp || !isVerdict || meta.Key != direction || cmp.Op != expr.CmpOpEq || verdict.Kind != expr.VerdictAccept {
			continue
		}
		if strings.TrimRight(string(cmp.Data), "\x00") == bridge && hasComment(rule, bridge) {
			found = append(found, rule)
		}
	}
	return found
}

func hasComment(rule *nftables.Rule, bridge string) bool {
	if text, ok := userdata.GetString(rule.UserData, userdata.TypeComment); ok {
		return text == comment(bridge)
	}
	if len(rule.Exprs) != 5 {
		return false
	}
	match, isMatch := rule.Exprs[2].(*expr.Match)
	if !isMatch {
		return false
	}
	text, isComment := match.Info.(*xt.Comment)
	return isComment && string(*text) == comment(bridge)
}

// trailingRefusal returns the chain's last rule if it refuses everything.
func trailingRefusal(rules []*nftables.Rule) *nftables.Rule {
	if len(rules) == 0 {
		return nil
	}
	last := rules[len(rules)-1]
	for _, e := range last.Exprs {
		switch e := e.(type) {
		case *expr.Counter:
		case *expr.Target:
			if e.Name != "REJECT" {
				return nil
			}
		case *expr.Verdict:
			if e.Kind != expr.VerdictDrop {
				return nil
			}
		case *expr.Reject:
		default:
			return nil
		}
	}
	return last
}
