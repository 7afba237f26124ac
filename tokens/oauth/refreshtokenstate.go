package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rebearer/rebearer/tokens"
)

var errNoState = errors.New("is no state of a refresh token: put a new token into its file, and delete this one")

// refreshState is a refresh token and what is known about it.
type refreshState struct {
	token  tokens.Secret
	origin string    // tells which first token it comes from; empty for a first one
	used   time.Time // when it was used, or came for one that was used; zero if never
	end    time.Time // as the provider stated it; zero if it did not
}

// stateDocument is a refreshState as it stands in a file. It is the one place
// where rebearer writes a secret.
type stateDocument struct {
	RefreshToken string    `json:"refresh_token"`
	Origin       string    `json:"origin"`
	Used         time.Time `json:"used"`
	Expires      time.Time `json:"expires,omitzero"`
}

// originOf returns what tells a first token from another.
func originOf(token tokens.Secret) string { return string(tokens.FingerprintOf(token.Reveal())) }

// endsBy reports whether the token is not to be used any more. One that was
// never used is: nobody knows how old it is.
func (s refreshState) endsBy(now time.Time, expiry time.Duration) bool {
	switch {
	case s.used.IsZero():
		return false
	case !s.end.IsZero():
		return !now.Before(s.end)
	}
	return !now.Before(s.used.Add(expiry))
}

// after returns what is known once the token brought a grant.
func (s refreshState) after(grant tokens.Grant, now time.Time) refreshState {
	if s.origin == "" {
		s.origin = originOf(s.token)
	}
	if grant.RefreshToken != "" && grant.RefreshToken != s.token {
		s.token, s.end = grant.RefreshToken, time.Time{}
	}
	if grant.RefreshExpiresIn > 0 {
		s.end = now.Add(grant.RefreshExpiresIn)
	}
	s.used = now
	return s
}

// readState reads a file that holds a state, or a first token as plain text. An
// empty file is [errNoToken]. Its errors name the file and quote nothing of it.
func readState(name string) (refreshState, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return refreshState{}, err
	}
	if !bytes.HasPrefix(bytes.TrimSpace(content), []byte("{")) {
		token, err := readStatic([][]byte{content})
		if err != nil {
			return refreshState{}, fmt.Errorf("%s %w", name, err)
		}
		return refreshState{token: token}, nil
	}
	var document stateDocument
	if err := json.Unmarshal(content, &document); err != nil || document.RefreshToken == "" || document.Origin == "" || document.Used.IsZero() {
		return refreshState{}, fmt.Errorf("%s %w", name, errNoState)
	}
	return refreshState{
		token: tokens.Secret(document.RefreshToken), origin: document.Origin,
		used: document.Used, end: document.Expires,
	}, nil
}

// writeState replaces the named file by one that holds s, so that whoever reads
// it finds the old content or the new one, whenever this process or the machine
// stops. Only its owner may read it.
func writeState(name string, s refreshState) error {
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target // the file, not the link, is what is replaced
	}
	content, err := json.Marshal(stateDocument{
		RefreshToken: s.token.Reveal(), Origin: s.origin, Used: s.used.UTC(), Expires: s.end.UTC(),
	})
	if err != nil {
		return err
	}
	// The name is always the same, so that a process that was killed leaves one
	// file behind, not many; and the file is new, so that nobody else has it open.
	temporary := name + ".new"
	_ = os.Remove(temporary)
	err = writeSynced(temporary, append(content, '\n'))
	if err == nil {
		giveToOwnerOf(temporary, name, filepath.Dir(name))
		err = os.Rename(temporary, name)
	}
	if err != nil {
		_ = os.Remove(temporary)
		return err
	}
	syncFolder(filepath.Dir(name))
	return nil
}

// writeSynced writes a new file and waits until it is on the disk.
func writeSynced(name string, content []byte) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

// syncFolder waits until a new name is on the disk, where the system can: without
// it a machine that loses its power may come back with the old content.
func syncFolder(name string) {
	folder, err := os.Open(name)
	if err != nil {
		return
	}
	_ = folder.Sync()
	_ = folder.Close()
}
