package cni_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
)

const crowd = 20

func together(f func(i int)) {
	var all sync.WaitGroup
	for i := range crowd {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

// The first attachments of a host make the bridge and the table, all at once.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24", "fd00:88::/64")
	containers := make([]*container, crowd)
	for i := range containers {
		containers[i] = newContainer(t, fmt.Sprint("c", i), port("", 8000+i, 80), port("127.0.0.1", 9000+i, 80))
	}
	results, errs := make([]*types100.Result, crowd), make([]error, crowd)
	together(func(i int) { results[i], errs[i] = h.tryAttach(n, containers[i]) })
	var ips []string
	for i, err := range errs {
		if err != nil {
			t.Fatalf("ADD of c%d: %v", i, err)
		}
		ips = append(ips, address(t, results[i], 0))
	}
	slices.Sort(ips)
	if len(slices.Compact(ips)) != crowd {
		t.Errorf("addresses were given twice: %v", ips)
	}
	for i, c := range containers {
		name := fmt.Sprint("c", i)
		c.serve(":80", name)
		h.wantAnswer(fmt.Sprint("127.0.0.1:", 8000+i), name)
		h.wantAnswer(fmt.Sprint("127.0.0.1:", 9000+i), name)
	}
	together(func(i int) { errs[i] = h.check(n, containers[i]) })
	for i, err := range errs {
		if err != nil {
			t.Errorf("CHECK of c%d: %v", i, err)
		}
	}
	together(func(i int) { h.detach(n, containers[i]) })
	h.wantNothing("net")
}

// Of many that want one port exactly one gets it, also if some want it on all addresses and some on one: never two.
func TestOnePortIsGivenOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24")
	containers := make([]*container, crowd)
	for i := range containers {
		containers[i] = newContainer(t, fmt.Sprint("c", i), port("", 8080, 80))
	}
	errs := make([]error, crowd)
	together(func(i int) { _, errs[i] = h.tryAttach(n, containers[i]) })
	winners := 0
	for i, err := range errs {
		if err == nil {
			winners++
			continue
		}
		wantError(t, err, codeTaken, "8080/tcp", "address already in use")
		h.detach(n, containers[i])
	}
	if winners != 1 {
		t.Errorf("%d containers have the port", winners)
	}

	for i := range containers {
		containers[i].ports = []object{port([]string{"", "127.0.0.1"}[i%2], 8088, 80)}
		containers[i].id = fmt.Sprint("d", i)
		containers[i].ifName = "eth1"
	}
	together(func(i int) { _, errs[i] = h.tryAttach(n, containers[i]) })
	winners = 0
	for _, err := range errs {
		if err == nil {
			winners++
		}
	}
	if winners > 1 {
		t.Errorf("%d containers have the port", winners)
	}
}

// Containers come and go while others do.
func TestComingAndGoing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24")
	containers := make([]*container, crowd)
	for i := range containers {
		containers[i] = newContainer(t, fmt.Sprint("c", i), port("", 8000+i, 80))
	}
	together(func(i int) {
		for range 5 {
			if _, err := h.tryAttach(n, containers[i]); err != nil {
				t.Errorf("ADD of c%d: %v", i, err)
			}
			h.detach(n, containers[i])
		}
	})
	h.wantNothing("net")
}

// A plugin may be killed at any instant. DEL, which the caller owes after it, finds all that was done.
func TestKilledPluginsLeaveNothingAfterDel(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24", "fd00:88::/64")
	c := newContainer(t, "c", port("", 8080, 80))
	killed := 0
	for i := range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*500*time.Microsecond)
		h.do(func() {
			if _, err := h.cni.AddNetworkList(ctx, n, c.runtimeConf()); err != nil {
				killed++
			}
		})
		cancel()
		h.detach(n, c)
		h.wantNothing("net")
		if links := c.links(); len(links) > 0 {
			t.Fatalf("the container has links %v", links)
		}
	}
	if killed < 5 {
		t.Errorf("only %d plugins were killed", killed)
	}
	h.attach(n, c)
	if err := h.check(n, c); err != nil {
		t.Errorf("CHECK: %v", err)
	}
}
