package egress

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// AnyPort stands for every port in a list of Ports.
const AnyPort = "any"

// Ports are ports that may be dialled. The zero value is no port at all.
type Ports []portRange

type portRange struct{ first, last uint16 }

var errPorts = errors.New("must be ports from 1 to 65535 and ranges of them, such as 443 and 8000-8099, or " + AnyPort)

// ParsePorts reads a list of ports, ranges of them ("8000-8099", both ends meant),
// and AnyPort.
func ParsePorts(list []string) (Ports, error) {
	var ports Ports
	for _, text := range list {
		if text == AnyPort {
			ports = append(ports, portRange{1, math.MaxUint16})
			continue
		}
		low, high, isRange := strings.Cut(text, "-")
		if !isRange {
			high = low
		}
		first, err := strconv.ParseUint(low, 10, 16)
		last, also := strconv.ParseUint(high, 10, 16)
		if err != nil || also != nil || first == 0 || last < first {
			return nil, errPorts
		}
		ports = append(ports, portRange{uint16(first), uint16(last)})
	}
	return ports, nil
}

func (p Ports) contain(port uint16) bool {
	for _, r := range p {
		if r.first <= port && port <= r.last {
			return true
		}
	}
	return false
}
