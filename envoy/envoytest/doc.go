// Package envoytest runs real Envoys in tests: the newest version that rebearer
// is tested with and the oldest that it supports.
//
// The newest is $ENVOY, or envoy on PATH; the oldest is $ENVOY_OLDEST. $ENVOYS
// takes the place of both: paths of any number of Envoys, parted by colons. A test
// that needs one that is not there is skipped, or fails where
// REBEARER_REQUIRE_REAL=1 says that everything is expected to be there.
package envoytest
