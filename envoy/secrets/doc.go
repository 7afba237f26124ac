// Package secrets is the secret server (SDS, envoy.service.secret.v3) of push
// mode: Envoy's own credential_injector asks it for backend tokens, adds them to
// requests by itself, and is sent a new one before the old one ends.
//
// # What Envoys hold
//
// One generic secret for each credential, named by [envoy.SecretName], with the
// whole value of the header. There is never an empty one: a credential without a
// living token has no secret at all, and Envoy refuses the requests that need it.
// An Envoy goes on using the token that it holds while this server is away or
// cannot renew it. No Envoy obeys when a secret is taken back (1.36 to 1.40, both
// variants of the protocol, were tried), so it sends the token past its end too,
// until a backend refuses that and the hook sees it. An Envoy that connects anew
// is not given a token that has ended.
//
// # Who gets them
//
// Whoever is given a secret needs no caller's token to use it. So a peer must
// come through a unix socket, whose permissions say who may open it, or over TLS
// with a client certificate that the server has verified, name and all. A plain
// TCP connection is refused, on loopback as well, unless [Config] says otherwise.
//
// # What is said in return
//
// Envoy acknowledges or refuses every secret. A refusal is logged once for each
// node and token, and [Server.Status] has what every Envoy has been sent and has
// taken. What Envoys say of themselves is not checked: it is never a metric's
// label, and it is cut to a length.
package secrets
