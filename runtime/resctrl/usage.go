package resctrl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Usage is what events tell of a class of service, in runc's shape. What the processors can't do is left out.
type Usage struct {
	L3Cache         *CacheInfo     `json:"l3_cache_info,omitempty"`
	L3SchemaRoot    string         `json:"l3_cache_schema_root,omitempty"`
	L3Schema        string         `json:"l3_cache_schema,omitempty"`
	Bandwidth       *BandwidthInfo `json:"mem_bw_info,omitempty"`
	BandwidthRoot   string         `json:"mem_bw_schema_root,omitempty"`
	BandwidthSchema string         `json:"mem_bw_schema,omitempty"`
	Schemata        []string       `json:"schemata,omitempty"`
	BandwidthUsed   []Traffic      `json:"mbm_stats,omitempty"`
	CacheUsed       []Occupancy    `json:"cmt_stats,omitempty"`
}

// CacheInfo is what there is of the L3 cache to be divided.
type CacheInfo struct {
	Mask    string `json:"cbm_mask,omitempty"`
	MinBits uint64 `json:"min_cbm_bits,omitempty"`
	Classes uint64 `json:"num_closids,omitempty"`
}

// BandwidthInfo is how the memory's bandwidth can be divided.
type BandwidthInfo struct {
	Granularity uint64 `json:"bandwidth_gran,omitempty"`
	Linear      uint64 `json:"delay_linear,omitempty"`
	Min         uint64 `json:"min_bandwidth,omitempty"`
	Classes     uint64 `json:"num_closids,omitempty"`
}

// Traffic is what has gone to and from the memory through one cache.
type Traffic struct {
	Total uint64 `json:"mbm_total_bytes"`
	Local uint64 `json:"mbm_local_bytes"`
}

// Occupancy is what is held in one cache.
type Occupancy struct {
	Bytes uint64 `json:"llc_occupancy"`
}

// Usage reads what the group has and uses. It is empty of no group.
func (g *Group) Usage(root string) (Usage, error) {
	var u Usage
	if g == nil {
		return u, nil
	}
	r := &reader{}
	u.Schemata = r.lines(g.Class, "schemata")
	all := r.lines(root, "schemata")
	if info := filepath.Join(root, "info", "L3"); there(info) {
		u.L3Cache = &CacheInfo{Mask: r.text(info, "cbm_mask"), MinBits: r.number(info, "min_cbm_bits"), Classes: r.number(info, "num_closids")}
		u.L3SchemaRoot, u.L3Schema = lineOf(all, "L3"), lineOf(u.Schemata, "L3")
	}
	if info := filepath.Join(root, "info", "MB"); there(info) {
		u.Bandwidth = &BandwidthInfo{
			Granularity: r.number(info, "bandwidth_gran"), Linear: r.number(info, "delay_linear"),
			Min: r.number(info, "min_bandwidth"), Classes: r.number(info, "num_closids"),
		}
		u.BandwidthRoot, u.BandwidthSchema = lineOf(all, "MB"), lineOf(u.Schemata, "MB")
	}
	dir := g.Monitor
	if dir == "" {
		dir = g.Class
	}
	domains, err := os.ReadDir(filepath.Join(dir, "mon_data"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return u, err
	}
	for _, domain := range domains {
		cache := filepath.Join(dir, "mon_data", domain.Name())
		if there(filepath.Join(cache, "mbm_total_bytes")) || there(filepath.Join(cache, "mbm_local_bytes")) {
			u.BandwidthUsed = append(u.BandwidthUsed, Traffic{r.number(cache, "mbm_total_bytes"), r.number(cache, "mbm_local_bytes")})
		}
		if there(filepath.Join(cache, "llc_occupancy")) {
			u.CacheUsed = append(u.CacheUsed, Occupancy{r.number(cache, "llc_occupancy")})
		}
	}
	return u, r.err
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lineOf finds the line of a resource.
func lineOf(lines []string, name string) string {
	for _, line := range lines {
		if strings.HasPrefix(line, name+":") {
			return line
		}
	}
	return ""
}

// reader reads files until one can't be read. A file that is absent is something that the processors can't do.
type reader struct{ err error }

func (r *reader) text(dir, file string) string {
	content, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && r.err == nil {
		r.err = fmt.Errorf("cannot read the class of field linux.intelRdt: %w", err)
	}
	return strings.TrimSpace(string(content))
}

func (r *reader) lines(dir, file string) []string {
	var lines []string
	for line := range strings.Lines(r.text(dir, file)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// number is 0 where the kernel has none to tell: it says "Unavailable" of a counter that is another's for the moment.
func (r *reader) number(dir, file string) uint64 {
	number, _ := strconv.ParseUint(r.text(dir, file), 10, 64)
	return number
}
