package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/kpush/kpush/webhooks/egress"
)

// DeliveryConfig is what webhooks may reach, and how much at once. It holds for the whole installation;
// replicas should agree on it.
type DeliveryConfig struct {
	// MaxInFlightBytes bounds the records that requests under way carry, on this replica
	// and for all webhooks together. Of it each webhook has an equal part, and always
	// one delivery.
	MaxInFlightBytes int `koanf:"max_in_flight_bytes" usage:"bytes of records that may be under way to all receivers together, shared fairly among webhooks; 0 for no limit"`

	// MaxConnections bounds the requests under way of one webhook, each of which has a
	// connection of its own.
	MaxConnections int `koanf:"max_connections" usage:"connections that one webhook may have open to its receiver; 0 for as many as it has deliveries under way"`

	// AllowHTTP allows URLs without TLS.
	AllowHTTP bool `koanf:"allow_http" usage:"allow webhooks http:// URLs, which anybody on the way can read and change"`

	// AllowedCIDRs opens ranges that are not public, for receivers beside the gateway.
	// Names of private networks may be registered once there is such a range.
	AllowedCIDRs []string `koanf:"allowed_cidrs" usage:"ranges besides public addresses that deliveries may go to, like 10.1.0.0/16"`

	// AllowedPorts are ports, ranges like 8000-8099, or the word any.
	AllowedPorts []string `koanf:"allowed_ports" usage:"ports that deliveries may go to: numbers, ranges like 8000-8099, or any (default: 443, and 80 with allow_http)"`

	// DeniedCIDRs closes ranges though they are public or allowed: one's own network.
	DeniedCIDRs []string `koanf:"denied_cidrs" usage:"ranges that no delivery may go to, whatever else is allowed"`

	// AllowMetadata is the second switch to link-local addresses and to a cloud's
	// metadata services, beside a range of AllowedCIDRs that covers them.
	AllowMetadata bool `koanf:"allow_metadata" usage:"let allowed_cidrs count for link-local addresses and cloud metadata services, which hand out credentials"`

	// NAT64Prefixes are the /96 prefixes by which this network reaches IPv4.
	NAT64Prefixes []string `koanf:"nat64_prefixes" usage:"/96 prefixes of this network's NAT64, like 64:ff9b::/96: the IPv4 address in such a one is judged"`
}

// policy is what the settings come to, but for the gateway's own addresses. The
// error joins all that is wrong with them.
func (c DeliveryConfig) policy() (egress.Policy, error) {
	var errs []error
	note := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("delivery.%s: %w", key, err))
		}
	}
	p := egress.Policy{AllowHTTP: c.AllowHTTP, AllowMetadata: c.AllowMetadata}
	var err error
	p.AllowedCIDRs, err = egress.ParseCIDRs(c.AllowedCIDRs)
	note("allowed_cidrs", err)
	p.AllowedPorts, err = egress.ParsePorts(c.AllowedPorts)
	note("allowed_ports", err)
	p.DeniedCIDRs, err = egress.ParseCIDRs(c.DeniedCIDRs)
	note("denied_cidrs", err)
	p.NAT64, err = egress.ParseNAT64(c.NAT64Prefixes)
	note("nat64_prefixes", err)
	return p, errors.Join(errs...)
}

// newGuard makes the door through which everything goes that is sent to receivers.
// The listeners are there already, for it refuses their addresses.
func (g *gateway) newGuard() (*egress.Guard, error) {
	p, err := g.config.Delivery.policy()
	if err != nil {
		return nil, err
	}
	p.Own = append(p.Own, g.api.Addr().String(), g.management.Addr().String())
	for _, broker := range g.config.Kafka.Brokers {
		p.Own = append(p.Own, brokerAddress(broker))
	}
	p.OwnURLs = []string{g.config.API.PublicURL, g.config.Replica.AdvertisedURL}
	if p.AllowMetadata {
		g.logger.Warn("delivery.allow_metadata is set: what the machine's metadata service tells is only as safe as every webhook")
	}
	return egress.New(p, egress.Options{}), nil
}

// brokerAddress is host:port of a broker as librdkafka takes it: a protocol may stand
// before the host, and the port may be missing.
func brokerAddress(broker string) string {
	if _, address, ok := strings.Cut(broker, "://"); ok {
		broker = address
	}
	if _, _, err := net.SplitHostPort(broker); err != nil {
		return net.JoinHostPort(strings.Trim(broker, "[]"), "9092")
	}
	return broker
}
