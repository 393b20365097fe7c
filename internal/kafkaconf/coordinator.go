package kafkaconf

import "time"

// CoordinatorTimeout is the request timeout of admin calls that go to a group's
// coordinator: the longest that the client takes. Waiting is bounded by the call's
// context instead.
//
// Such a request that times out inside the client while the coordinator is away
// aborts the process when it comes back: "rd_kafka_enq_once_del_source_return:
// Assertion eonce->refcnt > 0" (librdkafka issue 4605, seen with 2.11). One that is
// merely not waited for any more does not, and neither does closing the client.
const CoordinatorTimeout = time.Hour
