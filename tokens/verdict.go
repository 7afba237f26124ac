package tokens

import "time"

// Verdict is what a rejection says about the backend token that was sent.
type Verdict int

// The verdicts. The zero value is Unclear: without evidence nothing is known.
const (
	// Unclear means that the rejection does not tell, such as a bare 403.
	Unclear Verdict = iota
	// Dead means that the backend no longer accepts the token.
	Dead
	// NotAllowed means that the token is fine and does not suffice.
	NotAllowed
)

// String returns the verdict as logs and metrics show it.
func (v Verdict) String() string {
	switch v {
	case Dead:
		return "dead"
	case NotAllowed:
		return "not_allowed"
	case Unclear:
		return "unclear"
	}
	return "unknown"
}

// Action is what a credential does about rejections.
type Action int

// The actions. The zero value is Retry.
const (
	// Retry evicts a dead token and has the request sent again.
	Retry Action = iota
	// Evict replaces a dead token, and lets the rejection pass.
	Evict
	// Observe only counts and reports.
	Observe
)

// Rejection is a backend's answer that may be about our token.
type Rejection struct {
	// Use is what the check gave the request.
	Use Use
	// Fingerprint is that of the token that the backend refused.
	Fingerprint Fingerprint
	// Attempt counts the tries of the request from 1.
	Attempt int
	// Verdict is what the answer says about the token.
	Verdict Verdict
	// Rule names the rule that gave the verdict.
	Rule string
	// Route tells the routes of a policy apart; it may be empty.
	Route string
	// Retriable is whether this request may be sent again.
	Retriable bool
	// Unheld says that the backend's answer does not wait for ours. Then it goes
	// to the caller, or where it is retriable Envoy sends the request again
	// unasked, and what is decided here is for whoever gives it a token.
	Unheld bool
	// Repeated says that Envoy may have sent the request again unasked, and with
	// the same token. Unless that was just issued, nothing is learned then.
	Repeated bool
	// Uncounted says that the request's token did not come from
	// [Credential.Token], so that nobody knows how many others were accepted.
	Uncounted bool
	// RequestID is Envoy's x-request-id, for the log.
	RequestID string
}

// pair names the caller and route whose probes fall silent together. A 403 that
// was real does not silence an answer that says outright that the token is dead.
func (r Rejection) pair() string {
	return r.Use.Policy + "\x00" + r.Route + "\x00" + string(r.Use.Caller) + "\x00" + r.Verdict.String()
}

// Answer is what is to become of a rejected request.
type Answer int

// The answers. The zero value is Pass.
const (
	// Pass hands the backend's own answer to the caller.
	Pass Answer = iota
	// TryAgain sends the request again: a fresh token is in hand, or the check
	// is to tell the caller that none is given for its own.
	TryAgain
	// Unavailable answers 503: the rejection is about our token, and none of
	// the caller's business.
	Unavailable
)

// String returns the answer as logs and metrics show it.
func (a Answer) String() string {
	switch a {
	case Pass:
		return "pass"
	case TryAgain:
		return "retry"
	case Unavailable:
		return "unavailable"
	}
	return "unknown"
}

// Outcome is the answer to a rejection with its reason.
type Outcome struct {
	// Answer is what is to become of the request.
	Answer Answer
	// Reason says why, in one of the words below.
	Reason Reason
	// RetryAfter goes with Unavailable: when the next try may pass. Zero
	// means at once.
	RetryAfter time.Duration
}

// Reason is a word from a fixed list that says why something happened to a
// token. Logs show it, metrics use it as a label.
type Reason string

// The reasons.
const (
	ReasonFirst        Reason = "first"         // no token was held
	ReasonExpired      Reason = "expired"       // the token had expired
	ReasonRenewal      Reason = "renewal"       // the token was about to expire
	ReasonDead         Reason = "dead"          // a rejection said that the token is dead
	ReasonProbe        Reason = "probe"         // an unclear rejection was probed
	ReasonProportion   Reason = "proportion"    // many more requests than usual came back refused
	ReasonSuspect      Reason = "suspect"       // a retried request met a token that may be as dead
	ReasonFlush        Reason = "flush"         // an operator flushed it
	ReasonLate         Reason = "late"          // the refused token had been replaced already
	ReasonAgain        Reason = "refused_again" // a fresh token was refused as well
	ReasonSameToken    Reason = "same_token"    // the provider gave the refused token again
	ReasonNotAllowed   Reason = "not_allowed"   // the token is fine and does not suffice
	ReasonObserve      Reason = "observe"       // the credential only observes
	ReasonEvict        Reason = "evict"         // the credential evicts and does not retry
	ReasonNotRetriable Reason = "not_retriable" // the request may not be sent again
	ReasonQuiet        Reason = "quiet"         // others pass, or the last trial did not help
	ReasonBudget       Reason = "budget"        // the token bucket is empty
	ReasonNoToken      Reason = "no_token"      // no fresh token could be had
	ReasonPaused       Reason = "paused"        // an operator paused the credential
	ReasonSpread       Reason = "spread"        // its provider voided another token
	ReasonBypass       Reason = "bypass"        // every request fetches one
	ReasonDropped      Reason = "dropped"       // nobody uses it any more
	ReasonSimulated    Reason = "simulated"     // an operator simulates a dead token
	ReasonNoSubject    Reason = "no_subject"    // the caller's own token is not at hand
	ReasonSubject      Reason = "subject"       // the provider refused the caller's own token
	ReasonGone         Reason = "gone"          // the caller did not wait
	ReasonAccepted     Reason = "accepted"      // the backend accepted the token
	ReasonRepeated     Reason = "repeated"      // the same token was refused to the same request; no event tells of it
)
