// Package bench measures what rebearer costs a request, in CPU time, beside an
// ext_authz server that allows everything and beside no authorization at all, in
// one run on the same Envoy, caller and backend. It holds tests only:
//
//	make bench
//
// The paths take turns in short rounds, so that what else the machine does hits
// all of them alike; what counts are the ratios, never the microseconds. Envoy
// and the service are processes of their own, so that their CPU time can be read
// apart from the caller's and the backend's.
package bench
