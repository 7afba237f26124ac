package main

import (
	"fmt"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/envoy/kubernetes"
	"github.com/rebearer/rebearer/envoy/render"
)

// The values of --target: what is given the configuration.
const (
	targetEnvoy   = "envoy"
	targetIstio   = "istio"
	targetGateway = "envoy-gateway"
)

// renderObjects returns the objects of the Kubernetes API by which a control
// plane is given the configuration c.
func renderObjects(target string, cfg *config.Config, c render.Config) ([]byte, error) {
	switch target {
	case targetIstio:
		if cfg.Envoy.Istio == nil {
			return nil, fmt.Errorf("--target %s: envoy.istio is missing: it names the gateway and its routes", target)
		}
		return istioOf(cfg.Envoy.Istio).Render(c)
	case targetGateway:
		if cfg.Envoy.EnvoyGateway == nil {
			return nil, fmt.Errorf("--target %s: envoy.envoy_gateway is missing: it names the Gateway and its routes", target)
		}
		return gatewayOf(cfg.Envoy.EnvoyGateway).Render(c)
	}
	return nil, fmt.Errorf("--target %q: it is %s, %s or %s", target, targetEnvoy, targetIstio, targetGateway)
}

func istioOf(i *config.Istio) kubernetes.Istio {
	target := kubernetes.Istio{Namespace: i.Namespace, Selector: i.Selector, Hosts: i.Hosts}
	for _, r := range i.Routes {
		target.Routes = append(target.Routes, kubernetes.IstioRoute{
			Name: r.Name, Policy: r.Policy, Service: string(r.Service), Protocol: kubernetes.Protocol(r.Protocol),
		})
	}
	return target
}

func gatewayOf(g *config.EnvoyGateway) kubernetes.EnvoyGateway {
	target := kubernetes.EnvoyGateway{Namespace: g.Namespace, Gateway: g.Gateway, Listeners: g.Listeners}
	for _, r := range g.Routes {
		target.Routes = append(target.Routes, kubernetes.GatewayRoute{
			Kind: kubernetes.RouteKind(r.Kind), Namespace: r.Namespace, Name: r.Name, Policy: r.Policy,
			Rules: int(r.Rules), Protocol: kubernetes.Protocol(r.Protocol),
		})
	}
	return target
}
