package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/endpoint"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/provider"
	"github.com/rebearer/rebearer/tokens"
)

// trouble is what a provider can be in.
type trouble struct {
	name string
	set  func(t *testing.T, p *provider.Provider, port *endpoint.Server, on bool)
}

func troubles() []trouble {
	faulty := func(fault provider.Fault) func(*testing.T, *provider.Provider, *endpoint.Server, bool) {
		return func(_ *testing.T, p *provider.Provider, _ *endpoint.Server, on bool) {
			if on {
				p.SetFault(fault)
			} else {
				p.SetFault(provider.FaultNone)
			}
		}
	}
	return []trouble{
		{"down", func(t *testing.T, _ *provider.Provider, port *endpoint.Server, on bool) { setDown(t, port, on) }},
		{"slow", func(_ *testing.T, p *provider.Provider, _ *endpoint.Server, on bool) {
			delay := 10 * time.Second
			if !on {
				delay = 0
			}
			p.SetDelay(delay)
		}},
		{"garbage", faulty(provider.FaultGarbage)},
		{"error", faulty(provider.FaultError)},
		{"closing connections", faulty(provider.FaultClose)},
	}
}

// Trouble at a provider from the start on, whosever it is, is 503 for callers
// and never 401. It does not keep rebearer from being ready, and it is over
// when it is over.
func TestProviderTroubleAtStart(t *testing.T) {
	t.Parallel()
	for _, whose := range []string{"backend's", "callers'"} {
		for _, trouble := range troubles() {
			t.Run(whose+" "+trouble.name, func(t *testing.T) {
				t.Parallel()
				set := func(s *stack, on bool) {
					if whose == "callers'" {
						trouble.set(t, s.callers, s.callersPort, on)
					} else {
						trouble.set(t, s.backend, s.backendPort, on)
					}
				}
				s := newStack(t, newest(), stackOptions{
					provider: "timeout: 1s",
					before:   func(s *stack) { set(s, true) },
				})
				for range 3 {
					s.ask(t).wantUnavailable(t)
				}
				set(s, false)
				await(t, "recovery", func() bool {
					a := s.ask(t)
					if a.status != http.StatusOK {
						a.wantUnavailable(t)
					}
					return a.status == http.StatusOK
				})
				if seen := s.api.Counts(); seen.Requests != 1 {
					t.Errorf("%d requests reached the backend, want only the last one", seen.Requests)
				}
				s.checkLogs(t)
			})
		}
	}
}

// Whatever happens to a provider, a living token goes on being used, also when
// it is due to be renewed.
func TestProviderTroubleLater(t *testing.T) {
	t.Parallel()
	for _, trouble := range troubles() {
		t.Run(trouble.name, func(t *testing.T) {
			t.Parallel()
			s := newStack(t, newest(), stackOptions{
				provider:   "timeout: 1s",
				credential: "expiry: {max: 6s, margin: 6s}", // renewed after half of it
			})
			trouble.set(t, s.backend, s.backendPort, true)
			trouble.set(t, s.callers, s.callersPort, true)
			requests := s.traffic(t, load.Config{Rate: 20})
			await(t, "a renewal to fail", func() bool { return s.events.count(tokens.EventFailed) > 0 })
			if got := requests.end(); got.Failed() > 0 || got.Requests == 0 {
				t.Errorf("%d of %d requests failed: %q", got.Failed(), got.Requests, got.Failures)
			}
			if n := s.events.count(tokens.EventIssued); n != 1 {
				t.Errorf("%d tokens issued, want 1", n)
			}
			trouble.set(t, s.backend, s.backendPort, false)
			await(t, "a token", func() bool {
				return s.events.count(tokens.EventIssued)+s.events.count(tokens.EventRenewed) > 1
			})
			s.ask(t).want(t, http.StatusOK)
		})
	}
}

// Ready means that every provider was asked once, whatever it answered.
func TestReadiness(t *testing.T) {
	t.Parallel()
	for _, whose := range []string{"backend's", "callers'"} {
		t.Run(whose, func(t *testing.T) {
			t.Parallel()
			s := newStack(t, newest(), stackOptions{notReady: true, before: func(s *stack) {
				slow := s.backend
				if whose == "callers'" {
					slow = s.callers
				}
				slow.SetDelay(time.Hour)
			}})
			if status := get(t, s.status[0]+"/readyz"); status != http.StatusServiceUnavailable {
				t.Errorf("/readyz answers %d before the provider was asked, want 503", status)
			}
			if status := get(t, s.status[0]+"/healthz"); status != http.StatusOK {
				t.Errorf("/healthz answers %d, want 200", status)
			}
			awaitReady(t, s.status[0])
			s.ask(t).wantUnavailable(t)
		})
	}
}
