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
	// Cache bounds what is held in memory.
	Cache Memory `yaml:"cache"`
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

// Bounds of the cache: some thousand callers' tokens, and what no process has.
const (
	minCacheBytes = 1 << 20
	maxCacheBytes = 1 << 40
)

// Memory bounds what is held in memory.
type Memory struct {
	// MaxBytes is how much the backend tokens of single callers may take, in
	// bytes, from 1048576; beyond it those that were not used lately are
	// dropped, and fetched again when they are. The tokens that rebearer gets
	// in its own name are never dropped. A change needs a restart. Default
	// 268435456 (256 MiB).
	MaxBytes int64 `yaml:"max_bytes"`
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
		cfg.checkStateFolders(problems)
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
	within(r, "cache.max_bytes", c.Cache.MaxBytes, minCacheBytes, maxCacheBytes)
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
	c.checkStateFiles(r)
	for name, policy := range sorted(c.Policies) {
		policy.check(r, r.name("policies", name), c)
	}
	c.Envoy.check(r, "envoy", c.Policies)
}

// checkStateFiles reports credentials that would write over each other's refresh
// tokens.
func (c *Config) checkStateFiles(r *report) {
	writers := c.stateFiles()
	for name, credential := range sorted(c.Credentials) {
		if credential.Grant != GrantRefreshToken || credential.TokenFile != "" || credential.RefreshToken == nil {
			continue
		}
		if file := credential.RefreshToken.StateFile; file != "" && writers[file] != name {
			r.fail(join(r.name("credentials", name), "refresh_token"), "the credential %s keeps its refresh token in %s too: each needs its own",
				quote(writers[file]), file)
		}
	}
}

// checkStateFolders reports refresh tokens that could not be kept: a provider that
// rotates them would lock rebearer out.
func (c *Config) checkStateFolders(r *report) {
	for file, name := range sorted(c.stateFiles()) {
		if err := writable(filepath.Dir(file)); err != nil {
			r.fail(join(r.name("credentials", name), "refresh_token.state_file"),
				"its folder must be writable, since a provider may rotate the refresh token: %v", err)
		}
	}
}

// complete fills in the defaults that follow from other keys.
func (c *Config) complete() {
	for _, credential := range c.Credentials {
		if t := credential.RefreshToken; t != nil && t.StateFile == "" {
			t.StateFile = t.File
		}
	}
}

// Files returns the names of the files that the configuration refers to and
// that are read anew when they change, sorted and each once. The configuration
// file itself, the files that only Envoy reads and those that rebearer itself
// writes are not among them.
func (c *Config) Files() []string {
	written := c.stateFiles()
	names := make([]string, 0, len(c.files))
	for _, ref := range c.files {
		if written[ref.file] == "" {
			names = append(names, ref.file)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// stateFiles are the files that rebearer writes, each with the name of the
// credential whose refresh token is there.
func (c *Config) stateFiles() map[string]string {
	files := map[string]string{}
	for name, credential := range sorted(c.Credentials) {
		if credential.Grant == GrantRefreshToken && credential.TokenFile == "" && credential.RefreshToken != nil {
			files[credential.RefreshToken.StateFile] = name
		}
	}
	return files
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
