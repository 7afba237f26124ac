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
	cfg Config
	err error
}

func newBuilder(cfg Config) (*builder, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &builder{cfg: cfg}, nil
}

// pack wraps an extension's configuration.
func (b *builder) pack(m proto.Message) *anypb.Any {
	packed, err := anypb.New(m)
	if err != nil && b.err == nil {
		b.err = err
	}
	return packed
}

func seconds(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func yes() *wrapperspb.BoolValue { return wrapperspb.Bool(true) }

func no() *wrapperspb.BoolValue { return wrapperspb.Bool(false) }
