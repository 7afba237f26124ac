package kubernetes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/rebearer/rebearer/envoy/internal/safeyaml"
)

// object is an object of the Kubernetes API, with the spec of its kind.
type object struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Spec       any      `json:"spec"`
}

type metadata struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"`
}

// newObject returns an object that says who made it.
func newObject(apiVersion, kind, namespace, name string, spec any) object {
	return object{
		APIVersion: apiVersion,
		Kind:       kind,
		Metadata: metadata{
			Name:      name,
			Namespace: namespace,
			Labels:    map[string]string{"app.kubernetes.io/managed-by": "rebearer"},
		},
		Spec: spec,
	}
}

// message is a message of Envoy's inside an object.
type message struct{ proto.Message }

// MarshalJSON writes the message with the names of its fields in the proto, as
// Envoy's documentation does.
func (m message) MarshalJSON() ([]byte, error) {
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(m.Message)
}

// document prints objects below a comment.
func document(comment string, objects []object) ([]byte, error) {
	var out bytes.Buffer
	for line := range strings.Lines(comment) {
		out.WriteString(strings.TrimRight("# "+strings.TrimSuffix(line, "\n"), " ") + "\n")
	}
	for i, o := range objects {
		json, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", o.Kind, o.Metadata.Name, err)
		}
		text, err := safeyaml.FromJSON(json)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", o.Kind, o.Metadata.Name, err)
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(text)
	}
	return out.Bytes(), nil
}
