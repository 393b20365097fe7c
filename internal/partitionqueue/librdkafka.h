// The few functions of librdkafka's public C API that this package needs, and
// two of our own over them. We declare them ourselves, weak, so that the package
// links by itself; in a whole program they are those of the library that
// confluent-kafka-go brings. All of it is public, stable API: what librdkafka.h
// calls opaque stays opaque here.

#ifndef KPUSH_LIBRDKAFKA_H
#define KPUSH_LIBRDKAFKA_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WEAK __attribute__((weak))

typedef struct rd_kafka_s rd_kafka_t;
typedef struct rd_kafka_queue_s rd_kafka_queue_t;
typedef struct rd_kafka_topic_s rd_kafka_topic_t;
typedef struct rd_kafka_headers_s rd_kafka_headers_t;
typedef struct rd_kafka_consumer_group_metadata_s rd_kafka_consumer_group_metadata_t;

// An enum there; its type is int.
typedef int rd_kafka_resp_err_t;

typedef struct rd_kafka_message_s {
	rd_kafka_resp_err_t err;
	rd_kafka_topic_t *rkt;
	int32_t partition;
	void *payload;
	size_t len;
	void *key;
	size_t key_len;
	int64_t offset;
	void *_private;
} rd_kafka_message_t;

typedef struct rd_kafka_topic_partition_s {
	char *topic;
	int32_t partition;
	int64_t offset;
	void *metadata;
	size_t metadata_size;
	void *opaque;
	rd_kafka_resp_err_t err;
	void *_private;
} rd_kafka_topic_partition_t;

typedef struct rd_kafka_topic_partition_list_s {
	int cnt;
	int size;
	rd_kafka_topic_partition_t *elems;
} rd_kafka_topic_partition_list_t;

WEAK rd_kafka_queue_t *rd_kafka_queue_get_partition(rd_kafka_t *rk, const char *topic, int32_t partition);
WEAK void rd_kafka_queue_forward(rd_kafka_queue_t *src, rd_kafka_queue_t *dst);
WEAK void rd_kafka_queue_io_event_enable(rd_kafka_queue_t *queue, int fd, const void *payload, size_t size);
WEAK void rd_kafka_queue_destroy(rd_kafka_queue_t *queue);
WEAK ssize_t rd_kafka_consume_batch_queue(rd_kafka_queue_t *queue, int timeout_ms, rd_kafka_message_t **messages, size_t size);

WEAK void rd_kafka_message_destroy(rd_kafka_message_t *message);
WEAK int64_t rd_kafka_message_timestamp(const rd_kafka_message_t *message, int *type);
WEAK int32_t rd_kafka_message_leader_epoch(const rd_kafka_message_t *message);
WEAK rd_kafka_resp_err_t rd_kafka_message_headers(const rd_kafka_message_t *message, rd_kafka_headers_t **headers);
WEAK const char *rd_kafka_message_errstr(const rd_kafka_message_t *message);
WEAK rd_kafka_resp_err_t rd_kafka_header_get_all(const rd_kafka_headers_t *headers, size_t i, const char **name, const void **value, size_t *size);

WEAK rd_kafka_resp_err_t rd_kafka_position(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *partitions);
WEAK rd_kafka_topic_partition_list_t *rd_kafka_topic_partition_list_new(int size);
WEAK rd_kafka_topic_partition_t *rd_kafka_topic_partition_list_add(rd_kafka_topic_partition_list_t *list, const char *topic, int32_t partition);
WEAK void rd_kafka_topic_partition_list_destroy(rd_kafka_topic_partition_list_t *list);

WEAK rd_kafka_consumer_group_metadata_t *rd_kafka_consumer_group_metadata(rd_kafka_t *rk);
WEAK int32_t rd_kafka_consumer_group_metadata_generation_id(const rd_kafka_consumer_group_metadata_t *metadata);
WEAK void rd_kafka_consumer_group_metadata_destroy(rd_kafka_consumer_group_metadata_t *metadata);
WEAK char *rd_kafka_memberid(const rd_kafka_t *rk);
WEAK void rd_kafka_mem_free(rd_kafka_t *rk, void *ptr);

// missing_symbol is the name of a function above that the program was linked
// without, NULL when all are there.
const char *missing_symbol(void);

// A record is one message laid flat. Addresses are those of librdkafka's memory,
// as numbers so that neither cgo nor the collector looks at them; 0 is null,
// which an empty key or value is not.
typedef struct {
	uintptr_t key, value;
	size_t key_len, value_len;
	int64_t offset, timestamp;
	int32_t leader_epoch, timestamp_type;
	int32_t err;     // not 0: no record but an error, and value is its text
	int32_t headers; // how many of the headers are this message's
} record_t;

typedef struct {
	uintptr_t name, value;
	size_t name_len, value_len;
} header_t;

// What consume brought, besides the records themselves.
typedef struct {
	int32_t records;
	int32_t errors;  // how many of the records are errors
	int32_t headers; // of all records
	size_t bytes;    // of all keys, values and headers
} totals_t;

// consume takes up to size messages out of the queue, without waiting, and lays
// them flat. Of the headers it lays down as many as there is room for; where
// totals.headers says that this was not enough, lay_headers does it again.
// messages gets the messages themselves, which release gives back.
totals_t consume(rd_kafka_queue_t *queue, uintptr_t *messages, record_t *records, int32_t size, header_t *headers, int32_t room);
totals_t lay_headers(const uintptr_t *messages, record_t *records, int32_t size, header_t *headers, int32_t room);
void release(const uintptr_t *messages, int32_t size);

// position is where the consumer stands in list's one partition, negative for unknown.
int64_t position(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *list);

// generation is the group's, as the consumer knows it; -1 outside of a group.
int32_t generation(rd_kafka_t *rk);

// member tells whether the consumer has a member id, by which its group knows it.
int member(rd_kafka_t *rk);

#endif
