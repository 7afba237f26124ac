// Package bench measures what rebearer costs a request, in CPU time and in
// throughput, beside an ext_authz server that allows everything and beside no
// authorization at all, in one run on the same caller and backend, each way with
// an Envoy of its own that has one worker. It holds tests only:
//
//	make bench
//
// The ways take turns in short rounds, so that what else the machine does hits
// all of them alike. What counts are the ratios within a round, of which the
// median is taken; the microseconds are those of one machine on one day. The
// benchmark fails where a ratio is beyond its limit. Envoy and the service are
// processes of their own, so that their CPU time can be read apart from the
// caller's and the backend's. Throughput means little where other programs run,
// or with fewer than two cores.
package bench
