package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"
)

func newTestSet(t *testing.T) *Set {
	t.Helper()
	set, err := NewSet(
		[]net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 202, 0, 1)},
		[]Node{{Name: "node1", IP: net.IPv4(10, 200, 0, 11)}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func leaf(t *testing.T, pair Pair) *x509.Certificate {
	t.Helper()
	both, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatalf("certificate and key do not belong together: %v", err)
	}
	return both.Leaf
}

func verify(t *testing.T, signer *Authority, pair Pair, options x509.VerifyOptions) error {
	t.Helper()
	options.Roots = x509.NewCertPool()
	options.Roots.AppendCertsFromPEM(signer.Cert)
	_, err := leaf(t, pair).Verify(options)
	return err
}

func TestTheAPIServersCertificateHoldsForEveryNameItIsCalledBy(t *testing.T) {
	set := newTestSet(t)
	for _, name := range []string{"localhost", "127.0.0.1", "10.202.0.1", "kubernetes.default.svc"} {
		if err := verify(t, set.Root, set.APIServer, x509.VerifyOptions{DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := verify(t, set.Root, set.APIServer, x509.VerifyOptions{DNSName: "example.com"}); err == nil {
		t.Error("the certificate also holds for example.com")
	}
}

func TestAKubeletIsKnownAsItsNode(t *testing.T) {
	set := newTestSet(t)
	client := leaf(t, set.Kubelet["node1"])
	if client.Subject.CommonName != "system:node:node1" || client.Subject.Organization[0] != "system:nodes" {
		t.Errorf("subject %s", client.Subject)
	}
	asClient := x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if err := verify(t, set.Root, set.Kubelet["node1"], asClient); err != nil {
		t.Error(err)
	}
	if err := verify(t, set.Root, set.KubeletServing["node1"], x509.VerifyOptions{DNSName: "10.200.0.11"}); err != nil {
		t.Error(err)
	}
	if err := verify(t, set.Root, set.KubeletServing["node1"], asClient); err == nil {
		t.Error("a server's certificate can be used as a client's")
	}
}

func TestTheTwoAuthoritiesDoNotVouchForEachOther(t *testing.T) {
	set := newTestSet(t)
	anyUse := x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if err := verify(t, set.Root, set.APIToAggregated, anyUse); err == nil {
		t.Error("the cluster's authority vouches for the aggregator's certificate")
	}
}

func TestPrivateKeysAreReadableByTheirOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	if err := newTestSet(t).Write(dir); err != nil {
		t.Fatal(err)
	}
	keys, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil || len(keys) != 7 {
		t.Fatalf("keys %v, error %v", keys, err)
	}
	for _, key := range keys {
		if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, error %v", key, info.Mode(), err)
		}
	}
}

func TestAKubeconfigCarriesTheServerAndTheUsersKey(t *testing.T) {
	set := newTestSet(t)
	file, err := Kubeconfig("https://127.0.0.1:16443", set.Root, set.Admin)
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Clusters []struct {
			Cluster struct {
				Server    string `json:"server"`
				Authority []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(file, &parsed); err != nil {
		t.Fatal(err)
	}
	if got := parsed.Clusters[0].Cluster.Server; got != "https://127.0.0.1:16443" {
		t.Errorf("server %s", got)
	}
	user := parsed.Users[0].User
	if leaf(t, Pair{Cert: user.Cert, Key: user.Key}).Subject.CommonName != "admin" {
		t.Error("the user is not the administrator")
	}
}
