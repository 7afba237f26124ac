package envoy

import "strings"

const secretPrefix = "rebearer/"

// SecretName returns the name under which Envoy asks for the secret of a
// credential in push mode (sds_config's secret name). The secret holds the whole
// value of the header: scheme, space and token.
func SecretName(credential string) string { return secretPrefix + credential }

// SecretCredential returns the credential whose secret has that name. It reports
// false for a name that [SecretName] does not make.
func SecretCredential(name string) (string, bool) { return strings.CutPrefix(name, secretPrefix) }
