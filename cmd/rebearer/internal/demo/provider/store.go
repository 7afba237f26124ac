package provider

import (
	"context"
	"crypto/subtle"
	"maps"
	"sync"
	"time"

	"github.com/go-oauth2/oauth2/v4"
	oautherrors "github.com/go-oauth2/oauth2/v4/errors"
)

// sweepEvery is after how many new tokens the expired ones are dropped.
const sweepEvery = 1000

// tokenStore keeps access tokens in a map. The library's own memory store is a
// database with a goroutine that cannot be stopped: a restart would leak one.
// It is safe for concurrent use.
type tokenStore struct {
	mu      sync.RWMutex
	tokens  map[string]oauth2.TokenInfo // access token → what was issued
	created int
}

func newTokenStore() *tokenStore { return &tokenStore{tokens: make(map[string]oauth2.TokenInfo)} }

// Create implements the library's TokenStore.
func (s *tokenStore) Create(_ context.Context, token oauth2.TokenInfo) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token.GetAccess()] = token
	if s.created++; s.created%sweepEvery == 0 {
		now := time.Now()
		maps.DeleteFunc(s.tokens, func(_ string, token oauth2.TokenInfo) bool {
			return token.GetAccessCreateAt().Add(token.GetAccessExpiresIn()).Before(now)
		})
	}
	return nil
}

// GetByAccess implements the library's TokenStore: nil means unknown.
func (s *tokenStore) GetByAccess(_ context.Context, access string) (oauth2.TokenInfo, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tokens[access], nil
}

// RemoveByAccess implements the library's TokenStore.
func (s *tokenStore) RemoveByAccess(_ context.Context, access string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, access)
	return nil
}

// The rest of the library's TokenStore is about codes and refresh tokens, of
// which there are none: nil is the library's way of saying so.

func (*tokenStore) RemoveByCode(context.Context, string) error    { return nil }
func (*tokenStore) RemoveByRefresh(context.Context, string) error { return nil }
func (*tokenStore) GetByCode(context.Context, string) (oauth2.TokenInfo, error) {
	return nil, nil
}

func (*tokenStore) GetByRefresh(context.Context, string) (oauth2.TokenInfo, error) {
	return nil, nil
}

// clientStore holds the clients by id. It never changes.
type clientStore map[string]Client

func newClientStore(clients []Client) clientStore {
	store := make(clientStore, len(clients))
	for _, client := range clients {
		store[client.ID] = client
	}
	return store
}

// GetByID implements the library's ClientStore.
func (s clientStore) GetByID(_ context.Context, id string) (oauth2.ClientInfo, error) {
	client, ok := s[id]
	if !ok {
		return nil, oautherrors.ErrInvalidClient
	}
	return clientInfo{client}, nil
}

func (s clientStore) verify(id, secret string) bool {
	client, ok := s[id]
	return ok && clientInfo{client}.VerifyPassword(secret)
}

// clientInfo shows a Client to the library.
type clientInfo struct{ client Client }

// VerifyPassword implements the library's ClientPasswordVerifier.
func (c clientInfo) VerifyPassword(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(secret), []byte(c.client.Secret)) == 1
}

func (c clientInfo) GetID() string   { return c.client.ID }
func (clientInfo) GetSecret() string { return "" } // VerifyPassword decides
func (clientInfo) GetDomain() string { return "" }
func (clientInfo) IsPublic() bool    { return false }
func (clientInfo) GetUserID() string { return "" }
