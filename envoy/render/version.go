package render

import (
	"fmt"
	"strconv"
	"strings"
)

// The oldest Envoys that can run the shapes. Before 1.37 Envoy crashes on every
// retry that follows an ext_proc in the router's own filters.
const (
	oldestNested   = 36
	oldestUpstream = 37
)

// upstream reports whether any route is retried by filters of the router's own:
// the lean shape, and push.
func (c Config) upstream() bool {
	if c.Shape == Lean {
		return true
	}
	for _, r := range c.Routes {
		if r.Push != nil {
			return true
		}
	}
	return false
}

// oldest is the minor version of the oldest Envoy 1.x that can run this.
func (c Config) oldest() int {
	if c.upstream() {
		return oldestUpstream
	}
	return oldestNested
}

func (c Config) validateVersion() error {
	if c.EnvoyVersion == "" {
		return nil
	}
	minor, err := parseVersion(c.EnvoyVersion)
	switch {
	case err != nil:
		return err
	case minor < oldestNested:
		return fmt.Errorf("envoy version: %s is too old: rebearer needs Envoy 1.%d", c.EnvoyVersion, oldestNested)
	case minor < c.oldest():
		return fmt.Errorf("envoy version: %s crashes in the lean shape and in push mode, which need Envoy 1.%d: "+
			"take the nested shape without push", c.EnvoyVersion, oldestUpstream)
	}
	return nil
}

// parseVersion returns the minor version of an Envoy 1.x.
func parseVersion(text string) (int, error) {
	rest, ok := strings.CutPrefix(text, "1.")
	first, _, _ := strings.Cut(rest, ".")
	minor, err := strconv.ParseUint(first, 10, 8)
	if !ok || err != nil {
		return 0, fmt.Errorf("envoy version: %q is not one of Envoy's, like 1.%d or 1.%d.0", text, oldestUpstream, oldestUpstream)
	}
	return int(minor), nil
}
