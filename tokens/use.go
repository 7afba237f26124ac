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
	// Generation is that of the token, as counted by the replica that gave it.
	Generation uint64
	// Age is how old the token was when it was given. An age rather than a
	// time, because replicas' clocks differ.
	Age time.Duration
}

// The names under which a Use travels.
const (
	fieldPolicy     = "policy"
	fieldCredential = "credential"
	fieldCaller     = "caller"
	fieldGeneration = "generation"
	fieldAge        = "age_ms"
)

// Fields returns the Use as plain values: strings, and numbers as float64.
func (u Use) Fields() map[string]any {
	return map[string]any{
		fieldPolicy:     u.Policy,
		fieldCredential: u.Credential,
		fieldCaller:     string(u.Caller),
		fieldGeneration: float64(u.Generation),
		fieldAge:        float64(u.Age.Milliseconds()),
	}
}

// UseFromFields is the reverse of [Use.Fields]. Values that are missing or of
// another type are left zero; a Use without a Credential is not one of ours.
func UseFromFields(fields map[string]any) Use {
	text := func(name string) string { s, _ := fields[name].(string); return s }
	number := func(name string) float64 { f, _ := fields[name].(float64); return f }
	return Use{
		Policy:     text(fieldPolicy),
		Credential: text(fieldCredential),
		Caller:     Fingerprint(text(fieldCaller)),
		Generation: uint64(max(number(fieldGeneration), 0)),
		Age:        time.Duration(number(fieldAge)) * time.Millisecond,
	}
}
