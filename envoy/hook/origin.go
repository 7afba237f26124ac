package hook

import (
	"context"

	"google.golang.org/grpc/metadata"

	"github.com/rebearer/rebearer/envoy"
)

// origin is what a filter of Envoy says about itself when it opens a stream.
type origin struct {
	role   string
	config string
	// In push mode, where no check says it, the names of the credential and
	// of the policy.
	credential, policy string
}

func readOrigin(ctx context.Context) origin {
	sent, _ := metadata.FromIncomingContext(ctx)
	first := func(name string) string {
		if values := sent.Get(name); len(values) > 0 {
			return values[0]
		}
		return ""
	}
	return origin{
		role:       first(envoy.RoleMetadata),
		config:     first(envoy.ConfigMetadata),
		credential: first(envoy.CredentialMetadata),
		policy:     first(envoy.PolicyMetadata),
	}
}

// watches reports a filter that cannot be answered.
func (o origin) watches() bool { return o.role == envoy.RoleWatch }

// injects reports a filter that asks for tokens.
func (o origin) injects() bool { return o.role == envoy.RoleInject }

// holdsBodies reports a filter that can be asked for a body. One that names no
// role was configured before that was possible.
func (o origin) holdsBodies() bool { return o.role == envoy.RoleObserve }

// pushes reports a filter in push mode.
func (o origin) pushes() bool { return o.credential != "" }
