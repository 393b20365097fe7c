package receiver

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestAcksOnTheWire(t *testing.T) {
	tests := map[string]struct {
		ack  Ack
		want string // empty: ErrAck
	}{
		"the zero one acks":                     {Ack{}, `{"outcome":"ack"}`},
		"all":                                   {AckAll(), `{"outcome":"ack"}`},
		"the head":                              {AckUpTo(1210), `{"outcome":"ack","up_to_offset":1210}`},
		"a head that ends at 0":                 {AckUpTo(0), `{"outcome":"ack","up_to_offset":0}`},
		"a head below 0":                        {AckUpTo(-1), ``},
		"nack at once":                          {Nack(0, ""), `{"outcome":"nack","delay_ms":0}`},
		"nack":                                  {Nack(5*time.Second, "db down"), `{"outcome":"nack","delay_ms":5000,"reason":"db down"}`},
		"a delay is not cut to nothing":         {Nack(time.Nanosecond, ""), `{"outcome":"nack","delay_ms":1}`},
		"a delay beyond a day":                  {Nack(math.MaxInt64, ""), `{"outcome":"nack","delay_ms":86400000}`},
		"a delay below 0":                       {Nack(-1, ""), ``},
		"a reason that is too long":             {Nack(0, strings.Repeat("ä", 600)), `{"outcome":"nack","delay_ms":0,"reason":"` + strings.Repeat("ä", 512) + `"}`},
		"a reason is cut between characters":    {Nack(0, "x"+strings.Repeat("ä", 600)), `{"outcome":"nack","delay_ms":0,"reason":"x` + strings.Repeat("ä", 511) + `"}`},
		"a reason that is not UTF-8":            {Nack(0, "a\xffb"), `{"outcome":"nack","delay_ms":0,"reason":"a` + "\ufffd" + `b"}`},
		"extend":                                {Extend(time.Minute), `{"outcome":"extend","extend_ms":60000}`},
		"extend by a little":                    {Extend(time.Nanosecond), `{"outcome":"extend","extend_ms":1}`},
		"extend beyond a day":                   {Extend(48 * time.Hour), `{"outcome":"extend","extend_ms":86400000}`},
		"extend by nothing":                     {Extend(0), ``},
		"reject":                                {Reject("bad schema"), `{"outcome":"reject","reason":"bad schema"}`},
		"partial without a failure acks":        {Partial(), `{"outcome":"ack"}`},
		"partial":                               {Partial(Failure{1203, ActionRetry, ""}, Failure{1207, ActionDeadLetter, "x"}), `{"outcome":"partial","failures":[{"offset":1203,"action":"retry"},{"offset":1207,"action":"dead_letter","reason":"x"}]}`},
		"partial with an action that is none":   {Partial(Failure{1203, "pray", ""}), ``},
		"what comes later is not said":          {Later(), ``},
		"an outcome that is none":               {Ack{Outcome: "maybe"}, ``},
		"fields of other outcomes are not sent": {Ack{Outcome: OutcomeAck, Delay: time.Second, Reason: "x", UpTo: 7}, `{"outcome":"ack"}`},
	}
	for name, tt := range tests {
		s, err := tt.ack.statement()
		if tt.want == "" {
			if !errors.Is(err, ErrAck) {
				t.Errorf("%s: got %v, want %v", name, err, ErrAck)
			}
			continue
		}
		got, encodeErr := json.Marshal(s)
		if err != nil || encodeErr != nil || string(got) != tt.want {
			t.Errorf("%s: %v, %v\n got %s\nwant %s", name, err, encodeErr, got, tt.want)
		}
	}
}
