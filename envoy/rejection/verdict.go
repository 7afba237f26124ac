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
}

// The rules, as logs and metrics name them.
const (
	RuleChallenge       = "challenge"
	RuleChallengeScheme = "challenge_scheme"
	RuleGRPCStatus      = "grpc_status"
	RuleStatus          = "status"
)

// GRPCUnauthenticated is the grpc-status that says so (gRPC status codes).
const GRPCUnauthenticated = "16"

// Decide returns the verdict on a rejection and the rule that gave it.
func Decide(r Response) (tokens.Verdict, string) {
	challenges := ParseChallenges(r.WWWAuthenticate)
	if verdict, ok := byError(challenges); ok {
		return verdict, RuleChallenge
	}
	switch {
	case r.Status == http.StatusUnauthorized && asksForNoToken(challenges):
		return tokens.NotAllowed, RuleChallengeScheme
	case r.GRPCStatus == GRPCUnauthenticated:
		return tokens.Dead, RuleGRPCStatus
	case r.Status == http.StatusUnauthorized:
		return tokens.Dead, RuleStatus
	}
	return tokens.Unclear, RuleStatus
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

// byError returns what the error parameters of the challenges say, if they say
// one thing.
func byError(challenges []Challenge) (tokens.Verdict, bool) {
	var verdict tokens.Verdict
	found := false
	for _, c := range challenges {
		code := c.Params["error"]
		if code == "" || !takesToken(c.Scheme) {
			continue
		}
		v := tokens.NotAllowed
		switch strings.ToLower(code) {
		case "invalid_token", "insufficient_claims":
			// insufficient_claims is how Microsoft's continuous access
			// evaluation revokes a token.
			v = tokens.Dead
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
