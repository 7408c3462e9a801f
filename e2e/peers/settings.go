package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
)

// setting is a variable of the environment, or what stands for it.
func setting(name, otherwise string) string {
	if value, ok := os.LookupEnv("NSM_" + name); ok {
		return value
	}
	return otherwise
}

func durationSetting(name string, otherwise time.Duration) (time.Duration, error) {
	value, err := time.ParseDuration(setting(name, otherwise.String()))
	if err != nil {
		return 0, fmt.Errorf("NSM_%s: %w", name, err)
	}
	return value, nil
}

// listSetting splits at commas.
func listSetting(name string) []string {
	return strings.FieldsFunc(setting(name, ""), func(r rune) bool { return r == ',' })
}

// mapSetting reads key:value,key2:value2.
func mapSetting(name string) map[string]string {
	values := map[string]string{}
	for _, item := range listSetting(name) {
		key, value, _ := strings.Cut(item, ":")
		values[key] = value
	}
	return values
}

func urlSetting(name string) (*url.URL, error) {
	value := setting(name, "")
	parsed, err := url.Parse(value)
	if err != nil || value == "" {
		return nil, fmt.Errorf("NSM_%s=%q is no URL", name, value)
	}
	return parsed, nil
}

func urlsSetting(name string) ([]*url.URL, error) {
	var urls []*url.URL
	for _, item := range listSetting(name) {
		parsed, err := url.Parse(item)
		if err != nil {
			return nil, fmt.Errorf("NSM_%s: %w", name, err)
		}
		urls = append(urls, parsed)
	}
	if len(urls) == 0 {
		return nil, fmt.Errorf("NSM_%s lists no URL", name)
	}
	return urls, nil
}

// prefixesSetting makes a group of each prefix.
func prefixesSetting(name string) ([][]*net.IPNet, error) {
	var groups [][]*net.IPNet
	for _, item := range listSetting(name) {
		_, prefix, err := net.ParseCIDR(item)
		if err != nil {
			return nil, fmt.Errorf("NSM_%s: %w", name, err)
		}
		groups = append(groups, []*net.IPNet{prefix})
	}
	return groups, nil
}
