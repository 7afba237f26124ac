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
	client     *http.Client
	mu         sync.Mutex
	known      map[string]bool
	asked      map[string]time.Time
}

// believed is for how long an answer is believed.
const believed = 100 * time.Millisecond

func newIntrospection(url func() string, id, secret string) *introspection {
	return &introspection{
		url: url, id: id, secret: secret, client: &http.Client{Timeout: 5 * time.Second},
		known: map[string]bool{}, asked: map[string]time.Time{},
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
	if active, ok := i.ask(token); ok {
		i.known[token] = active
	}
	i.asked[token] = time.Now()
	return i.known[token]
}

// ask asks the provider. It reports false if there is no answer.
func (i *introspection) ask(token string) (active, ok bool) {
	request, err := http.NewRequest(http.MethodPost, i.url(), strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return false, false
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(i.id, i.secret)
	response, err := i.client.Do(request)
	if err != nil {
		return false, false
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Active bool `json:"active"`
	}
	if response.StatusCode != http.StatusOK || json.NewDecoder(response.Body).Decode(&answer) != nil {
		return false, false
	}
	return answer.Active, true
}
