package render

import (
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rebearer/rebearer/envoy"
)

const (
	jwtFilter  = "envoy.filters.http.jwt_authn"
	rbacFilter = "envoy.filters.http.rbac"

	// headerKey is where jwt_authn leaves the head of a caller's token.
	headerKey = "header"

	// keysInterval is how long a key that the issuer no longer shows is still
	// believed, and how long a new one is not known: jwt_authn does not look
	// for a key that it misses.
	keysInterval = time.Minute
	keysRetry    = time.Second
	keysTimeout  = 5 * time.Second
	// verifiedTokens is how many tokens of one issuer Envoy remembers to be
	// good, on each worker.
	verifiedTokens = 1000
)

// callerFilters check callers on the routes that say so, and nowhere else.
func (b *builder) callerFilters() []*hcmv3.HttpFilter {
	authn := &jwtauthnv3.JwtAuthentication{
		Providers:      map[string]*jwtauthnv3.JwtProvider{},
		RequirementMap: map[string]*jwtauthnv3.JwtRequirement{},
	}
	var asks, decides bool
	for _, r := range b.pushRoutes() {
		decides = decides || b.rules(r.Push) != nil
		if len(r.Push.Callers) == 0 {
			continue
		}
		asks = true
		for _, name := range r.Push.Callers {
			authn.Providers[r.Push.provider(name)] = b.provider(b.caller(name), r.Push)
		}
		authn.RequirementMap[r.Policy] = r.Push.requirement()
	}
	var filters []*hcmv3.HttpFilter
	if asks {
		filters = append(filters, b.filter(jwtFilter, authn))
	}
	if decides {
		filters = append(filters, b.filter(rbacFilter, &rbacfilterv3.RBAC{}))
	}
	return filters
}

// callerRules turns the filters on for a route.
func (b *builder) callerRules(r Route) map[string]*anypb.Any {
	rules := map[string]*anypb.Any{}
	if len(r.Push.Callers) > 0 {
		rules[jwtFilter] = b.pack(&jwtauthnv3.PerRouteConfig{
			RequirementSpecifier: &jwtauthnv3.PerRouteConfig_RequirementName{RequirementName: r.Policy},
		})
	}
	if policy := b.rules(r.Push); policy != nil {
		rules[rbacFilter] = b.pack(&rbacfilterv3.RBACPerRoute{Rbac: &rbacfilterv3.RBAC{Rules: &rbacv3.RBAC{
			Action:   rbacv3.RBAC_ALLOW,
			Policies: map[string]*rbacv3.Policy{r.Policy: policy},
		}}})
	}
	return rules
}

func (b *builder) caller(name string) Caller {
	for _, c := range b.cfg.Callers {
		if c.Name == name {
			return c
		}
	}
	return Caller{} // not in a valid configuration
}

// provider is the name of jwt_authn's provider for a caller. Where its tokens are
// is part of it.
func (p *Push) provider(caller string) string {
	if p.TokenHeader == "" {
		return caller
	}
	return caller + " in " + p.TokenHeader + ": " + p.TokenScheme
}

func (p *Push) requirement() *jwtauthnv3.JwtRequirement {
	var any []*jwtauthnv3.JwtRequirement
	for _, caller := range p.Callers {
		any = append(any, &jwtauthnv3.JwtRequirement{
			RequiresType: &jwtauthnv3.JwtRequirement_ProviderName{ProviderName: p.provider(caller)},
		})
	}
	if len(any) == 1 {
		return any[0]
	}
	return &jwtauthnv3.JwtRequirement{RequiresType: &jwtauthnv3.JwtRequirement_RequiresAny{
		RequiresAny: &jwtauthnv3.JwtRequirementOrList{Requirements: any},
	}}
}

func (b *builder) provider(c Caller, p *Push) *jwtauthnv3.JwtProvider {
	return &jwtauthnv3.JwtProvider{
		Issuer:            c.Issuer,
		Audiences:         c.Audiences,
		RequireExpiration: true,
		Forward:           true,                              // the route's rules take it out
		ClockSkewSeconds:  uint32(c.ClockSkew / time.Second), //nolint:gosec // a few seconds
		FromHeaders:       p.places(),
		PayloadInMetadata: envoy.CallerPayloadKey,
		HeaderInMetadata:  headerKey,
		JwtCacheConfig:    &jwtauthnv3.JwtCacheConfig{JwtCacheSize: verifiedTokens},
		JwksSourceSpecifier: &jwtauthnv3.JwtProvider_RemoteJwks{RemoteJwks: &jwtauthnv3.RemoteJwks{
			HttpUri: &corev3.HttpUri{
				Uri:              c.JWKSURL,
				HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: c.cluster()},
				Timeout:          durationpb.New(keysTimeout),
			},
			CacheDuration: durationpb.New(keysInterval),
			AsyncFetch:    &jwtauthnv3.JwksAsyncFetch{FailedRefetchDuration: durationpb.New(keysRetry)},
		}},
	}
}

// places are where a caller's token may be: Envoy looks into the query as well
// where none is given. It compares a scheme as it is written, though its case
// means nothing (RFC 9110 section 11.1).
func (p *Push) places() []*jwtauthnv3.JwtHeader {
	place := &jwtauthnv3.JwtHeader{Name: p.TokenHeader, ValuePrefix: p.tokenScheme()}
	set(&place.Name, authorization)
	places := []*jwtauthnv3.JwtHeader{place}
	if lower := strings.ToLower(place.ValuePrefix); lower != place.ValuePrefix {
		places = append(places, &jwtauthnv3.JwtHeader{Name: place.Name, ValuePrefix: lower})
	}
	return places
}

// cluster is the name of the cluster that leads to the issuer's keys.
func (c Caller) cluster() string { return "keys_" + c.Name }
