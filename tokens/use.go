package tokens

import "time"

// Use says what a request was given when it passed the check: which credential's
// token, and for whom. It travels from the check to the place that sees the
// backend's answer, and holds neither a token nor a claim.
type Use struct {
	// Policy is the name of the policy that let the request pass.
	Policy string
	// Credential is the name of the credential whose token was sent.
	Credential string
	// Caller tells callers apart without naming them.
	Caller Fingerprint
	// Subject tells the tokens of a credential apart that were got on behalf of
	// callers: a hash of the caller's token. Empty for a token of our own.
	Subject string
	// Generation is that of the token, as counted by the replica that gave it.
	Generation uint64
	// Bypass is whether the token was fetched for this request alone. Its
	// Generation is 0 then.
	Bypass bool
	// Age is how old the token was when it was given. An age rather than a
	// time, because replicas' clocks differ.
	Age time.Duration
}

// The names under which a Use travels: the first four are strings, the last is a
// boolean, the others are numbers. What is empty or false may be left out.
const (
	PolicyField     = "policy"
	CredentialField = "credential"
	CallerField     = "caller"
	SubjectField    = "subject_key"
	GenerationField = "generation"
	AgeField        = "age_ms" // in milliseconds
	BypassField     = "bypass"
)

// UseFromFields returns the Use that travels as plain values: strings, booleans,
// and numbers as float64. Values that are missing or of another type are left
// zero; a Use without a Credential is not one of ours.
func UseFromFields(fields map[string]any) Use {
	text := func(name string) string { s, _ := fields[name].(string); return s }
	number := func(name string) float64 { f, _ := fields[name].(float64); return f }
	bypass, _ := fields[BypassField].(bool)
	return Use{
		Bypass:     bypass,
		Policy:     text(PolicyField),
		Credential: text(CredentialField),
		Caller:     Fingerprint(text(CallerField)),
		Subject:    text(SubjectField),
		Generation: uint64(max(number(GenerationField), 0)),
		Age:        time.Duration(number(AgeField)) * time.Millisecond,
	}
}
