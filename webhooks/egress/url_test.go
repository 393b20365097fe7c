package egress

import (
	"strings"
	"testing"
)

// checkURLs asks what a policy says to URLs.
func checkURLs(t *testing.T, p Policy, allowed bool, urls ...string) {
	t.Helper()
	g := New(p, Options{Resolver: &answers{}}) // which nobody may ask: it would know no name
	for _, text := range urls {
		complaint := g.Complaint(text)
		if (complaint == "") != allowed {
			t.Errorf("%s: %q, want allowed = %v", text, complaint, allowed)
		}
		if strings.Contains(complaint, "s3cret") || strings.Contains(complaint, "10.") {
			t.Errorf("%s: the complaint repeats what it is about: %s", text, complaint)
		}
	}
}

func policyOf(t *testing.T, allowHTTP bool, ports string, cidrs ...string) Policy {
	t.Helper()
	p := Policy{AllowHTTP: allowHTTP, AllowedCIDRs: prefixes(cidrs...)}
	if ports != "" {
		var err error
		if p.AllowedPorts, err = ParsePorts(strings.Split(ports, ",")); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestU1_HTTPNeedsTheOperatorsLeave(t *testing.T) {
	checkURLs(t, Policy{}, true, "https://example.com/", "HTTPS://example.com/")
	checkURLs(t, Policy{}, false, "http://example.com/", "http://example.com:443/")
	checkURLs(t, policyOf(t, true, ""), true, "http://example.com/", "https://example.com/")
}

// TestU3_AddressesInURLs: how they may be written is checked in package webhooks.
func TestU3_AddressesInURLs(t *testing.T) {
	checkURLs(t, Policy{}, false, "https://127.0.0.1/", "https://10.0.0.1/s3cret", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest")
	checkURLs(t, Policy{}, true, "https://8.8.8.8/", "https://[2606:4700::1]/")
	checkURLs(t, policyOf(t, false, "", "10.1.0.0/16"), true, "https://10.1.2.3/")
	checkURLs(t, policyOf(t, false, "", "10.1.0.0/16"), false, "https://10.2.2.3/", "https://127.0.0.1/")
}

func TestU4_NamesOfPrivateNetworks(t *testing.T) {
	local := []string{"https://localhost/", "https://localhost./", "https://LOCALHOST/", "https://a.localhost/"}
	private := []string{
		"https://x.internal/", "https://x.local/", "https://billing.default.svc.cluster.local/", "https://billing/", "https://printer.local./",
	}
	const google = "https://metadata.google.internal/computeMetadata/v1/"
	checkURLs(t, Policy{}, false, append(append([]string{google}, local...), private...)...)
	checkURLs(t, Policy{}, true, "https://internal.example.com/", "https://local.example/", "https://localhost.example.com/")

	loopback := policyOf(t, false, "", "127.0.0.0/8")
	checkURLs(t, loopback, true, local...)
	checkURLs(t, loopback, false, append(private, google)...)

	cluster := policyOf(t, false, "", "10.96.0.0/12")
	checkURLs(t, cluster, true, private...)
	checkURLs(t, cluster, false, append(local, google)...)
	cluster.AllowMetadata = true
	checkURLs(t, cluster, true, google)
}

func TestU5_Ports(t *testing.T) {
	checkURLs(t, Policy{}, true, "https://example.com:443/", "https://example.com/")
	for _, port := range []string{"0", "22", "25", "80", "6379", "8443", "9092", "65536"} {
		checkURLs(t, Policy{}, false, "https://example.com:"+port+"/")
	}
	checkURLs(t, policyOf(t, true, "443,8000-8099"), true, "https://example.com:8099/", "http://example.com:8000/")
	checkURLs(t, policyOf(t, true, "443,8000-8099"), false, "http://example.com/", "https://example.com:8100/")
}

func TestU8_TheGatewayItself(t *testing.T) {
	p := policyOf(t, true, AnyPort, "127.0.0.0/8", "10.0.0.0/8")
	p.OwnURLs = []string{"https://gw.example.com/push", "http://10.0.0.5:8080"}
	p.Own = []string{"127.0.0.1:8081", ":8082", "broker-1.example.com:9092"}
	checkURLs(t, p, false, "https://gw.example.com/x", "https://GW.example.com.:443/", "http://10.0.0.5:8080/", "http://127.0.0.1:8081/",
		"http://127.0.0.1:8082/", "http://localhost:8082/", "http://127.9.9.9:8082/", "http://broker-1.example.com:9092/")
	checkURLs(t, p, true, "https://gw.example.com:8443/", "http://10.0.0.5:8081/", "http://127.0.0.1:8083/", "http://broker-2.example.com:9092/")
}
