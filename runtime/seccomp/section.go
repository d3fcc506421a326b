package seccomp

import (
	"cmp"
	"slices"
)

// call is a system call that the profile mentions, with the rules that matter: one outcome, or alternatives.
type call struct {
	number uint32
	outcome
	alternatives []rule
	first        int // the index of the first alternative in the profile
	multiplexed  bool
}

// block names what was emitted for a rule that is the only alternative of a call. Others with the same name share it.
type block struct {
	rule int
	is32 bool
}

// application is that a rule applies to the system call with a number.
type application struct {
	number uint32
	rule   int
	via    multiplexed
}

// calls lists what the profile mentions of one abi, sorted by number.
func (c *compiler) calls(abi abi) []call {
	applications := make([]application, 0, len(c.uses))
	for _, u := range c.uses {
		if number, ok := abi.number(u.call); ok {
			applications = append(applications, application{number: number, rule: u.rule})
		}
		if abi == x86 && u.call.also.by != 0 && c.reaches(u.rule) {
			applications = append(applications, application{uint32(u.call.also.by), u.rule, u.call.also})
		}
	}
	slices.SortFunc(applications, func(a, b application) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.rule, b.rule))
	})
	var calls []call
	for start := 0; start < len(applications); {
		end := start + 1
		for end < len(applications) && applications[end].number == applications[start].number {
			end++
		}
		calls = append(calls, c.resolve(applications[start:end]))
		start = end
	}
	return calls
}

// reaches tells whether a rule extends to the multiplexed way of making its call. There the arguments are behind a
// pointer and can't be compared, so that only a rule stricter than the default is kept, and then without conditions.
func (c *compiler) reaches(r int) bool {
	return len(c.rules[r].conditions) == 0 || c.rules[r].outcome.severity() < c.fallback.severity()
}

// resolve brings the rules for one call down to those that count. As with libseccomp one without conditions is the
// call's outcome wherever it stands, the first if there are several. Rules that say the same as the default are skipped
// before that, as by runc.
func (c *compiler) resolve(applications []application) call {
	result := call{number: applications[0].number, outcome: c.fallback}
	for _, application := range applications {
		r := c.rules[application.rule]
		if r.outcome == c.fallback {
			continue
		}
		if application.via.by != 0 {
			r.conditions = []condition{application.via.condition()}
			result.multiplexed = true
		}
		if len(r.conditions) == 0 {
			return call{number: result.number, outcome: r.outcome}
		}
		if result.alternatives == nil {
			result.first = application.rule
		}
		result.alternatives = append(result.alternatives, r)
	}
	return result
}

// span is a range of numbers, up to the next span's start, with the same outcome or entry into the program.
type span struct {
	start uint32
	outcome
	entry label // 0 if all there is to do is to return the outcome
}

type spans []span

func (s *spans) add(next span) {
	if n := len(*s); n > 0 && (*s)[n-1].start == next.start { // an empty one
		*s = (*s)[:n-1]
	}
	if n := len(*s); n > 0 && next.entry == 0 && (*s)[n-1].entry == 0 && (*s)[n-1].outcome == next.outcome {
		return
	}
	*s = append(*s, next)
}

// section emits the part of the program for one architecture and returns its entry.
func (c *compiler) section(a *assembler, s section) label {
	var all spans
	for _, abi := range s.abis {
		first := uint32(0)
		if abi == x32 {
			first = x32Bit
		}
		all.add(span{start: first, outcome: c.fallback})
		calls := c.calls(abi)
		for _, call := range calls {
			next := span{start: call.number, outcome: call.outcome}
			if len(call.alternatives) > 0 {
				next.entry = c.alternatives(a, call, abi)
			}
			all.add(next)
			all.add(span{start: call.number + 1, outcome: c.fallback})
		}
		if len(calls) > 0 {
			all.add(span{start: calls[len(calls)-1].number + 1, outcome: c.newer})
		}
	}
	if last := len(s.abis) - 1; s.abis[last] == x8664 {
		all.add(span{start: x32Bit, outcome: killThread})
		all.add(span{start: ^uint32(0), outcome: c.fallback}) // -1, which a tracer sets to skip a call
	}
	entry := a.tree(all)
	a.continueAt(entry)
	return a.emit(opLoad, offsetNumber)
}

// alternatives emits the rules of a call, which are tried in their order, and returns the entry.
func (c *compiler) alternatives(a *assembler, call call, abi abi) label {
	name := block{call.first, abi.is32()}
	single := len(call.alternatives) == 1 && !call.multiplexed
	if entry, emitted := c.blocks[name]; emitted && single {
		return entry
	}
	next := a.ret(c.fallback)
	for _, r := range slices.Backward(call.alternatives) {
		match := a.ret(r.outcome)
		for _, condition := range slices.Backward(r.conditions) {
			match = a.check(condition, abi.is32(), match, next)
		}
		next = match
	}
	if single {
		c.blocks[name] = next
	}
	return next
}

// tree emits the search for a number in spans and returns the entry.
func (a *assembler) tree(spans spans) label {
	if len(spans) == 1 {
		if spans[0].entry != 0 {
			return spans[0].entry
		}
		return a.ret(spans[0].outcome)
	}
	if len(spans) == 3 && spans[2].start == spans[1].start+1 && spans[0].entry == 0 && spans[2].entry == 0 && spans[0].outcome == spans[2].outcome {
		// One number between two spans that are alike.
		inner := a.tree(spans[1:2])
		outer := a.tree(spans[:1])
		return a.branch(opEqual, spans[1].start, inner, outer)
	}
	middle := len(spans) / 2
	upper := a.tree(spans[middle:])
	lower := a.tree(spans[:middle])
	return a.branch(opAtLeast, spans[middle].start, upper, lower)
}
