// Package api asks a cluster's API server the few things the driver has to know.
package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const requestTimeout = 5 * time.Second

// Client speaks to one API server as its administrator.
type Client struct {
	base string
	http *http.Client
}

// Node is what a node says of itself.
type Node struct {
	Name    string `json:"name"`
	Ready   bool   `json:"ready"`
	Version string `json:"version"`
	Runtime string `json:"runtime"`
	IP      string `json:"ip"`
	// Message says why a node is not ready.
	Message string `json:"message,omitempty"`
}

// New returns a client of the API server at the port of this machine's loopback, with the
// administrator's key from the directory of keys.
func New(port int, keys string) (*Client, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(keys, "admin.crt"), filepath.Join(keys, "admin.key"))
	if err != nil {
		return nil, fmt.Errorf("load the administrator's key: %w", err)
	}
	authority, err := os.ReadFile(filepath.Join(keys, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("load the cluster's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("no certificate in %s", filepath.Join(keys, "ca.crt"))
	}
	return &Client{
		base: fmt.Sprintf("https://127.0.0.1:%d", port),
		http: &http.Client{
			Timeout: requestTimeout,
			Transport: &http.Transport{
				TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}},
				ForceAttemptHTTP2: true,
			},
		},
	}, nil
}

// Close lets the connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Ready returns nil when the API server can be used; otherwise what is missing.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.get(ctx, "/readyz")
	return err
}

// Version returns the API server's version.
func (c *Client) Version(ctx context.Context) (string, error) {
	var version struct {
		GitVersion string `json:"gitVersion"`
	}
	err := c.read(ctx, "/version", &version)
	return version.GitVersion, err
}

// ServiceAccount returns nil when the namespace has its default service account, without which
// no pod can be made in it.
func (c *Client) ServiceAccount(ctx context.Context, namespace string) error {
	_, err := c.get(ctx, "/api/v1/namespaces/"+namespace+"/serviceaccounts/default")
	return err
}

// Nodes returns the nodes.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var list struct {
		Items []struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
			Status struct {
				Addresses []struct {
					Type    string `json:"type"`
					Address string `json:"address"`
				} `json:"addresses"`
				Conditions []struct {
					Type    string `json:"type"`
					Status  string `json:"status"`
					Message string `json:"message"`
				} `json:"conditions"`
				Info struct {
					Kubelet string `json:"kubeletVersion"`
					Runtime string `json:"containerRuntimeVersion"`
				} `json:"nodeInfo"`
			} `json:"status"`
		} `json:"items"`
	}
	if err := c.read(ctx, "/api/v1/nodes", &list); err != nil {
		return nil, err
	}
	nodes := make([]Node, 0, len(list.Items))
	for _, item := range list.Items {
		node := Node{
			Name:    item.Metadata.Name,
			Version: item.Status.Info.Kubelet,
			Runtime: item.Status.Info.Runtime,
			Message: "it has not reported yet",
		}
		for _, address := range item.Status.Addresses {
			if address.Type == "InternalIP" {
				node.IP = address.Address
			}
		}
		for _, condition := range item.Status.Conditions {
			if condition.Type != "Ready" {
				continue
			}
			node.Ready, node.Message = condition.Status == "True", condition.Message
			if node.Ready {
				node.Message = ""
			}
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

func (c *Client) read(ctx context.Context, path string, into any) error {
	body, err := c.get(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read the answer to GET %s: %w", path, err)
	}
	return nil
}

func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("read the answer to GET %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
		return nil, errors.New("GET " + path + ": " + response.Status + ": " + line)
	}
	return body, nil
}
