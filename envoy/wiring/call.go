package wiring

import (
	"fmt"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"

	"github.com/rebearer/rebearer/envoy"
)

// call is a call to our hook.
type call struct {
	*extprocfilterv3.ExternalProcessor
	role   string
	hash   string // of the configuration that it was rendered from
	pushes bool   // Envoy sends the token by itself: no check leaves any metadata
}

// callOf returns the call to the hook that a processor is. It reports false
// where the processor does not say that it is one.
func callOf(p *extprocfilterv3.ExternalProcessor) (call, bool) {
	c := call{ExternalProcessor: p}
	for _, h := range p.GetGrpcService().GetInitialMetadata() {
		switch h.GetKey() {
		case envoy.RoleMetadata:
			c.role = h.GetValue()
		case envoy.ConfigMetadata:
			c.hash = h.GetValue()
		case envoy.CredentialMetadata:
			c.pushes = true
		}
	}
	return c, c.role != ""
}

// faults are what keeps the hook from doing what the call is there for. Nobody
// waits for a call that watches, and what it lacks loses no request.
func (c call) faults() []string {
	if c.role != envoy.RoleObserve && c.role != envoy.RoleInject {
		return nil
	}
	var list []string
	fault := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	told := c.GetMetadataOptions().GetForwardingNamespaces().GetUntyped()
	if !c.pushes && !slices.Contains(told, envoy.CheckNamespace) {
		fault("%s does not tell the hook what the check said of the request, so no rejection is decided on. "+
			"Add %s to its metadata_options.forwarding_namespaces.untyped", c.role, envoy.CheckNamespace)
	}
	if c.GetMessageTimeout() == nil {
		fault("%s has no message_timeout: Envoy waits 200ms, and the hook for a fresh token longer than that. "+
			"Set it to rebearer's hook timeout", c.role)
	}
	mode := c.GetProcessingMode()
	if c.role == envoy.RoleObserve && mode.GetResponseHeaderMode() == extprocfilterv3.ProcessingMode_SKIP {
		fault("observe has response_header_mode SKIP: the hook sees no answer, and rejected requests are not retried. Set it to SEND")
	}
	if c.role == envoy.RoleInject && mode.GetRequestHeaderMode() == extprocfilterv3.ProcessingMode_SKIP {
		fault("inject has request_header_mode SKIP: retried requests are sent the refused token again. Set it to SEND")
	}
	return list
}

// target is where a call goes to: a cluster, as a rule.
func target(s *corev3.GrpcService) string {
	if google := s.GetGoogleGrpc(); google != nil {
		return google.GetTargetUri()
	}
	return s.GetEnvoyGrpc().GetClusterName()
}

// lacks reports whether a call goes to a cluster that is not in the dump.
func (d *dump) lacks(s *corev3.GrpcService) bool {
	return s.GetEnvoyGrpc() != nil && d.clusters[target(s)] == nil
}
