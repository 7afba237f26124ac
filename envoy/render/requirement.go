package render

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/rebearer/rebearer/envoy"
)

// rules are what a request must be like beside having a good token. Nil means
// that nothing is required.
func (b *builder) rules(p *Push) *rbacv3.Policy {
	var required []*rbacv3.Principal
	if len(p.Callers) > 0 {
		required = append(required, isAccessToken())
	}
	for _, name := range p.Callers {
		if c := b.caller(name); c.Algorithms != nil || c.RequiredClaims != nil {
			required = append(required, b.anyCaller(p))
			break
		}
	}
	for _, scope := range p.Scopes {
		required = append(required, hasScope(scope))
	}
	if len(p.AnyScopes) > 0 {
		required = append(required, one(p.AnyScopes, hasScope))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Claims)) {
		required = append(required, one(p.Claims[name], func(value string) *rbacv3.Principal { return hasValue(name, value) }))
	}
	if len(p.Clients) > 0 {
		required = append(required, one(p.Clients, hasClient))
	}
	if len(required) == 0 && p.Hosts == nil {
		return nil
	}
	return &rbacv3.Policy{
		Permissions: []*rbacv3.Permission{toHosts(p.Hosts)},
		Principals:  []*rbacv3.Principal{both(required...)},
	}
}

// anyCaller holds where the token is as one of the callers wants it. Who issued
// it is known by then.
func (b *builder) anyCaller(p *Push) *rbacv3.Principal {
	return one(p.Callers, func(name string) *rbacv3.Principal {
		c := b.caller(name)
		required := []*rbacv3.Principal{found(exact(c.Issuer), envoy.CallerPayloadKey, "iss")}
		if c.Algorithms != nil {
			required = append(required, one(c.Algorithms, func(algorithm string) *rbacv3.Principal {
				return found(exact(algorithm), headerKey, "alg")
			}))
		}
		for _, claim := range c.RequiredClaims {
			required = append(required, isPresent(envoy.CallerPayloadKey, claim))
		}
		return both(required...)
	})
}

// isAccessToken refuses what cannot be an access token of a caller, with the same
// lists as [github.com/rebearer/rebearer/extauthz/caller]: another type of JWT, an
// extension that changes how it is read, an ID token or the like, one that is
// bound to a key which nobody asks for here (cnf, RFC 7800), and one that names
// nobody.
func isAccessToken() *rbacv3.Principal {
	kinds := matching(`(?i)id|id_token|refresh|refresh_token|offline|logout`)
	return both(
		either(found(matching(`(?i)jwt|at\+jwt|application/at\+jwt`), headerKey, "typ"), negate(isPresent(headerKey, "typ"))),
		negate(isPresent(headerKey, "crit")),
		negate(isPresent(headerKey, "b64")),
		negate(isPresent(headerKey, "zip")),
		negate(found(kinds, envoy.CallerPayloadKey, "typ")),
		negate(found(kinds, envoy.CallerPayloadKey, "token_use")),
		negate(isPresent(envoy.CallerPayloadKey, "cnf")),
		one([]string{"sub", "client_id", "azp"}, func(claim string) *rbacv3.Principal {
			return found(matching(`(?s).+`), envoy.CallerPayloadKey, claim)
		}),
	)
}

// hasScope holds where scope has it, or scp in a token without scope (as in
// [github.com/rebearer/rebearer/extauthz/caller]).
func hasScope(scope string) *rbacv3.Principal {
	word := matching(`(?s)(?:.*\s)?` + regexp.QuoteMeta(scope) + `(?:\s.*)?`)
	return either(
		inClaim("scope", word),
		both(negate(isPresent(envoy.CallerPayloadKey, "scope")), inClaim("scp", word)),
	)
}

