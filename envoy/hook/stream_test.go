package hook_test

import (
	"context"
	"io"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
)

// oneMessage is a stream with one message, without a network.
type oneMessage struct {
	grpc.ServerStream

	ctx     context.Context
	request *extprocv3.ProcessingRequest
	answers []*extprocv3.ProcessingResponse
}

func (s *oneMessage) Context() context.Context { return s.ctx }

func (s *oneMessage) Recv() (*extprocv3.ProcessingRequest, error) {
	request := s.request
	if request == nil {
		return nil, io.EOF
	}
	s.request = nil
	return request, nil
}

func (s *oneMessage) Send(answer *extprocv3.ProcessingResponse) error {
	s.answers = append(s.answers, answer)
	return nil
}
