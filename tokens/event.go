package tokens

import "time"

// Kind is what happened in a token's life.
type Kind string

// The life-cycle events.
const (
	EventIssued    Kind = "issued"    // a token came from the provider
	EventRenewed   Kind = "renewed"   // a token came before the old one expired
	EventRejected  Kind = "rejected"  // a backend refused a token
	EventEvicted   Kind = "evicted"   // a token was replaced or dropped before its end
	EventRetried   Kind = "retried"   // a request that was sent again came to its end
	EventRecovered Kind = "recovered" // the first retried request passed
	EventRevoked   Kind = "revoked"   // a token was revoked at its provider
	EventExpired   Kind = "expired"   // a token reached its end
	EventFailed    Kind = "failed"    // a token request failed
	EventPaused    Kind = "paused"    // an operator paused the credential
	EventResumed   Kind = "resumed"   // an operator resumed the credential
)

// Event is one moment in a token's life. It holds no token.
type Event struct {
	// Time is when it happened.
	Time time.Time
	// Kind is what happened.
	Kind Kind
	// Credential is the name of the credential.
	Credential string
	// Provider is the name of its provider.
	Provider string
	// Generation and Fingerprint are those of the token that it happened to;
	// zero if there was none.
	Generation  uint64
	Fingerprint Fingerprint
	// Reason says why.
	Reason Reason
	// Verdict and Rule go with EventRejected.
	Verdict Verdict
	Rule    string
	// Answer goes with EventRejected: what became of the request.
	Answer Answer
	// Attempt is the try that it happened on, or 0.
	Attempt int
	// Latency is how long the provider took (EventIssued, EventRenewed), how
	// long a rejection was held (EventRejected), or the time since the first
	// rejection (EventRecovered).
	Latency time.Duration
	// Expires is when the token ends; zero if that is not known.
	Expires time.Time
	// RequestID is Envoy's x-request-id where a request caused it.
	RequestID string
	// Err is the cause of EventFailed. It holds no token and no secret.
	Err error
}

// Observer is told of every event. It is called from several goroutines at once
// and while locks are held: it must not block and must not call back into the
// package.
type Observer func(Event)