// hasClient holds where client_id is that, or azp in a token without client_id.
func hasClient(id string) *rbacv3.Principal {
	return either(
		found(exact(id), envoy.CallerPayloadKey, "client_id"),
		both(negate(isPresent(envoy.CallerPayloadKey, "client_id")), found(exact(id), envoy.CallerPayloadKey, "azp")),
	)
}

// hasValue holds where a claim is that value, or a list with it.
func hasValue(claim, value string) *rbacv3.Principal {
	forms := []*matcherv3.ValueMatcher{exact(value)}
	if number, err := strconv.ParseFloat(value, 64); err == nil {
		forms = append(forms, &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_DoubleMatch{
			DoubleMatch: &matcherv3.DoubleMatcher{MatchPattern: &matcherv3.DoubleMatcher_Exact{Exact: number}},
		}})
	}
	if value == "true" || value == "false" {
		forms = append(forms, &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_BoolMatch{BoolMatch: value == "true"}})
	}
	return one(forms, func(form *matcherv3.ValueMatcher) *rbacv3.Principal { return inClaim(claim, form) })
}

// inClaim holds where a claim, or an entry of it if it is a list, matches.
func inClaim(claim string, value *matcherv3.ValueMatcher) *rbacv3.Principal {
	entry := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_ListMatch{ListMatch: &matcherv3.ListMatcher{
		MatchPattern: &matcherv3.ListMatcher_OneOf{OneOf: value},
	}}}
	return either(found(value, envoy.CallerPayloadKey, claim), found(entry, envoy.CallerPayloadKey, claim))
}

func isPresent(path ...string) *rbacv3.Principal {
	present := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{PresentMatch: true}}
	return found(present, path...)
}

// matching is text that is wholly what the regular expression says.
func matching(regex string) *matcherv3.ValueMatcher {
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
		MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: regex}},
	}}}
}

func exact(text string) *matcherv3.ValueMatcher {
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: exactly(text)}}
}

// found holds where what jwt_authn found at the path matches.
func found(value *matcherv3.ValueMatcher, path ...string) *rbacv3.Principal {
	m := &matcherv3.MetadataMatcher{Filter: envoy.CallerNamespace, Value: value}
	for _, key := range path {
		m.Path = append(m.Path, &matcherv3.MetadataMatcher_PathSegment{
			Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key},
		})
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_SourcedMetadata{
		SourcedMetadata: &rbacv3.SourcedMetadata{MetadataMatcher: m},
	}}
}

// one holds where that of any entry does.
func one[T any](list []T, principal func(T) *rbacv3.Principal) *rbacv3.Principal {
	var ids []*rbacv3.Principal
	for _, entry := range list {
		ids = append(ids, principal(entry))
	}
	return either(ids...)
}

func either(ids ...*rbacv3.Principal) *rbacv3.Principal {
	if len(ids) == 1 {
		return ids[0]
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: &rbacv3.Principal_Set{Ids: ids}}}
}

// both holds where all do; none are none to fail.
func both(ids ...*rbacv3.Principal) *rbacv3.Principal {
	switch len(ids) {
	case 0:
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
	case 1:
		return ids[0]
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{Ids: ids}}}
}

func negate(id *rbacv3.Principal) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: id}}
}

// toHosts permits requests to these hosts, on any port; to all if there are none.
func toHosts(hosts []string) *rbacv3.Permission {
	if hosts == nil {
		return &rbacv3.Permission{Rule: &rbacv3.Permission_Any{Any: true}}
	}
	var patterns []string
	for _, host := range slices.Sorted(slices.Values(hosts)) {
		if below, ok := strings.CutPrefix(host, "*."); ok {
			patterns = append(patterns, `[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.`+regexp.QuoteMeta(below))
			continue
		}
		patterns = append(patterns, regexp.QuoteMeta(host))
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: &routev3.HeaderMatcher{
		Name: ":authority",
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{
				Regex: `(?i)(?:` + strings.Join(patterns, "|") + `)(?::[0-9]+)?`,
			}},
		}},
	}}}
}
