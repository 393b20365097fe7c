package acker

import (
	"encoding/base32"
	"encoding/binary"
)

const (
	deliveryIDPurpose = "kpush delivery id v1"
	deliveryIDPrefix  = "dl_"
)

// deliveryIDEncoding writes 5 bits a character, in lower case and digits: an
// id is part of the text that is signed, whose parts a full stop sets apart.
var deliveryIDEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// DeliveryIDs makes delivery ids: "dl_" and 26 characters of the base32 of a
// keyed hash over what was delivered. The same records of the same webhook have
// the same id on every attempt, after a restart and on every replica with the
// same key; without the key nobody can tell what an id will be. Safe for
// concurrent use.
type DeliveryIDs struct {
	key *macKey
}

// NewDeliveryIDs returns DeliveryIDs under key, a secret. It panics if the key
// is shorter than 32 bytes.
func NewDeliveryIDs(key []byte) *DeliveryIDs {
	return &DeliveryIDs{key: newMACKey(key, deliveryIDPurpose)}
}

// ID returns the id of the delivery of the records first to last, both
// inclusive, to a webhook. topicID is Kafka's, so that a topic deleted and made
// again has other ids.
func (d *DeliveryIDs) ID(tenant, webhook, topic string, topicID [16]byte, partition int32, first, last int64) string {
	return d.id(tenant, webhook, topic, topicID, partition, first, last, nil)
}

// IDOfRuns is ID where other deliveries may have records between those of this one:
// another set of records has another id even with the same bounds. One run has the id
// of its bounds.
func (d *DeliveryIDs) IDOfRuns(tenant, webhook, topic string, topicID [16]byte, partition int32, runs []Run) string {
	first, last := runs[0].First, runs[len(runs)-1].Last
	if len(runs) == 1 {
		runs = nil
	}
	return d.id(tenant, webhook, topic, topicID, partition, first, last, runs)
}

func (d *DeliveryIDs) id(tenant, webhook, topic string, topicID [16]byte, partition int32, first, last int64, runs []Run) string {
	state := d.key.get()
	defer d.key.put(state)

	b := appendString(state.message, tenant)
	b = appendString(b, webhook)
	b = appendString(b, topic)
	b = append(b, topicID[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(partition))
	b = binary.BigEndian.AppendUint64(b, uint64(first))
	b = binary.BigEndian.AppendUint64(b, uint64(last))
	for _, r := range runs {
		b = binary.BigEndian.AppendUint64(b, uint64(r.First))
		b = binary.BigEndian.AppendUint64(b, uint64(r.Last))
	}
	sum := state.mac(b)
	b = append(b[:0], deliveryIDPrefix...)
	b = deliveryIDEncoding.AppendEncode(b, sum)
	state.message = b
	return string(b)
}
