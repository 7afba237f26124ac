package extauthz_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

const backendToken = "backend-token.canary"

// credential gives out one token, or fails.
type credential struct {
	value tokens.Secret
	err   error
	fault bool
	// what its tokens are beside that
	subject string
	single  bool // fetched for one request

	mu       sync.Mutex
	attempts []int
}

func (c *credential) Name() string { return "orders" }

func (c *credential) Token(_ context.Context, r tokens.Request) (tokens.Token, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempts = append(c.attempts, r.Attempt)
	if c.fault {
		panic(backendToken) //nolint:forbidigo // what it is for
	}
	token := tokens.Token{
		Value: c.value, Fingerprint: tokens.FingerprintOf(string(c.value)), Generation: 7, Issued: time.Now().Add(-3 * time.Second),
		Subject: c.subject,
	}
	if c.single {
		token.Generation = 0
	}
	return token, c.err
}

// verifierFunc is a verifier of one function.
type verifierFunc func(context.Context, string) (caller.Identity, error)

func (f verifierFunc) Verify(ctx context.Context, token string) (caller.Identity, error) {
	return f(ctx, token)
}

// attributes are those of a check request.
type attributes = authv3.AttributeContext

// onlyToken accepts one token.
func onlyToken(good string) verifierFunc {
	return func(_ context.Context, token string) (caller.Identity, error) {
		if token != good {
			return caller.Identity{}, caller.ErrMalformed
		}
		return caller.Identity{Subject: "alice"}, nil
	}
}

// fixture is a server with all that is around it.
type fixture struct {
	issuer     *extauthztest.Issuer
	callers    *caller.JWT
	credential *credential
	server     *extauthz.Server
	client     authv3.AuthorizationClient
	metrics    *prometheus.Registry
	log        *logBuffer
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// newFixture returns a server whose policies default and orders verify tokens
// of a real issuer over HTTP.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{
		issuer:     extauthztest.NewIssuer(t).Serve(),
		credential: &credential{value: backendToken},
		metrics:    prometheus.NewPedanticRegistry(),
		log:        &logBuffer{},
	}
	provider, err := oauth.NewProvider(oauth.ProviderConfig{Name: "shop", Issuer: f.issuer.URL})
	if err != nil {
		t.Fatal(err)
	}
	f.setUp(t, caller.NewKeySet(provider, slog.New(slog.DiscardHandler)))
	f.client = extauthztest.NewClient(t, f.server)
	return f
}

func (f *fixture) setUp(t *testing.T, keys *caller.KeySet) {
	t.Helper()
	verifier, err := caller.NewJWT(keys, caller.JWTConfig{
		Issuer: f.issuer.URL, Audiences: []string{extauthztest.Audience}, Claims: []string{"tenant", "roles", "level", "verified", "org"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)
	f.callers = verifier
	f.server, err = extauthz.New(slog.New(slog.NewJSONHandler(f.log, nil)), f.metrics)
	if err != nil {
		t.Fatal(err)
	}
	f.setPolicies(t,
		extauthz.Policy{Name: "default", Callers: verifier, Credential: f.credential},
		extauthz.Policy{Name: "orders", Callers: verifier, Credential: f.credential, Header: extauthz.Header{Name: "X-Api-Token"}})
}

func (f *fixture) setPolicies(t *testing.T, policies ...extauthz.Policy) {
	t.Helper()
	if err := f.server.SetPolicies(policies); err != nil {
		t.Fatal(err)
	}
}

// setDefault replaces all policies by one called default, which change makes
// different from one that only verifies callers.
func (f *fixture) setDefault(t *testing.T, change func(*extauthz.Policy)) {
	t.Helper()
	policy := extauthz.Policy{Name: "default", Callers: f.callers, Credential: f.credential}
	change(&policy)
	f.setPolicies(t, policy)
}

func (f *fixture) check(t *testing.T, request *authv3.CheckRequest) answer {
	t.Helper()
	response, err := f.client.Check(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, response)
}

// answer is a response in a form that is easy to compare.
type answer struct {
	Code    codes.Code
	Status  int // 0 if allowed
	Headers map[string]string
	Remove  []string
}

// metadataOf returns the dynamic metadata of a response as Envoy reads it.
func metadataOf(t *testing.T, response *authv3.CheckResponse) map[string]any {
	t.Helper()
	text, err := proto.Marshal(response.GetDynamicMetadata())
	if err != nil {
		t.Fatal(err)
	}
	var message structpb.Struct
	if err := proto.Unmarshal(text, &message); err != nil {
		t.Fatal(err)
	}
	if extra := message.ProtoReflect().GetUnknown(); len(extra) > 0 {
		t.Errorf("the metadata hold what nobody reads: %x", extra)
	}
	return message.AsMap()
}

func read(t *testing.T, response *authv3.CheckResponse) answer {
	t.Helper()
	if _, err := proto.Marshal(response); err != nil {
		t.Errorf("the response cannot be marshalled: %v", err)
	}
	a := answer{
		Code: codes.Code(response.GetStatus().GetCode()), Headers: map[string]string{},
		Status: int(response.GetDeniedResponse().GetStatus().GetCode()),
		Remove: response.GetOkResponse().GetHeadersToRemove(),
	}
	for _, header := range append(response.GetOkResponse().GetHeaders(), response.GetDeniedResponse().GetHeaders()...) {
		if got := header.GetAppendAction().String(); got != "OVERWRITE_IF_EXISTS_OR_ADD" {
			t.Errorf("%s: append action %s", header.GetHeader().GetKey(), got)
		}
		a.Headers[header.GetHeader().GetKey()] = header.GetHeader().GetValue()
	}
	if (a.Code == codes.OK) != (response.GetOkResponse() != nil) || (a.Status == 0) != (a.Code == codes.OK) {
		t.Errorf("status %v and HTTP response %v contradict each other", a.Code, response.GetHttpResponse())
	}
	return a
}

// mustNotLog checks that no log line holds one of the texts, or a long part of
// one.
func (f *fixture) mustNotLog(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range append(texts, backendToken) {
		for _, part := range strings.Split(text, ".") {
			if len(part) > 4 && strings.Contains(f.log.String(), part) {
				t.Errorf("the log shows %q", part)
			}
		}
	}
}

func (f *fixture) metricsText(t *testing.T) string {
	t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			fmt.Fprintf(&text, "%s{decision=%q,policy=%q,reason=%q} %v\n",
				family.GetName(), labels["decision"], labels["policy"], labels["reason"], metric.GetCounter().GetValue())
		}
	}
	return text.String()
}
