package provider

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// post sends a form to an endpoint, authenticated as the client if secret is
// not empty, and returns the status and the decoded body.
func post(t *testing.T, endpoint, secret string, form url.Values) (int, map[string]any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if secret != "" {
		request.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(secret))
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if len(body) > 0 {
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatalf("%v in %q", err, body)
		}
	}
	return response.StatusCode, answer
}

func TestIntrospectionAndRevocation(t *testing.T) {
	t.Parallel()
	for name, format := range map[string]Format{"opaque": Opaque, "jwt": JWT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, Config{Tokens: format, Audiences: []string{audience}})
			form := url.Values{"token": {fetch(t, p).AccessToken}}
			introspect := p.Issuer() + introspectionPath

			status, answer := post(t, introspect, clientSecret, form)
			want := map[string]any{
				"active": true, "iss": p.Issuer(), "sub": clientID, "client_id": clientID, "aud": []any{audience},
				"scope": "orders.read orders.write", "token_type": "Bearer",
			}
			times := cmpopts.IgnoreMapEntries(func(key string, _ any) bool { return key == "exp" || key == "iat" })
			if diff := cmp.Diff(want, answer, times); diff != "" || status != http.StatusOK {
				t.Errorf("status %d (-want +got):\n%s", status, diff)
			}
			if status, _ := post(t, introspect, "wrong", form); status != http.StatusUnauthorized {
				t.Errorf("a wrong secret: got %d, want 401", status)
			}
			if status, _ := post(t, introspect, "", form); status != http.StatusUnauthorized {
				t.Errorf("no credentials: got %d, want 401", status)
			}
			if status, _ := post(t, p.Issuer()+revocationPath, "", form); status != http.StatusUnauthorized {
				t.Errorf("revoked without credentials: got %d, want 401", status)
			}
			for range 2 { // an unknown token is revoked too (RFC 7009 2.2)
				if status, _ := post(t, p.Issuer()+revocationPath, clientSecret, form); status != http.StatusOK {
					t.Errorf("revocation: got %d, want 200", status)
				}
			}
			status, answer = post(t, introspect, clientSecret, form)
			if diff := cmp.Diff(map[string]any{"active": false}, answer); diff != "" || status != http.StatusOK {
				t.Errorf("after the revocation: status %d (-want +got):\n%s", status, diff)
			}
			if got := p.Counts().Introspections; got != 4 {
				t.Errorf("got %d introspections, want 4", got)
			}
		})
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	p := start(t, Config{})
	for _, path := range []string{oidcMetadataPath, oauthMetadataPath} {
		response, err := http.Get(p.Issuer() + path)
		if err != nil {
			t.Fatal(err)
		}
		var metadata map[string]any
		err = json.NewDecoder(response.Body).Decode(&metadata)
		_ = response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if metadata["issuer"] != p.Issuer() || metadata["token_endpoint"] != p.TokenURL() {
			t.Errorf("%s: got %v", path, metadata)
		}
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]Fault{"garbage": FaultGarbage, "error": FaultError, "close": FaultClose} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, Config{})
			cfg := client(p)
			p.SetFault(fault)
			if token, err := cfg.Token(t.Context()); err == nil {
				t.Errorf("got a token that expires at %v, want an error", token.Expiry)
			}
			p.SetFault(FaultNone)
			if _, err := cfg.Token(t.Context()); err != nil {
				t.Errorf("after the fault: %v", err)
			}
			want := Counts{TokenRequests: 2, ByClient: map[string]int{clientID: 2}, Issued: 1}
			if fault == FaultClose {
				// net/http may send a request again on a connection that broke.
				want.TokenRequests, want.ByClient[clientID] = p.Counts().TokenRequests, p.Counts().ByClient[clientID]
			}
			if diff := cmp.Diff(want, p.Counts()); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLongFormIsRefused(t *testing.T) {
	t.Parallel()
	p := start(t, Config{})
	form := url.Values{"grant_type": {strings.Repeat("x", maxRequest)}}
	response, err := http.PostForm(p.TokenURL(), form)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("got %d, want 400", response.StatusCode)
	}
}
