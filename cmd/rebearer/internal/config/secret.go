package config

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/rebearer/rebearer/tokens"
)

// maxReferredSize bounds a file that the configuration refers to, in bytes.
const maxReferredSize = 1 << 20

// The kinds of files, as the file tags of the structs name them.
const (
	secretKind       = "secret"       // one line of text
	certificatesKind = "certificates" // PEM, at least one certificate
	keyKind          = "key"          // a private key
	stateKind        = "state"        // written by rebearer itself, so it may be missing
)

// fileRef is a file that the configuration refers to.
type fileRef struct {
	path string // of the value in the configuration
	file string // joined with the folder
	kind string
}

// checkFiles reports the files that are not what they should be.
func checkFiles(refs []fileRef, r *report) {
	for _, ref := range refs {
		if err := ref.check(); err != nil {
			r.fail(ref.path, "%v", err)
		}
	}
}

func (ref fileRef) check() error {
	switch ref.kind {
	case stateKind:
		return nil // it need not be there yet
	case secretKind:
		_, err := ReadSecret(ref.file)
		return err
	case certificatesKind:
		data, err := readFile(ref.file)
		if err == nil && !x509.NewCertPool().AppendCertsFromPEM(data) {
			err = fmt.Errorf("%s holds no PEM certificate", ref.file)
		}
		return err
	default:
		_, err := readFile(ref.file)
		return err
	}
}

// writable says why no file can be made in a folder. It tries, since nothing else
// knows of mounts and security modules.
func writable(folder string) error {
	probe, err := os.CreateTemp(folder, ".rebearer-*")
	if err != nil {
		return err
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// ReadSecret reads a secret or token from a file: one line of text, without
// the line break that may end it. It is an error if the file is missing, not
// a regular file, empty, larger than 1 MiB, or holds more than one line or
// other control characters. No error holds anything of the content.
func ReadSecret(path string) (tokens.Secret, error) {
	data, err := readFile(path)
	if err != nil {
		return "", err
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case text == "":
		return "", fmt.Errorf("%s holds nothing but a line break", path)
	case strings.ContainsAny(text, "\r\n"):
		return "", fmt.Errorf("%s holds more than one line: a secret is one", path)
	case strings.ContainsFunc(text, unicode.IsControl):
		return "", fmt.Errorf("%s holds control characters: a secret is one line of text", path)
	}
	return tokens.Secret(text), nil
}

// readFile returns what a regular file holds. Others are refused before they
// are opened: a pipe would block, and a device may never end.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(file, maxReferredSize+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	if len(data) > maxReferredSize {
		return nil, fmt.Errorf("%s is larger than 1 MiB", path)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, fmt.Errorf("%s is empty", path)
	}
	return data, nil
}
