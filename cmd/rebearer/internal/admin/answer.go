package admin

import (
	"time"

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
	// State is "alive" if a token can be handed out, "none" if not.
	State string `json:"state"`
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
	// Uses counts the requests that were given its tokens.
	Uses uint64 `json:"uses"`
	// Fetching is whether a token request is in flight.
	Fetching bool `json:"fetching"`
	// Trials is how many token requests rejections may cause at once now.
	Trials int `json:"trials"`
	// Failures counts the token requests that failed since the last success,
	// and Error is the last one's.
	Failures int    `json:"failures"`
	Error    string `json:"error,omitempty"`
}

func describe(s tokens.Status) Credential {
	c := Credential{
		Name: s.Name, Provider: s.Provider, State: "none", Paused: s.Paused,
		Generation: s.Token.Generation, Fingerprint: string(s.Token.Fingerprint),
		Issued: moment(s.Token.Issued), Expires: moment(s.Token.Expires), Renewal: moment(s.Renewal),
		Uses: s.Uses, Fetching: s.Fetching, Trials: s.Trials, Failures: s.Failures,
	}
	if s.Alive {
		c.State = "alive"
	}
	if s.Err != nil {
		c.Error = s.Err.Error()
	}
	return c
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
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
