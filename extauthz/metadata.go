package extauthz

import (
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/tokens"
)

// The names of the dynamic metadata beside those of [tokens.Use]. Envoy keeps
// them in the namespace envoy.filters.http.ext_authz, on denials too. It copies
// every one several times for every request (some 3,500 instructions each), so
// what is plain of a request that simply passes is left out.
const (
	// verdictField is the decision, in the words of rebearer_checks_total; not
	// there for a request that passes with a token.
	verdictField = "verdict"
	// reasonField is why, in its words as well; not there for a plain "ok".
	reasonField = "reason"
	// subjectField is there only where the policy tells the backend too.
	subjectField = "subject"
)

// metadata is a google.protobuf.Struct in its wire form. To build one as the map
// that structpb has, and to marshal it, takes longer than all the rest of a check
// that has nothing to fetch.
type metadata []byte

// The field numbers of struct.proto.
const (
	structFields = 1
	entryKey     = 1
	entryValue   = 2
	numberValue  = 2
	stringValue  = 3
	boolValue    = 4
)

// text adds a string. A receiver refuses the whole message for one that is not
// UTF-8.
func (m metadata) text(name, value string) metadata {
	value = strings.ToValidUTF8(value, "\uFFFD")
	size := protowire.SizeTag(stringValue) + protowire.SizeBytes(len(value))
	return protowire.AppendString(protowire.AppendTag(m.entry(name, size), stringValue, protowire.BytesType), value)
}

// number adds a number.
func (m metadata) number(name string, value float64) metadata {
	size := protowire.SizeTag(numberValue) + protowire.SizeFixed64()
	return protowire.AppendFixed64(protowire.AppendTag(m.entry(name, size), numberValue, protowire.Fixed64Type), math.Float64bits(value))
}

// truth adds true.
func (m metadata) truth(name string) metadata {
	size := protowire.SizeTag(boolValue) + protowire.SizeVarint(protowire.EncodeBool(true))
	return protowire.AppendVarint(protowire.AppendTag(m.entry(name, size), boolValue, protowire.VarintType), protowire.EncodeBool(true))
}

// entry begins a member whose value takes size bytes.
func (m metadata) entry(name string, size int) metadata {
	whole := protowire.SizeTag(entryKey) + protowire.SizeBytes(len(name)) + protowire.SizeTag(entryValue) + protowire.SizeBytes(size)
	m = protowire.AppendVarint(protowire.AppendTag(m, structFields, protowire.BytesType), uint64(whole)) //nolint:gosec // a length
	m = protowire.AppendString(protowire.AppendTag(m, entryKey, protowire.BytesType), name)
	return protowire.AppendVarint(protowire.AppendTag(m, entryValue, protowire.BytesType), uint64(size)) //nolint:gosec // a length
}

// caller adds who calls, if that is known.
func (m metadata) caller(who *caller.Identity) metadata {
	fingerprint := who.Fingerprint()
	if fingerprint == "" {
		return m
	}
	return m.text(tokens.CallerField, string(fingerprint))
}

// message returns the metadata as a message that can be marshalled. Its Fields
// are empty until it was: a reader in this process would have to unmarshal it.
func (m metadata) message() *structpb.Struct {
	message := &structpb.Struct{}
	message.ProtoReflect().SetUnknown([]byte(m))
	return message
}

// useBytes is about how many bytes the metadata of one request take beside what
// those of its policy have in common.
const useBytes = 160

// passing returns what the metadata of all requests that pass a policy with a
// token have in common.
func (p Policy) passing() metadata {
	return metadata{}.text(tokens.PolicyField, p.Name).text(tokens.CredentialField, p.Credential.Name())
}

// use returns the metadata of a request that passes with token: a [tokens.Use],
// and what access logs want.
func (p *policy) use(who *caller.Identity, token tokens.Token) *structpb.Struct {
	m := make(metadata, 0, len(p.passes)+useBytes)
	m = append(m, p.passes...).caller(who)
	if p.Forward.Subject != "" && who.Subject != "" {
		m = m.text(subjectField, who.Subject)
	}
	m = m.number(tokens.GenerationField, float64(token.Generation))
	m = m.number(tokens.AgeField, float64(time.Since(token.Issued).Milliseconds()))
	if token.Subject != "" {
		m = m.text(tokens.SubjectField, token.Subject)
	}
	if token.Generation == 0 {
		m = m.truth(tokens.BypassField)
	}
	if who.Fingerprint() == "" {
		m = m.text(reasonField, reasonAnonymous)
	}
	return m.message()
}

// withoutToken returns the metadata of a preflight or a denial. It names no
// credential: what comes of such a request says nothing about a token of ours.
func withoutToken(policy, verdict, reason string, who *caller.Identity) *structpb.Struct {
	return make(metadata, 0, useBytes).
		text(tokens.PolicyField, policy).text(verdictField, verdict).text(reasonField, reason).caller(who).message()
}
