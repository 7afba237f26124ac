package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
)

// Client talks to the admin API of a running service. It is safe for concurrent
// use.
type Client struct {
	address   string
	tokenFile string
	http      *http.Client
}

const (
	clientTimeout = 10 * time.Second
	maxAnswer     = 16 << 20
)

// NewClient returns a client of the API at host:port. The token file is read
// for each request; empty means that no token is sent.
func NewClient(address, tokenFile string) *Client {
	return &Client{address: address, tokenFile: tokenFile, http: &http.Client{Timeout: clientTimeout}}
}

// List returns every credential's state.
func (c *Client) List(ctx context.Context) (List, error) {
	var answer List
	err := c.do(ctx, http.MethodGet, "/v1/credentials", nil, &answer)
	return answer, err
}

// Flush drops tokens and has others fetched.
func (c *Client) Flush(ctx context.Context, request FlushRequest) (FlushAnswer, error) {
	var answer FlushAnswer
	err := c.do(ctx, http.MethodPost, "/v1/flush", request, &answer)
	return answer, err
}

// Pause stops a credential's token requests, and returns its state.
func (c *Client) Pause(ctx context.Context, name string) (Credential, error) {
	return c.change(ctx, name, "pause")
}

// Resume undoes Pause.
func (c *Client) Resume(ctx context.Context, name string) (Credential, error) {
	return c.change(ctx, name, "resume")
}

// Void has the next request meet a dead token, and returns the credential's
// state.
func (c *Client) Void(ctx context.Context, name string) (Credential, error) {
	return c.change(ctx, name, "void")
}

func (c *Client) change(ctx context.Context, name, verb string) (Credential, error) {
	var answer Credential
	err := c.do(ctx, http.MethodPost, "/v1/credentials/"+url.PathEscape(name)+"/"+verb, struct{}{}, &answer)
	return answer, err
}

// do sends a request and decodes the answer. The error of an answer that is
// none is what the service said.
func (c *Client) do(ctx context.Context, method, path string, body, answer any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+c.address+path, bytes.NewReader(encoded))
	if err != nil {
		return fmt.Errorf("admin API at %s: %w", c.address, err)
	}
	request.Header.Set("Content-Type", "application/json")
	if c.tokenFile != "" {
		token, err := config.ReadSecret(c.tokenFile)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("the admin API does not answer (is the service running?): %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("admin API at %s: %w", c.address, err)
	}
	if response.StatusCode != http.StatusOK {
		var problem Problem
		if json.Unmarshal(data, &problem) == nil && problem.Detail != "" {
			return errors.New(problem.Detail)
		}
		return fmt.Errorf("admin API at %s: %s", c.address, response.Status)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("admin API at %s: %w", c.address, err)
	}
	return nil
}
