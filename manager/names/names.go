// Package names makes up names for containers that people can say, and checks those that people choose.
package names

import (
	"fmt"
	"math/rand/v2"

	"github.com/berthd/berth/internal/errdefs"
)

// Random returns two words joined by an underscore, as "calm_lagoon"; from the second attempt on with a number behind
// them, as the pairs may be used up.
func Random(attempt int) string {
	name := adjectives()[rand.IntN(len(adjectives()))] + "_" + nouns()[rand.IntN(len(nouns()))]
	if attempt > 0 {
		name += fmt.Sprint(rand.IntN(10 << min(attempt, 20)))
	}
	return name
}

const maxLength = 255

// Check refuses a name that could be taken for something else or that breaks a file or host name.
func Check(name string) error {
	valid := name != "" && len(name) <= maxLength && isAlphanumeric(name[0])
	for i := 1; i < len(name) && valid; i++ {
		c := name[i]
		valid = isAlphanumeric(c) || c == '_' || c == '.' || c == '-'
	}
	if !valid {
		return errdefs.As(errdefs.ErrInvalidArgument,
			fmt.Errorf("invalid name %q: want a letter or digit, then letters, digits, '_', '.' and '-', at most %d", name, maxLength))
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func adjectives() []string {
	return []string{
		"able", "agile", "amber", "ample", "azure", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "clear", "clever",
		"cosy", "crisp", "daring", "deep", "eager", "early", "easy", "fair", "fleet", "fond", "fresh", "gentle", "glad", "golden",
		"grand", "happy", "hardy", "jolly", "keen", "kind", "lively", "lucid", "lucky", "mellow", "merry", "mild", "neat", "nimble",
		"noble", "patient", "placid", "proud", "quick", "quiet", "rapid", "ready", "rosy", "salty", "serene", "sharp", "silver", "sleek",
		"smart", "solid", "spry", "steady", "still", "sunny", "swift", "tidy", "true", "vivid", "warm", "wise", "witty", "zesty",
	}
}

func nouns() []string {
	return []string{
		"anchor", "atoll", "bay", "beacon", "berth", "bollard", "bosun", "bow", "breeze", "brig", "buoy", "cape", "capstan", "cargo",
		"channel", "clipper", "coast", "compass", "coral", "cove", "crane", "current", "cutter", "deck", "delta", "dinghy", "dock", "dolphin",
		"ferry", "fjord", "fleet", "frigate", "galley", "gull", "harbour", "haven", "helm", "heron", "hull", "island", "jetty", "keel",
		"ketch", "lagoon", "lantern", "lighthouse", "lock", "marina", "mast", "mooring", "oar", "otter", "pelican", "pier", "pilot", "port",
		"quay", "reef", "rudder", "sail", "schooner", "seal", "shore", "skipper", "sloop", "sound", "stern", "strait", "tide", "tiller",
		"trawler", "tug", "wharf", "yacht",
	}
}
