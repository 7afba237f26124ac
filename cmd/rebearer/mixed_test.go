package main

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
)

// A policy without push stands beside one with it that has all paths: each request
// goes the way of its own policy, with that policy's token, and no caller can say
// in a header of his own who he is.
func TestMixedDelivery(t *testing.T) {
	const subject, key = "X-Caller-Subject", "X-Stock-Key"
	everyWay(t, func(t *testing.T, w way) {
		for _, shape := range []string{"nested", "lean"} {
			s := newStack(t, newest(), stackOptions{
				way: w, envoyKeys: "shape: " + shape,
				credentials: []string{fmt.Sprintf("stock: {clients: [{provider: backend, id: %q, secret_file: secret}], scopes: [stock], header: {name: x-stock-key}}", gatewayID)},
				policies:    []string{"stock: {callers: [shop], credential: stock, forward: {subject: x-caller-subject}}"},
				wrap:        acceptsEither(key),
			})
			s.awaitPushed(t, "orders")
			for range 2 { // with living tokens and with dead ones
				forged := with(subject, "somebody else")
				a := s.send(t, http.MethodGet, api.EchoPath, nil, forged)
				a.want(t, http.StatusOK)
				if h := a.echo(t).Headers; h.Get(subject) != "" || h.Get(key) != "" {
					t.Errorf("%s: with push the backend sees %v", shape, h)
				}
				a = s.send(t, http.MethodGet, "/stock"+api.EchoPath, nil, forged)
				a.want(t, http.StatusOK)
				if h := a.echo(t).Headers; h.Get(subject) != callerID || h.Get(key) == "" {
					t.Errorf("%s: without push the backend sees %v", shape, h)
				}
				s.restart(t)
			}
			s.checkLogs(t)
		}
	}, pushed)
}

// acceptsEither has an API take its token from another header too, and still show
// that it was there.
func acceptsEither(header string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if key := r.Header.Get(header); key != "" {
				r.Header.Set("Authorization", key)
			}
			next.ServeHTTP(w, r)
		})
	}
}
