// Package examples holds folders to start from: each has a README and the
// configuration of every part. There is no code to import; the tests check that
// this version of rebearer and Envoy accept what stands here.
package examples
