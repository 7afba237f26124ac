package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// metadataLife is how long metadata is used before it is asked for again.
	// It goes on being used when that fails: endpoints hardly ever move.
	metadataLife = time.Hour
	// failurePause is how long a failure stands for the provider's answer, so
	// that many waiting requests do not ask one that is down each on its own.
	failurePause = time.Second
)

// endpoints are the URLs that a provider's metadata names.
type endpoints map[Endpoint]string

// discovery holds a provider's metadata, and gets it when it is needed. All
// who need it at once share one fetch, which no one's leaving ends.
type discovery struct {
	fetch   func(context.Context) (endpoints, error)
	timeout time.Duration
	flight  singleflight.Group

	mu      sync.Mutex
	found   endpoints // of the last fetch that succeeded; nil before
	fetched time.Time // when that was
	err     error     // of the last fetch; nil when it succeeded
	failed  time.Time // when it failed
}

// get returns the metadata, and blocks for it only while none was ever got.
func (d *discovery) get(ctx context.Context) (endpoints, error) {
	found, wanted, err := d.known(time.Now())
	if !wanted {
		return found, err
	}
	flight := d.flight.DoChan("", func() (any, error) {
		// Another fetch may have ended since.
		if _, wanted, err := d.known(time.Now()); !wanted {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.timeout)
		defer cancel()
		return nil, d.refresh(ctx)
	})
	if found != nil {
		return found, nil
	}
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("still being fetched: %w", ctx.Err())
	case result := <-flight:
		if result.Err != nil {
			return nil, result.Err
		}
		found, _, err := d.known(time.Now())
		return found, err
	}
}

// known returns what is known, and whether it should be fetched now.
func (d *discovery) known(now time.Time) (found endpoints, wanted bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.err != nil && now.Sub(d.failed) < failurePause:
		wanted = false
	case d.found == nil:
		wanted = true
	default:
		wanted = now.Sub(d.fetched) >= metadataLife
	}
	if d.found != nil {
		return d.found, wanted, nil
	}
	return nil, wanted, d.err
}

// refresh fetches the metadata and notes the outcome.
func (d *discovery) refresh(ctx context.Context) error {
	found, err := d.fetch(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	if err != nil {
		d.failed = time.Now()
		return err
	}
	d.found, d.fetched = found, time.Now()
	return nil
}

// discover fetches the metadata from the first of its well-known addresses
// that has a document with the configured issuer.
func (p *Provider) discover(ctx context.Context) (endpoints, error) {
	addresses, err := metadataURLs(p.issuer)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, address := range addresses {
		body, err := get(ctx, p.answers, address)
		if err == nil {
			var found endpoints
			if found, err = p.readMetadata(body); err == nil {
				return found, nil
			}
		}
		failures = append(failures, fmt.Errorf("%s: %w", address, err))
	}
	return nil, errors.Join(failures...)
}

// metadataURLs returns where a provider's metadata may be: as OpenID Connect
// Discovery section 4 puts it, after the issuer, and as RFC 8414 section 3
// does, between host and path.
func metadataURLs(issuer string) ([]string, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, errors.New("the issuer is not a URL")
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	origin := u.Scheme + "://" + u.Host
	return []string{
		origin + path + "/.well-known/openid-configuration",
		origin + "/.well-known/oauth-authorization-server" + path,
	}, nil
}

// readMetadata reads a metadata document. The issuer must be the configured
// one to the letter (RFC 8414 section 3.3), and a provider that is asked over
// https cannot send us to http.
func (p *Provider) readMetadata(body []byte) (endpoints, error) {
	// A map, because encoding/json matches the fields of a struct without
	// regard to case.
	var document map[string]json.RawMessage
	if err := json.Unmarshal(body, &document); err != nil {
		return nil, errors.New("not a JSON object")
	}
	var issuer string
	if err := json.Unmarshal(document["issuer"], &issuer); err != nil || issuer != p.issuer {
		return nil, errors.New("its issuer is not the configured one")
	}
	found := endpoints{}
	if err := p.readEndpoints(found, document, func(e Endpoint) Endpoint { return e }); err != nil {
		return nil, err
	}
	aliases, ok := document["mtls_endpoint_aliases"]
	if !ok {
		return found, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(aliases, &members); err != nil {
		return nil, errors.New("mtls_endpoint_aliases is not an object")
	}
	return found, p.readEndpoints(found, members, mutualTLSAlias)
}

// readEndpoints adds the URLs among members to found, under the names that name
// gives them.
func (p *Provider) readEndpoints(found endpoints, members map[string]json.RawMessage, name func(Endpoint) Endpoint) error {
	for _, endpoint := range []Endpoint{TokenEndpoint, JWKSEndpoint, IntrospectionEndpoint, RevocationEndpoint} {
		member, ok := members[string(endpoint)]
		if !ok {
			continue
		}
		var address string
		if err := json.Unmarshal(member, &address); err != nil {
			return fmt.Errorf("%s is not a string", name(endpoint))
		}
		if err := p.checkDiscovered(address); err != nil {
			return fmt.Errorf("%s: %w", name(endpoint), err)
		}
		found[name(endpoint)] = address
	}
	return nil
}

// checkDiscovered is checkURL for an address that the metadata named.
func (p *Provider) checkDiscovered(address string) error {
	if strings.HasPrefix(p.issuer, "https:") && !strings.HasPrefix(address, "https:") {
		return errors.New("must be an https URL, as the issuer is")
	}
	return checkURL(address, p.insecure)
}
