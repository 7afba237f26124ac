package render

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// builder turns a valid Config with defaults into Envoy's messages. The first
// message that cannot be packed (a string that is not UTF-8) is kept in err, so
// that the shape of the configuration stays readable.
type builder struct {
	cfg  Config
	hash string // of what is built, see [Hashes]
	err  error
}

func newBuilder(cfg Config) (*builder, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	hash, err := hash(cfg)
	return &builder{cfg: cfg, hash: hash}, err
}

// pack wraps an extension's configuration.
func (b *builder) pack(m proto.Message) *anypb.Any {
	packed := &anypb.Any{}
	// The same every time: see hash.
	err := anypb.MarshalFrom(packed, m, proto.MarshalOptions{Deterministic: true})
	if err != nil && b.err == nil {
		b.err = err
	}
	return packed
}

func seconds(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func yes() *wrapperspb.BoolValue { return wrapperspb.Bool(true) }

func no() *wrapperspb.BoolValue { return wrapperspb.Bool(false) }
