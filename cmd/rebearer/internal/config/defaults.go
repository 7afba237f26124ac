package config

import (
	"net/http"
	"reflect"
	"time"
)

// The defaults of rebearer itself are all here: defaultConfig for what stands
// in the file once, presets for what stands in lists and maps.

func defaultConfig() *Config {
	return &Config{
		Server: Server{
			GRPC:   GRPC{Address: "127.0.0.1:9001"},
			Admin:  Admin{Address: "127.0.0.1:9002"},
			Status: Status{Address: "127.0.0.1:9003"},
		},
		Cache:    Memory{MaxBytes: 256 << 20},
		Defaults: Defaults{Credential: defaultCredential()},
		Envoy: Envoy{
			Shape:                  ShapeNested,
			RouteTimeout:           15 * time.Second,
			IdleTimeout:            5 * time.Minute,
			MaxBodyBytes:           1 << 20,
			MaxRetries:             10_000,
			Retries:                Retries{Attempts: 1},
			HeadersWithUnderscores: UnderscoresDrop,
			EscapedSlashes:         SlashesReject,
		},
	}
}

func defaultCredential() Credential {
	return Credential{
		Grant:  GrantClientCredentials,
		Header: Header{Name: "authorization", Scheme: "Bearer"},
		Expiry: Expiry{
			Default: 5 * time.Minute, Max: time.Hour, Margin: 30 * time.Second, Least: 5 * time.Second, RefreshToken: 12 * time.Hour,
		},
		Cache: CacheCached,
		Rejection: Rejection{
			Action:   ActionRetry,
			Statuses: []int{http.StatusUnauthorized, http.StatusForbidden},
			CoolDown: 10 * time.Second,
		},
	}
}

// presets returns the defaults by type. That of Credential is the file's own.
func presets() map[reflect.Type]reflect.Value {
	identity := ClientIdentity{AuthMethod: ClientSecretBasic}
	return map[reflect.Type]reflect.Value{
		reflect.TypeFor[Provider](): reflect.ValueOf(Provider{Timeout: 5 * time.Second}),
		reflect.TypeFor[Caller](): reflect.ValueOf(Caller{
			Tokens:     TokensJWT,
			ClockSkew:  30 * time.Second,
			Algorithms: asymmetricAlgorithms(),
			Introspection: Introspection{
				TTL:         30 * time.Second,
				InactiveTTL: 5 * time.Second,
				Rate:        50,
			},
		}),
		reflect.TypeFor[ClientIdentity](): reflect.ValueOf(identity),
		reflect.TypeFor[Client]():         reflect.ValueOf(Client{ClientIdentity: identity}),
		reflect.TypeFor[TokenExchange]():  reflect.ValueOf(TokenExchange{SubjectTokenType: "access_token"}),
		reflect.TypeFor[JWTBearer]():      reflect.ValueOf(JWTBearer{Lifetime: 5 * time.Minute}),
		reflect.TypeFor[Rule]():           reflect.ValueOf(Rule{ContentTypes: []string{"application/json"}}),
		reflect.TypeFor[IstioRoute]():     reflect.ValueOf(IstioRoute{Protocol: ProtocolHTTP1}),
		reflect.TypeFor[GatewayRoute]():   reflect.ValueOf(GatewayRoute{Kind: HTTPRoute, Rules: 1, Protocol: ProtocolHTTP1}),
		reflect.TypeFor[Policy](): reflect.ValueOf(Policy{
			Preflight: PreflightDeny, Cache: CacheCached, Delivery: DeliveryCheck,
		}),
	}
}
