package pki

import (
	"fmt"

	"sigs.k8s.io/yaml"
)

// Kubeconfig returns the file by which user reaches the API server at the URL server, which is
// trusted when authority signed it.
func Kubeconfig(server string, authority *Authority, user Pair) ([]byte, error) {
	type object = map[string]any
	file, err := yaml.Marshal(object{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": "nsm-e2e",
		"clusters": []object{{"name": "nsm-e2e", "cluster": object{
			"server":                     server,
			"certificate-authority-data": authority.Cert,
		}}},
		"users": []object{{"name": "nsm-e2e", "user": object{
			"client-certificate-data": user.Cert,
			"client-key-data":         user.Key,
		}}},
		"contexts": []object{{"name": "nsm-e2e", "context": object{
			"cluster": "nsm-e2e",
			"user":    "nsm-e2e",
		}}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode the kubeconfig for %s: %w", server, err)
	}
	return file, nil
}
