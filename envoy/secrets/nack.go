package secrets

import (
	"crypto/x509"
	"fmt"
	"strings"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/rebearer/rebearer/tokens"
)

// nack is a refusal, to tell a repeated one.
type nack struct {
	node, credential string
	fingerprint      tokens.Fingerprint
}

// firstNack reports whether a refusal was not logged before. Where there are too
// many to remember, all are forgotten.
func (n *nodes) firstNack(k nack) bool {
	if n.nacked[k] {
		return false
	}
	if len(n.nacked) >= maxNacks {
		clear(n.nacked)
	}
	n.nacked[k] = true
	return true
}

// quotable is how much of a token, in bytes, may stand in a text before that
// counts as quoting it.
const quotable = 8

const withheld = "withheld: it quotes the token"

// reasonOf returns what Envoy says about its refusal. Envoy may print the whole
// message that it refuses, and with it the token.
func reasonOf(refusal *rpcstatus.Status, of []sent) string {
	reason := refusal.GetMessage()
	for _, secret := range of {
		if quotes(reason, secret.value.Reveal()) {
			return withheld
		}
	}
	return clip(reason)
}

// quotes reports whether a text holds a part of a token that is long enough to
// matter, or all of a shorter one.
func quotes(text, token string) bool {
	length := min(quotable, len(token))
	for i := 0; i+length <= len(token); i++ {
		if strings.Contains(text, token[i:i+length]) {
			return true
		}
	}
	return false
}

// clip cuts what a peer says to a length, and makes it valid UTF-8.
func clip(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.ToValidUTF8(text, "")
}

func formatVersion(v *typev3.SemanticVersion) string {
	return fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
}

// certificateName returns the subject alternative name by which a certificate is
// best known.
func certificateName(c *x509.Certificate) string {
	switch {
	case len(c.URIs) > 0:
		return clip(c.URIs[0].String())
	case len(c.DNSNames) > 0:
		return clip(c.DNSNames[0])
	}
	return "a nameless certificate"
}
