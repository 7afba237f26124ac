package oauth

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"sync"
)

// watchedFiles is a value that is made from files, and made again when one of
// them changes. It is safe for concurrent use.
type watchedFiles[T any] struct {
	names []string
	parse func(contents [][]byte) (T, error)

	mu     sync.Mutex
	made   bool
	digest [sha256.Size]byte // of what value was made from
	value  T
}

// get reads the files, and parses them if they are not what they were. Files
// that cannot be used are an error that names them and quotes nothing of them,
// even where earlier ones could: whoever rotated them hears of it.
func (w *watchedFiles[T]) get() (T, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var none T
	contents := make([][]byte, 0, len(w.names))
	digest := sha256.New()
	for _, name := range w.names {
		content, err := os.ReadFile(name)
		if err != nil {
			return none, err
		}
		contents = append(contents, content)
		write(digest, string(content))
	}
	sum := [sha256.Size]byte(digest.Sum(nil))
	if w.made && sum == w.digest {
		return w.value, nil
	}
	value, err := w.parse(contents)
	if err != nil {
		return none, fmt.Errorf("%s %w", strings.Join(w.names, " and "), err)
	}
	w.made, w.digest, w.value = true, sum, value
	return value, nil
}
