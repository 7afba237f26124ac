package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// introspection is how a resource server finds out about tokens that it cannot
// read (RFC 7662): it asks the provider now and then, and goes by the last
// answer in between and while there is none.
type introspection struct {
	url        func() string // the endpoint
	id, secret string        // the resource server's own client
	strict     bool          // no token is good while there is no answer
	client     *http.Client
	mu         sync.Mutex
	known      map[string]bool
	asked      map[string]time.Time
	good       map[string]introspected // of tokens that were active once
}

// introspected is what a provider says of an active token.
type introspected struct {
	Active  bool   `json:"active"`
	Subject string `json:"sub"`
	Client  string `json:"client_id"`
}

// believed is for how long an answer is believed.
const believed = 100 * time.Millisecond

func newIntrospection(url func() string, id, secret string) *introspection {
	return &introspection{
		url: url, id: id, secret: secret, client: &http.Client{Timeout: 5 * time.Second},
		known: map[string]bool{}, asked: map[string]time.Time{}, good: map[string]introspected{},
	}
}

// valid reports whether the provider says, or last said, that the token is
// active.
func (i *introspection) valid(token string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.asked[token]) < believed {
		return i.known[token]
	}
	if answer, ok := i.ask(token); ok || i.strict {
		i.known[token] = answer.Active
		if answer.Active {
			i.good[token] = answer
		}
	}
	i.asked[token] = time.Now()
	return i.known[token]
}

// about returns what the provider said of a token while it was active.
func (i *introspection) about(token string) introspected {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.good[token]
}

// ask asks the provider. It reports false if there is no answer.
func (i *introspection) ask(token string) (answer introspected, ok bool) {
	request, err := http.NewRequest(http.MethodPost, i.url(), strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return introspected{}, false
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(i.id, i.secret)
	response, err := i.client.Do(request)
	if err != nil {
		return introspected{}, false
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK || json.NewDecoder(response.Body).Decode(&answer) != nil {
		return introspected{}, false
	}
	return answer, true
}
