package admin

import (
	"time"

	"github.com/rebearer/rebearer/envoy/secrets"
	"github.com/rebearer/rebearer/tokens"
)

// List is the answer to GET /v1/credentials.
type List struct {
	// Credentials are all of them, by name.
	Credentials []Credential `json:"credentials"`
}

// Credential is a credential's state at one moment.
type Credential struct {
	// Name and Provider are the configuration's.
	Name     string `json:"name"`
	Provider string `json:"provider"`
	// State is "alive" if a token can be handed out and "none" if not, or "on
	// request" where tokens are fetched for requests only.
	State string `json:"state"`
	// Cache is "cached" or "bypass".
	Cache string `json:"cache"`
	// Subjects is how many tokens are held on behalf of callers.
	Subjects int `json:"subjects"`
	// Paused is whether an operator stopped its token requests.
	Paused bool `json:"paused"`
	// Generation and Fingerprint are those of the last token.
	Generation  uint64 `json:"generation"`
	Fingerprint string `json:"fingerprint,omitempty"`
	// Issued, Expires and Renewal are the token's times; Renewal is when the
	// next one is fetched.
	Issued  *time.Time `json:"issued,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Renewal *time.Time `json:"renewal,omitempty"`
	// Uses counts the requests that were given its tokens, and Bypassed those
	// of them that got one of their own.
	Uses     uint64 `json:"uses"`
	Bypassed uint64 `json:"bypassed"`
	// Fetching is whether a token request is in flight.
	Fetching bool `json:"fetching"`
	// Trials is how many token requests rejections may cause at once now.
	Trials int `json:"trials"`
	// Failures counts the token requests that failed since the last success,
	// and Error is the last one's.
	Failures int    `json:"failures"`
	Error    string `json:"error,omitempty"`
	// Unsaved is why its refresh token could not be written: it is lost when the
	// service ends.
	Unsaved string `json:"refresh_token_unsaved,omitempty"`
	// Clients are its clients, in the order in which they are tried.
	Clients []ClientHealth `json:"clients,omitempty"`
}

// ClientHealth is the health of one of a credential's clients.
type ClientHealth struct {
	// Provider and ID are the configuration's.
	Provider string `json:"provider"`
	ID       string `json:"id"`
	// Breaker is the state of its circuit breaker: closed, open or half-open.
	Breaker string `json:"breaker"`
	// Refused is whether the provider refused the client at the last try:
	// somebody has to look into it.
	Refused bool `json:"refused"`
	// Failures counts the token requests that failed since the last success,
	// and Error is the last one's.
	Failures int    `json:"failures"`
	Error    string `json:"error,omitempty"`
	// NextTry is when it is tried again in its turn; absent if it may be now.
	NextTry *time.Time `json:"next_try,omitempty"`
}

// describe puts a credential's state into the words of the answer.
func (a *api) describe(one *tokens.Credential) Credential {
	s, more := one.Status(), Details{}
	if a.cfg.Details != nil {
		more = a.cfg.Details(s.Name)
	}
	c := Credential{
		Name: s.Name, Provider: s.Provider, State: "none", Cache: "cached", Subjects: s.Subjects, Paused: s.Paused,
		Generation: s.Token.Generation, Fingerprint: string(s.Token.Fingerprint),
		Issued: moment(s.Token.Issued), Expires: moment(s.Token.Expires), Renewal: moment(s.Renewal),
		Uses: s.Uses, Bypassed: s.Bypassed, Fetching: s.Fetching, Trials: s.Trials, Failures: s.Failures, Error: text(s.Err),
	}
	switch {
	case s.OnRequest:
		c.State = "on request"
	case s.Alive:
		c.State = "alive"
	}
	if more.Bypass {
		c.Cache = "bypass"
	}
	c.Unsaved = text(more.Unsaved)
	for _, h := range more.Clients {
		c.Clients = append(c.Clients, ClientHealth{
			Provider: h.Provider, ID: h.Client, Breaker: string(h.State), Refused: h.Alarm,
			Failures: h.Failures, Error: text(h.Err), NextTry: moment(h.NextTry),
		})
	}
	return c
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

// Envoys is the answer to GET /v1/envoys.
type Envoys struct {
	// Envoys are those that are connected for secrets, by name.
	Envoys []Envoy `json:"envoys"`
}

// Envoy is an Envoy that asks for backend tokens (delivery: push).
type Envoy struct {
	// Node, Cluster and Version are what it says of itself.
	Node    string `json:"node"`
	Cluster string `json:"cluster"`
	Version string `json:"version,omitempty"`
	// Peer is who is at the other end.
	Peer string `json:"peer"`
	// Since is when it connected.
	Since *time.Time `json:"since,omitempty"`
	// Secrets are those that it asks for.
	Secrets []Secret `json:"secrets"`
}

// Secret is a backend token as an Envoy has it: fingerprints only.
type Secret struct {
	// Credential is whose token it is.
	Credential string `json:"credential"`
	// Sent was sent last, Acknowledged is in use, and Refused was refused after
	// that, for the Reason that Envoy gave.
	Sent         string `json:"sent,omitempty"`
	Acknowledged string `json:"acknowledged,omitempty"`
	Refused      string `json:"refused,omitempty"`
	Reason       string `json:"reason,omitempty"`
}

func describeEnvoy(n secrets.NodeStatus) Envoy {
	e := Envoy{Node: n.Node, Cluster: n.Cluster, Version: n.Version, Peer: n.Peer, Since: moment(n.Since), Secrets: []Secret{}}
	for _, s := range n.Secrets {
		e.Secrets = append(e.Secrets, Secret{
			Credential: s.Credential, Sent: string(s.Sent), Acknowledged: string(s.Acknowledged), Refused: string(s.Refused), Reason: s.Reason,
		})
	}
	return e
}

// FlushRequest is the body of POST /v1/flush: one of its fields.
type FlushRequest struct {
	// Credential is the one to flush.
	Credential string `json:"credential,omitempty"`
	// All flushes every credential.
	All bool `json:"all,omitempty"`
}

// FlushAnswer is the answer to POST /v1/flush.
type FlushAnswer struct {
	// Flushed are the credentials whose token was dropped; another is being
	// fetched.
	Flushed []string `json:"flushed"`
	// Paused are those that were left alone because they are paused.
	Paused []string `json:"paused"`
}

// LogLevel is the body of /v1/log-level.
type LogLevel struct {
	// Level is debug, info, warn or error, in any case.
	Level string `json:"level"`
}

// Problem is the body of an answer that is an error (RFC 9457).
type Problem struct {
	// Title is the status in words.
	Title string `json:"title"`
	// Status is the HTTP status.
	Status int `json:"status"`
	// Detail says what is wrong and what to do.
	Detail string `json:"detail"`
}
