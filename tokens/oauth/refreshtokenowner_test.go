//go:build unix

package oauth_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rebearer/rebearer/tokens"
)

// What root does with the files, such as `rebearer validate --connect`, leaves
// them to whom they belong.
func TestRefreshFileOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away: run the tests as root, as a container does")
	}
	const rebearer = 65532
	c := newChain(t)
	if err := os.Chown(filepath.Dir(c.file), rebearer, rebearer); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"r", "rr"} { // the file is new, then it is replaced
		c.mustUse(c.open(), tokens.Secret(token))
		for _, name := range []string{c.file, c.file + ".lock"} {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if owner := info.Sys().(*syscall.Stat_t); owner.Uid != rebearer || owner.Gid != rebearer { //nolint:errcheck // on unix it is
				t.Errorf("%s belongs to %d:%d, want %d", filepath.Base(name), owner.Uid, owner.Gid, rebearer)
			}
		}
	}
}
