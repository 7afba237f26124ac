package examples_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/rebearer/rebearer/envoy/kubernetes/schematest"
)

// TestObjects checks that the objects that rebearer prints for the examples are
// those of today.
func TestObjects(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"istio", "envoy-gateway"} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			compare(t, target+"/"+target+".yaml",
				rebearer(t, "envoy", "--config", target+"/rebearer.yaml", "--target", target))
		})
	}
}

// manifests are the files that kubectl is given.
func manifests(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, folder := range []string{"kubernetes", "istio", "envoy-gateway"} {
		found, err := filepath.Glob(folder + "/*.yaml")
		if err != nil || len(found) == 0 {
			t.Fatalf("no manifests in %s: %v", folder, err)
		}
		files = append(files, found...)
	}
	return slices.DeleteFunc(files, func(file string) bool {
		return slices.Contains([]string{"rebearer.yaml", "envoy.yaml"}, filepath.Base(file))
	})
}

// TestSchemas checks that a cluster would take every object.
func TestSchemas(t *testing.T) {
	t.Parallel()
	for _, file := range manifests(t) {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			schematest.Check(t, read(t, file))
		})
	}
}

// manifest is what tests look at.
type manifest struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Template struct {
			Spec pod `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
}

type pod struct {
	Token           *bool `json:"automountServiceAccountToken"`
	SecurityContext struct {
		NonRoot bool `json:"runAsNonRoot"`
		Seccomp struct {
			Type string `json:"type"`
		} `json:"seccompProfile"`
	} `json:"securityContext"`
	Containers []container `json:"containers"`
}

type container struct {
	Name            string   `json:"name"`
	Image           string   `json:"image"`
	Ports           []port   `json:"ports"`
	Liveness        *probe   `json:"livenessProbe"`
	Readiness       *probe   `json:"readinessProbe"`
	SecurityContext security `json:"securityContext"`
}

type security struct {
	Escalation   *bool `json:"allowPrivilegeEscalation"`
	ReadOnly     bool  `json:"readOnlyRootFilesystem"`
	Capabilities struct {
		Drop []string `json:"drop"`
	} `json:"capabilities"`
}

type port struct {
	Name   string `json:"name"`
	Number int    `json:"containerPort"`
}

type probe struct {
	HTTP struct {
		Path string `json:"path"`
		Port string `json:"port"`
	} `json:"httpGet"`
}

func deployments(t *testing.T) map[string]pod {
	t.Helper()
	pods := map[string]pod{}
	for _, file := range manifests(t) {
		for document := range bytes.SplitSeq(read(t, file), []byte("\n---\n")) {
			var m manifest
			if err := yaml.Unmarshal(document, &m); err != nil {
				t.Fatal(err)
			}
			if m.Kind == "Deployment" {
				pods[m.Metadata.Name] = m.Spec.Template.Spec
			}
		}
	}
	return pods
}

// TestDeployments checks that no pod can do more than it has to.
func TestDeployments(t *testing.T) {
	t.Parallel()
	for name, p := range deployments(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if p.Token == nil || *p.Token {
				t.Error("it is given a token for the cluster's API")
			}
			if !p.SecurityContext.NonRoot || p.SecurityContext.Seccomp.Type != "RuntimeDefault" {
				t.Error("it may be root, or has no seccomp profile")
			}
			for _, c := range p.Containers {
				s := c.SecurityContext
				if s.Escalation == nil || *s.Escalation || !s.ReadOnly || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
					t.Errorf("container %s is not confined: %+v", c.Name, s)
				}
			}
		})
	}
}

// TestProbes checks that the kubelet asks at the port that the configuration
// names.
func TestProbes(t *testing.T) {
	t.Parallel()
	var file struct {
		Server struct {
			Status struct {
				Address string `json:"address"`
			} `json:"status"`
		} `json:"server"`
	}
	if err := yaml.Unmarshal(read(t, "kubernetes/rebearer.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	c := deployments(t)["rebearer"].Containers[0]
	status := slices.IndexFunc(c.Ports, func(p port) bool { return p.Name == "status" })
	if status < 0 || !strings.HasSuffix(file.Server.Status.Address, fmt.Sprintf(":%d", c.Ports[status].Number)) {
		t.Errorf("the status port is %s, the container's ports are %v", file.Server.Status.Address, c.Ports)
	}
	if got := c.Liveness.HTTP; got.Path != "/healthz" || got.Port != "status" {
		t.Errorf("livenessProbe: got %+v", got)
	}
	if got := c.Readiness.HTTP; got.Path != "/readyz" || got.Port != "status" {
		t.Errorf("readinessProbe: got %+v", got)
	}
}

// TestEnvoyImage checks that the example has the Envoy that is tested.
func TestEnvoyImage(t *testing.T) {
	t.Parallel()
	version := regexp.MustCompile(`(?m)^ENVOY_VERSION *:= *(\S+)$`).FindSubmatch(read(t, "../Makefile"))
	if version == nil {
		t.Fatal("the Makefile says no version")
	}
	if got, want := deployments(t)["envoy"].Containers[0].Image, "envoyproxy/envoy:v"+string(version[1]); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
