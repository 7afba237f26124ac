package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Version is the only version of the file that this program reads.
const Version = 1

// maxFileSize bounds the configuration file, in bytes.
const maxFileSize = 1 << 20

// Config is the configuration file. The zero value is not a usable
// configuration: [Load] and [Parse] fill in the defaults.
type Config struct {
	// Version is the version of the file's form. Required; 1.
	Version int `yaml:"version"`
	// Server says where rebearer listens, and to whom. Every part has a
	// default on loopback.
	Server Server `yaml:"server"`
	// Providers are the authorization servers, by name. Default none.
	Providers map[string]Provider `yaml:"providers"`
	// Callers say whose tokens are accepted, by name. Default none.
	Callers map[string]Caller `yaml:"callers"`
	// Credentials say which backend tokens rebearer holds and how it gets
	// them, by name. Default none.
	Credentials map[string]Credential `yaml:"credentials"`
	// Defaults apply to every entry that says nothing else.
	Defaults Defaults `yaml:"defaults"`
	// Policies say which callers may pass and which credential is sent, by
	// name. A route chooses one; without a name it gets "default", if there
	// is one. Default none: every request is refused.
	Policies map[string]Policy `yaml:"policies"`
	// Envoy is read by `rebearer envoy` only.
	Envoy Envoy `yaml:"envoy"`

	files []fileRef
}

// Defaults apply to every entry that says nothing else.
type Defaults struct {
	// Credential lies under every credential: a key that the credential does
	// not have, at any depth, is taken from here. Lists and params are taken
	// whole, not joined. What neither has is rebearer's own default.
	Credential Credential `yaml:"credential"`
}

// Load reads the configuration file at path and checks it, and the files it
// names: they must be there, be readable and hold what they should. The error
// tells all problems of the stage that failed, one a line, each with file,
// line and column. Load reads local files and does nothing else that blocks.
func Load(path string) (*Config, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	return parse(data, path, true)
}

// Parse is [Load] for text that is already in memory. The name stands in
// errors, and its folder is where relative file names start. Parse does not
// look at any file.
func Parse(data []byte, name string) (*Config, error) {
	return parse(data, name, false)
}

func parse(data []byte, name string, withFiles bool) (*Config, error) {
	root, err := parseYAML(data, name)
	if err != nil {
		return nil, err
	}
	problems := &report{file: name, positions: map[string]position{}}
	if !checkVersion(root, problems) {
		return nil, problems.err()
	}
	cfg := decodeConfig(root, filepath.Dir(name), problems)
	if err := problems.err(); err != nil {
		return nil, err
	}
	cfg.check(problems)
	if withFiles {
		checkFiles(cfg.files, problems)
	}
	if err := problems.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// checkVersion comes before everything else: the keys of another version mean
// nothing here, and a list of unknown keys would hide the one true reason.
func checkVersion(root *node, problems *report) bool {
	version := root.child("version")
	switch {
	case version == nil:
		problems.add(position{1, 1}, "version is missing: the file must say version: %d", Version)
	case version.kind != scalarNode || !version.plain || version.text != fmt.Sprint(Version):
		problems.add(version.at, "version: this program reads version: %d only", Version)
	default:
		return true
	}
	return false
}

// check reports what the types cannot say.
func (c *Config) check(r *report) {
	c.Server.check(r, "server")
	for name, provider := range sorted(c.Providers) {
		provider.check(r, r.name("providers", name))
	}
	for name, caller := range sorted(c.Callers) {
		at := r.name("callers", name)
		caller.check(r, at, c.Providers)
		if n := len(c.CallerClaims(name)); n > maxClaims {
			r.fail(at, "policies look at %d claims of these tokens: at most %d are possible", n, maxClaims)
		}
	}
	for name, credential := range sorted(c.Credentials) {
		credential.check(r, r.name("credentials", name), c.Providers)
	}
	for name, policy := range sorted(c.Policies) {
		policy.check(r, r.name("policies", name), c)
	}
	c.Envoy.check(r, "envoy")
}

// Files returns the names of the files that the configuration refers to and
// rebearer reads, sorted and each once; the configuration file itself and the
// files that only Envoy reads are not among them.
func (c *Config) Files() []string {
	names := make([]string, 0, len(c.files))
	for _, ref := range c.files {
		names = append(names, ref.file)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// sorted yields the entries of a map in the order of their names, so that the
// same file always gives the same errors.
func sorted[K cmp.Ordered, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}
