package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func answering(t *testing.T, status int, body string) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	return &Client{base: server.URL, http: server.Client()}
}

func TestANodeIsReadyOnlyWhenItSaysSo(t *testing.T) {
	nodes, err := answering(t, http.StatusOK, `{"items": [
		{"metadata": {"name": "node1"}, "status": {
			"addresses": [{"type": "Hostname", "address": "node1"}, {"type": "InternalIP", "address": "10.200.0.11"}],
			"conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True", "message": "posting"}],
			"nodeInfo": {"kubeletVersion": "v1.34.4"}}},
		{"metadata": {"name": "node2"}, "status": {"conditions": [{"type": "Ready", "status": "False", "message": "no network"}]}},
		{"metadata": {"name": "node3"}}
	]}`).Nodes(t.Context())
	if err != nil || len(nodes) != 3 {
		t.Fatalf("nodes %+v, error %v", nodes, err)
	}
	if first := nodes[0]; !first.Ready || first.Message != "" || first.IP != "10.200.0.11" || first.Version != "v1.34.4" {
		t.Errorf("%+v", first)
	}
	if second := nodes[1]; second.Ready || second.Message != "no network" {
		t.Errorf("%+v", second)
	}
	if third := nodes[2]; third.Ready || third.Message == "" {
		t.Errorf("%+v", third)
	}
}

func TestARefusalIsQuotedWithWhatWasAskedFor(t *testing.T) {
	err := answering(t, http.StatusInternalServerError, "[-]etcd failed\nmore").Ready(t.Context())
	if err == nil || !strings.Contains(err.Error(), "/readyz") || !strings.Contains(err.Error(), "etcd failed") {
		t.Errorf("error %v", err)
	}
}
