#include "librdkafka.h"

#include <string.h>

#define OFFSET_INVALID (-1001)

const char *missing_symbol(void) {
#define NEED(name)          \
	if (name == NULL)   \
	return #name
	NEED(rd_kafka_queue_get_partition);
	NEED(rd_kafka_queue_forward);
	NEED(rd_kafka_queue_io_event_enable);
	NEED(rd_kafka_queue_destroy);
	NEED(rd_kafka_consume_batch_queue);
	NEED(rd_kafka_message_destroy);
	NEED(rd_kafka_message_timestamp);
	NEED(rd_kafka_message_leader_epoch);
	NEED(rd_kafka_message_headers);
	NEED(rd_kafka_message_errstr);
	NEED(rd_kafka_header_get_all);
	NEED(rd_kafka_position);
	NEED(rd_kafka_topic_partition_list_new);
	NEED(rd_kafka_topic_partition_list_add);
	NEED(rd_kafka_topic_partition_list_destroy);
	NEED(rd_kafka_consumer_group_metadata);
	NEED(rd_kafka_consumer_group_metadata_generation_id);
	NEED(rd_kafka_consumer_group_metadata_destroy);
	NEED(rd_kafka_memberid);
	NEED(rd_kafka_mem_free);
#undef NEED
	return NULL;
}

static void lay_record(const rd_kafka_message_t *message, record_t *record) {
	int type = 0;

	record->value = (uintptr_t)message->payload;
	record->value_len = message->len;
	record->key = (uintptr_t)message->key;
	record->key_len = message->key_len;
	record->offset = message->offset;
	record->err = message->err;
	record->headers = 0;
	if (message->err) {
		const char *text = rd_kafka_message_errstr(message);
		record->key = 0;
		record->key_len = 0;
		record->value = (uintptr_t)text;
		record->value_len = text ? strlen(text) : 0;
		return;
	}
	record->timestamp = rd_kafka_message_timestamp(message, &type);
	record->timestamp_type = type;
	record->leader_epoch = rd_kafka_message_leader_epoch(message);
}

totals_t lay_headers(const uintptr_t *messages, record_t *records, int32_t size, header_t *headers, int32_t room) {
	totals_t totals = {.records = size};

	for (int32_t i = 0; i < size; i++) {
		record_t *record = &records[i];
		rd_kafka_headers_t *list;
		header_t h;
		size_t j = 0;

		if (record->err) {
			totals.errors++;
			continue;
		}
		totals.bytes += record->key_len + record->value_len;
		if (rd_kafka_message_headers((const rd_kafka_message_t *)messages[i], &list))
			continue; // it has none
		while (!rd_kafka_header_get_all(list, j, (const char **)&h.name, (const void **)&h.value, &h.value_len)) {
			h.name_len = strlen((const char *)h.name);
			totals.bytes += h.name_len + h.value_len;
			if (totals.headers < room)
				headers[totals.headers] = h;
			totals.headers++;
			j++;
		}
		record->headers = (int32_t)j;
	}
	return totals;
}

totals_t consume(rd_kafka_queue_t *queue, uintptr_t *messages, record_t *records, int32_t size, header_t *headers, int32_t room) {
	ssize_t n = rd_kafka_consume_batch_queue(queue, 0, (rd_kafka_message_t **)messages, (size_t)size);

	if (n < 0) // it says so of a queue of another kind, which ours is not
		n = 0;
	for (ssize_t i = 0; i < n; i++)
		lay_record((const rd_kafka_message_t *)messages[i], &records[i]);
	return lay_headers(messages, records, (int32_t)n, headers, room);
}

void release(const uintptr_t *messages, int32_t size) {
	for (int32_t i = 0; i < size; i++)
		rd_kafka_message_destroy((rd_kafka_message_t *)messages[i]);
}

int64_t position(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *list) {
	list->elems[0].offset = OFFSET_INVALID;
	if (rd_kafka_position(rk, list) || list->elems[0].err)
		return -1;
	return list->elems[0].offset;
}

int32_t generation(rd_kafka_t *rk) {
	rd_kafka_consumer_group_metadata_t *metadata = rd_kafka_consumer_group_metadata(rk);
	int32_t id;

	if (!metadata)
		return -1;
	id = rd_kafka_consumer_group_metadata_generation_id(metadata);
	rd_kafka_consumer_group_metadata_destroy(metadata);
	return id;
}

int member(rd_kafka_t *rk) {
	char *id = rd_kafka_memberid(rk);
	int is = id && *id;

	if (id)
		rd_kafka_mem_free(rk, id);
	return is;
}
