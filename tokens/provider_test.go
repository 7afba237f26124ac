package tokens

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// provider is a Source that knows on whose behalf it is asked, and keeps book of
// the refresh tokens that it gave.
type provider struct {
	life        time.Duration // stated of access tokens
	refreshes   bool          // a refresh token comes with every access token
	keeps       bool          // a refresh token stays good when it is used
	refreshLife time.Duration // stated of refresh tokens
	slow        time.Duration // how long a request takes
	client      int           // that gets the tokens
	refuses     func(GrantRequest) error
	revokes     func(token Secret) error // nil revokes all

	mu        sync.Mutex
	asked     int             // token requests
	refreshed int             // those of them with a refresh token
	revoked   int             // refresh tokens that were revoked
	most      int             // refresh tokens that lived at once
	living    map[Secret]bool // refresh tokens that are neither used nor revoked
	faults    []string        // what a client must not do
}

// Grant implements Source.
func (p *provider) Grant(ctx context.Context, r GrantRequest) (Grant, error) {
	n, slow := p.take(r)
	if err := sleep(ctx, slow); err != nil {
		return Grant{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuses != nil {
		if err := p.refuses(r); err != nil {
			return Grant{}, err
		}
	}
	g := Grant{AccessToken: Secret(fmt.Sprintf("%s/%d", r.Subject.Reveal(), n)), ExpiresIn: p.life, Client: p.client}
	switch {
	case p.keeps && r.Refresh != "":
		g.RefreshToken = r.Refresh
	case p.refreshes:
		g.RefreshToken = Secret(fmt.Sprintf("refresh %d of client %d", n, p.client))
	}
	if g.RefreshToken != r.Refresh {
		delete(p.living, r.Refresh)
	}
	if g.RefreshToken == "" {
		return g, nil
	}
	g.RefreshExpiresIn = p.refreshLife
	if p.living == nil {
		p.living = map[Secret]bool{}
	}
	p.living[g.RefreshToken] = true
	p.most = max(p.most, len(p.living))
	return g, nil
}

// set changes the provider.
func (p *provider) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// take counts a request and looks at its refresh token. It returns the request's
// number, and how long the answer takes.
func (p *provider) take(r GrantRequest) (int, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if r.Refresh == "" {
		return p.asked, p.slow
	}
	p.refreshed++
	if !p.living[r.Refresh] {
		p.fault("%s was used, which no longer lives", r.Refresh.Reveal())
	}
	if !strings.HasSuffix(r.Refresh.Reveal(), fmt.Sprint(" ", r.Client)) {
		p.fault("%s was used by client %d", r.Refresh.Reveal(), r.Client)
	}
	return p.asked, p.slow
}

// Revoke implements Source.
func (p *provider) Revoke(_ context.Context, client int, token Secret) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.revokes != nil {
		if err := p.revokes(token); err != nil {
			return err
		}
	}
	if !p.living[token] {
		p.fault("%s was revoked, which no longer lives", token.Reveal())
	}
	if !strings.HasSuffix(token.Reveal(), fmt.Sprint(" ", client)) {
		p.fault("%s was revoked by client %d", token.Reveal(), client)
	}
	delete(p.living, token)
	p.revoked++
	return nil
}

func (p *provider) fault(format string, args ...any) {
	p.faults = append(p.faults, fmt.Sprintf(format, args...))
}

// count is what a provider has counted.
type count struct{ asked, refreshed, revoked, living int }

func (p *provider) count() count {
	p.mu.Lock()
	defer p.mu.Unlock()
	return count{p.asked, p.refreshed, p.revoked, len(p.living)}
}

// later is count when what was dropped until now has been revoked.
func (p *provider) later() count {
	time.Sleep(inUse + time.Minute)
	synctest.Wait()
	return p.count()
}

// check fails the test where a client did what it must not.
func (p *provider) check(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, fault := range p.faults {
		if i == 10 {
			t.Errorf("and %d more", len(p.faults)-i)
			break
		}
		t.Error(fault)
	}
}

// onBehalf is of a credential whose tokens are callers'.
func onBehalf(c *Config) { c.OnBehalf = true }

// behalfOf is the request of a caller.
func behalfOf(caller string) Request { return Request{Subject: Subject{Token: Secret(caller)}} }

// mustTokenOf returns the token of a caller's first try, which must be his.
func mustTokenOf(t *testing.T, c *Credential, caller string) Token {
	t.Helper()
	token, err := c.Token(t.Context(), behalfOf(caller))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(token.Value.Reveal(), caller+"/") {
		t.Fatalf("%s was given %s", caller, token.Value.Reveal())
	}
	return token
}

// refusalFor is the rejection of a caller's token.
func refusalFor(caller string, token Token, attempt int, verdict Verdict) Rejection {
	r := refusalOf(token, attempt, verdict)
	r.Use.Caller, r.Use.Subject = Fingerprint(caller), token.Subject
	return r
}
