package main

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
	"github.com/rebearer/rebearer/tokens"
)

// When one credential's token was found dead, the token that another has from the
// same provider is renewed before any caller finds out.
func TestSuspicion(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s := newStack(t, newest(), stackOptions{
			way: w, rejection: api.Challenge, record: 10,
			credentials: []string{fmt.Sprintf("stock: {clients: [{provider: backend, id: %q, secret_file: secret}], scopes: [stock]}", gatewayID)},
			policies:    []string{"stock: {callers: [shop], credential: stock" + w.delivery() + "}"},
		})
		s.ask(t).want(t, http.StatusOK)
		s.send(t, http.MethodGet, "/stock/", nil).want(t, http.StatusOK)
		s.restart(t)
		s.ask(t).want(t, http.StatusOK)
		await(t, "the other token to be renewed", func() bool { return s.events.count(tokens.EventIssued) == 4 })
		s.awaitPushed(t, "stock")
		s.send(t, http.MethodGet, "/stock/", nil).want(t, http.StatusOK)
		s.wantTries(t, http.StatusOK, http.StatusOK, http.StatusUnauthorized, http.StatusOK, http.StatusOK)
		if asked := s.backend.Counts().TokenRequests; asked != 4 {
			t.Errorf("%d token requests, want 4", asked)
		}
	})
}
