// Package config renders the files a cluster's programs are configured by.
package config

import (
	"bytes"
	"embed"
	"fmt"
	"text/template"

	"nsm-e2e-cluster/internal/plan"
)

//go:embed templates
var files embed.FS

var templates = template.Must(template.New("").Option("missingkey=error").ParseFS(files, "templates/*.tmpl"))

// Node is what the files of a node depend on.
type Node struct {
	plan.Node
	// Cgroup is the cluster's control group.
	Cgroup string
	// PauseImage is the image of every pod's first process.
	PauseImage string
	// MaxOpenFiles is how many open files the kubelet may give itself.
	MaxOpenFiles uint64
}

// DNS is the address pods ask for names; nothing answers there unless a test installs it.
func (Node) DNS() string { return plan.DNSIP }

// PodNet is the network of all pods.
func (Node) PodNet() string { return plan.PodNet }

// ProxyHealthPort is where kube-proxy answers for its health.
func (Node) ProxyHealthPort() int { return plan.ProxyHealthPort }

// Files returns the rendered files by their path below the node's /etc.
func (n Node) Files() (map[string][]byte, error) {
	rendered := map[string][]byte{}
	for path, name := range map[string]string{
		"kubernetes/kubelet.yaml":    "kubelet.yaml.tmpl",
		"kubernetes/kube-proxy.yaml": "kube-proxy.yaml.tmpl",
		"containerd/config.toml":     "containerd.toml.tmpl",
		"cni/net.d/10-pods.conflist": "pods.conflist.tmpl",
	} {
		content, err := render(name, n)
		if err != nil {
			return nil, err
		}
		rendered[path] = content
	}
	return rendered, nil
}

// AuditPolicy returns the policy used with an audit log when none is given: every request, with
// its metadata, once it is answered.
func AuditPolicy() ([]byte, error) { return render("audit-policy.yaml.tmpl", nil) }

func render(name string, data any) ([]byte, error) {
	var out bytes.Buffer
	if err := templates.ExecuteTemplate(&out, name, data); err != nil {
		return nil, fmt.Errorf("render %s: %w", name, err)
	}
	return out.Bytes(), nil
}
