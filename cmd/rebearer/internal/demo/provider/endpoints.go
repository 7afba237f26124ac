package provider

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
	oautherrors "github.com/go-oauth2/oauth2/v4/errors"
)

// The paths of the endpoints below the issuer.
const (
	tokenPath         = "/token"
	jwksPath          = "/jwks"
	introspectionPath = "/introspect"
	revocationPath    = "/revoke"
	oidcMetadataPath  = "/.well-known/openid-configuration"       // OpenID Connect Discovery 1.0
	oauthMetadataPath = "/.well-known/oauth-authorization-server" // RFC 8414
)

// maxRequest bounds the form of a request.
const maxRequest = 64 << 10

func (p *Provider) endpoints() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+oidcMetadataPath, p.serveMetadata)
	mux.HandleFunc("GET "+oauthMetadataPath, p.serveMetadata)
	mux.HandleFunc("GET "+jwksPath, p.serveKeys)
	mux.HandleFunc("POST "+tokenPath, p.serveToken)
	mux.HandleFunc("POST "+introspectionPath, p.serveIntrospection)
	mux.HandleFunc("POST "+revocationPath, p.serveRevocation)
	return mux
}

// ServeHTTP counts the request, holds it for the delay, and then handles it in
// one piece with respect to [Provider.Restart].
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The form is read here, so that a slow client cannot hold the lock.
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "unreadable form", http.StatusBadRequest)
		return
	}
	p.countRequest(r)
	if !p.hold(r) {
		return
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	switch p.fault {
	case FaultGarbage:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "<html>not what you asked for</html>")
	case FaultError:
		http.Error(w, "internal error", http.StatusInternalServerError)
	case FaultClose:
		closeConnection(w)
	default:
		p.mux.ServeHTTP(w, r)
	}
}

func (p *Provider) countRequest(r *http.Request) {
	switch r.URL.Path {
	case tokenPath:
		client, _, _ := clientOf(r) // an anonymous request counts for ""
		p.count(func(c *Counts) { c.TokenRequests++; c.ByClient[client]++ })
	case introspectionPath:
		p.count(func(c *Counts) { c.Introspections++ })
	}
}

// hold waits for the delay; it reports false if the client left meanwhile.
func (p *Provider) hold(r *http.Request) bool {
	p.mu.RLock()
	delay := p.delay
	p.mu.RUnlock()
	if delay <= 0 {
		return true
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// closeConnection ends the connection, or the stream where HTTP/2 shares it.
func closeConnection(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // HTTP/2: an empty 200, which is no token either
	}
	_ = conn.Close()
}

func (p *Provider) serveMetadata(w http.ResponseWriter, _ *http.Request) {
	methods := []string{"client_secret_basic", "client_secret_post"}
	writeJSON(w, map[string]any{
		"issuer":                                        p.cfg.Issuer,
		"token_endpoint":                                p.TokenURL(),
		"jwks_uri":                                      p.cfg.Issuer + jwksPath,
		"introspection_endpoint":                        p.cfg.Issuer + introspectionPath,
		"revocation_endpoint":                           p.cfg.Issuer + revocationPath,
		"grant_types_supported":                         []string{"client_credentials"},
		"response_types_supported":                      []string{},
		"subject_types_supported":                       []string{"public"},
		"id_token_signing_alg_values_supported":         []jose.SignatureAlgorithm{p.cfg.Algorithm},
		"token_endpoint_auth_methods_supported":         methods,
		"introspection_endpoint_auth_methods_supported": methods,
		"revocation_endpoint_auth_methods_supported":    methods,
	})
}

func (p *Provider) serveKeys(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{p.key.public()}})
}

func (p *Provider) serveToken(w http.ResponseWriter, r *http.Request) {
	recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
	// The error is that of writing an answer to a client that has left.
	_ = p.oauth.HandleTokenRequest(recorder, r)
	if recorder.status == http.StatusOK {
		p.count(func(c *Counts) { c.Issued++ })
	}
}

// serveIntrospection answers RFC 7662 section 2.
func (p *Provider) serveIntrospection(w http.ResponseWriter, r *http.Request) {
	if !p.authenticated(r) {
		refuseClient(w)
		return
	}
	token, err := p.manager.LoadAccessToken(r.Context(), r.PostFormValue("token"))
	if err != nil {
		writeJSON(w, map[string]any{"active": false})
		return
	}
	answer := p.claims(token)
	delete(answer, "jti") // a new one each time would be a lie
	answer["active"] = true
	answer["token_type"] = "Bearer"
	writeJSON(w, answer)
}

// serveRevocation answers RFC 7009 section 2: 200 also for an unknown token.
func (p *Provider) serveRevocation(w http.ResponseWriter, r *http.Request) {
	if !p.authenticated(r) {
		refuseClient(w)
		return
	}
	// An empty token is the library's only error here.
	_ = p.manager.RemoveAccessToken(r.Context(), r.PostFormValue("token"))
	w.WriteHeader(http.StatusOK)
}

func (p *Provider) authenticated(r *http.Request) bool {
	id, secret, err := clientOf(r)
	return err == nil && p.clients.verify(id, secret)
}

// clientOf reads the client's credentials from the Basic header or the form
// (RFC 6749 section 2.3.1). The form must have been parsed.
func clientOf(r *http.Request) (id, secret string, err error) {
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	} else if id, secret, err = unescape(id, secret); err != nil {
		return "", "", oautherrors.ErrInvalidClient
	}
	if id == "" {
		return "", "", oautherrors.ErrInvalidClient
	}
	return id, secret, nil
}

// unescape undoes the form encoding that RFC 6749 wants inside Basic.
func unescape(id, secret string) (plainID, plainSecret string, err error) {
	if plainID, err = url.QueryUnescape(id); err != nil {
		return "", "", err
	}
	plainSecret, err = url.QueryUnescape(secret)
	return plainID, plainSecret, err
}

// clientChallenge goes with every invalid_client (RFC 6749 section 5.2).
const clientChallenge = `Basic realm="demo"`

// challengeClient adds the challenge to the library's answer.
func challengeClient(response *oautherrors.Response) {
	if errors.Is(response.Error, oautherrors.ErrInvalidClient) {
		response.SetHeader("WWW-Authenticate", clientChallenge)
	}
}

func refuseClient(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", clientChallenge)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	// The error is that of writing to a client that has left.
	_ = json.NewEncoder(w).Encode(value)
}

// statusRecorder remembers the status of an answer.
type statusRecorder struct {
	http.ResponseWriter

	status int
}

// WriteHeader implements [http.ResponseWriter].
func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}
