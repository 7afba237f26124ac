package rejection

import (
	"net/http"
	"strings"

	"github.com/rebearer/rebearer/tokens"
)

// Response is the part of a backend's answer that verdicts are found on.
type Response struct {
	// Status is the HTTP status.
	Status int
	// GRPCStatus is the grpc-status header of a trailers-only gRPC answer, or
	// empty.
	GRPCStatus string
	// WWWAuthenticate are the WWW-Authenticate field lines.
	WWWAuthenticate []string
	// ContentType is the Content-Type field, or empty.
	ContentType string
	// Body is the whole body; nil where it was not read.
	Body []byte
}

// Decision is a verdict with what gave it.
type Decision struct {
	Verdict tokens.Verdict
	// Rule is the name of the evidence, as logs and metrics show it: one of
	// the constants below, "preset:" with the name of a preset, or "rule:" with
	// that of a configured rule. There are no others, so it may be a label.
	Rule string
}

// The evidence that needs no configuration.
const (
	RuleChallenge       = "challenge"
	RuleChallengeScheme = "challenge_scheme"
	RuleGRPCStatus      = "grpc_status"
	RuleStatus          = "status"
)

// RuleIntrospection is the evidence of the token's provider (RFC 7662). This
// package does not ask it: whoever does replaces a decision that is
// [Decision.ByStatus].
const RuleIntrospection = "introspection"

// GRPCUnauthenticated is the grpc-status that says so (gRPC status codes).
const GRPCUnauthenticated = "16"

// ByStatus reports a decision for which there was no other evidence.
func (d Decision) ByStatus() bool { return d.Rule == RuleStatus || d.Rule == RuleGRPCStatus }

// Decide returns the decision on a rejection. A nil Rules has no rules for
// bodies.
func (rs *Rules) Decide(r Response) Decision {
	challenges := ParseChallenges(r.WWWAuthenticate)
	if verdict, ok := byError(challenges); ok {
		return Decision{verdict, RuleChallenge}
	}
	if d, ok := rs.byBody(r); ok {
		return d
	}
	switch {
	case r.Status == http.StatusUnauthorized && asksForNoToken(challenges):
		return Decision{tokens.NotAllowed, RuleChallengeScheme}
	case r.GRPCStatus == GRPCUnauthenticated:
		return Decision{tokens.Dead, RuleGRPCStatus}
	case r.Status == http.StatusUnauthorized:
		return Decision{tokens.Dead, RuleStatus}
	case r.Status == http.StatusBadRequest:
		// A bad request. Some systems say so of tokens, but never only so.
		return Decision{tokens.NotAllowed, RuleStatus}
	}
	return Decision{tokens.Unclear, RuleStatus}
}

// WantsBody reports whether the body of a rejection may change the decision:
// some rule reads bodies of its status and content type, and no challenge has
// decided.
func (rs *Rules) WantsBody(r Response) bool {
	if _, ok := byError(ParseChallenges(r.WWWAuthenticate)); ok {
		return false
	}
	return rs.reads(r)
}

// takesToken reports whether a scheme is one that an access token is sent with.
// No scheme at all counts as one: such servers mean ours.
func takesToken(scheme string) bool {
	switch strings.ToLower(scheme) {
	case "", "bearer", "dpop", "oauth2", "oauth":
		return true
	}
	return false
}

// verdictOf returns what an error code of a challenge says. A code that nobody
// registered says nothing: "token_expired" was seen, and it is not the only one.
func verdictOf(code string) (verdict tokens.Verdict, known bool) {
	switch strings.ToLower(code) {
	case "invalid_token", // RFC 6750 section 3.1
		"insufficient_claims": // how Microsoft's continuous access evaluation revokes a token
		return tokens.Dead, true
	case "insufficient_scope", "invalid_request", // RFC 6750 section 3.1
		"use_dpop_nonce", "invalid_dpop_proof", // RFC 9449 section 7.1
		"insufficient_user_authentication": // RFC 9470 section 3
		return tokens.NotAllowed, true
	}
	return tokens.Unclear, false
}

// byError returns what the error parameters of the challenges say, if they say
// one thing.
func byError(challenges []Challenge) (tokens.Verdict, bool) {
	var verdict tokens.Verdict
	found := false
	for _, c := range challenges {
		v, known := verdictOf(c.Params["error"])
		if !known || !takesToken(c.Scheme) {
			continue
		}
		if found && v != verdict {
			return tokens.Unclear, false
		}
		verdict, found = v, true
	}
	return verdict, found
}

// asksForNoToken reports whether there are challenges and none takes a token.
func asksForNoToken(challenges []Challenge) bool {
	for _, c := range challenges {
		if takesToken(c.Scheme) {
			return false
		}
	}
	return len(challenges) > 0
}
