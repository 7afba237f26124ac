package admin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/admin"
	"github.com/rebearer/rebearer/envoy/secrets"
	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// What a credential does not know of itself stands beside what it does.
func TestListShowsHealth(t *testing.T) {
	t.Parallel()
	next := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	f := newFixture(t, func(c *admin.Config) {
		c.Details = func(credential string) admin.Details {
			if credential != "orders" {
				return admin.Details{Bypass: true}
			}
			return admin.Details{Clients: []oauth.MemberHealth{
				{Provider: "shop", Client: "a", State: oauth.BreakerOpen, Failures: 2, Err: errors.New("invalid_client"), Alarm: true, NextTry: next},
				{Provider: "lab", Client: "b", State: oauth.BreakerClosed},
			}}
		}
	})
	list, err := admin.NewClient(f.address, "").List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := admin.List{Credentials: []admin.Credential{
		{Name: "orders", Provider: "shop", State: "none", Cache: "cached", Trials: 5, Clients: []admin.ClientHealth{
			{Provider: "shop", ID: "a", Breaker: "open", Refused: true, Failures: 2, Error: "invalid_client", NextTry: &next},
			{Provider: "lab", ID: "b", Breaker: "closed"},
		}},
		{Name: "stock", Provider: "shop", State: "none", Cache: "bypass", Trials: 5},
	}}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEnvoys(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		envoys func() []secrets.NodeStatus
		want   string
	}{
		"push is not used": {nil, `{"envoys":[]}`},
		"two": {
			func() []secrets.NodeStatus {
				return []secrets.NodeStatus{
					{Node: "a", Cluster: "edge", Version: "1.40.0", Peer: "unix socket", Since: since, Secrets: []secrets.SecretStatus{
						{Credential: "orders", Sent: "02", Acknowledged: "01", Refused: "02", Reason: "no"},
					}},
					{Node: "b", Peer: "envoy.example at 10.0.0.1:7"},
				}
			},
			`{"envoys":[{"node":"a","cluster":"edge","version":"1.40.0","peer":"unix socket","since":"2026-11-21T12:00:00Z",` +
				`"secrets":[{"credential":"orders","sent":"02","acknowledged":"01","refused":"02","reason":"no"}]},` +
				`{"node":"b","cluster":"","peer":"envoy.example at 10.0.0.1:7","secrets":[]}]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, func(c *admin.Config) { c.Envoys = tt.envoys })
			var got bytes.Buffer
			if err := json.Compact(&got, []byte(f.ask(t, request{method: "GET", path: "/v1/envoys"}).body)); err != nil {
				t.Fatal(err)
			}
			if got.String() != tt.want+"\n" && got.String() != tt.want {
				t.Errorf("got %s", &got)
			}
		})
	}
}

// A simulation is refused unless the configuration allows it.
func TestVoid(t *testing.T) {
	t.Parallel()
	off := newFixture(t)
	off.warm(t)
	if _, err := admin.NewClient(off.address, "").Void(t.Context(), "orders"); err == nil || !strings.Contains(err.Error(), "server.admin.allow_simulation: true") {
		t.Errorf("without being allowed: %v", err)
	}
	f := newFixture(t, func(c *admin.Config) { c.Simulation = true })
	client := admin.NewClient(f.address, "")
	if _, err := client.Void(t.Context(), "orders"); err == nil || !strings.Contains(err.Error(), tokens.ErrNothingHeld.Error()) {
		t.Errorf("without a token: %v", err)
	}
	if _, err := client.Void(t.Context(), "order"); err == nil || !strings.Contains(err.Error(), `no credential "order"`) {
		t.Errorf("an unknown one: %v", err)
	}
	f.warm(t)
	before, err := f.credentials["orders"].Token(t.Context(), tokens.Request{})
	if err != nil {
		t.Fatal(err)
	}
	after, err := client.Void(t.Context(), "orders")
	if err != nil || after.State != "alive" || after.Fingerprint == string(before.Fingerprint) {
		t.Errorf("got %+v, %v", after, err)
	}
	if !strings.Contains(f.log.String(), "change=void credential=orders") {
		t.Errorf("log: %s", f.log)
	}
}
