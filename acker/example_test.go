package acker_test

import (
	"fmt"
	"time"

	"github.com/kpush/kpush/acker"
)

// A batch is sent, acked in part, and its rest dead-lettered.
func Example() {
	ledger := acker.NewLedger()
	batch, err := ledger.Deliver([]acker.Run{{First: 1200, Last: 1201}, {First: 1203, Last: 1249}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ledger.Send(batch, time.Now())
	fmt.Println("commit", ledger.Next())

	answer, err := ledger.Apply(acker.Statement{Outcome: acker.Ack, First: 1200, Last: 1249, UpTo: 1201})
	fmt.Println("commit", ledger.Next(), "covers it from", answer.Cover, err)

	_, err = ledger.Apply(acker.Statement{Outcome: acker.Ack, First: 1200, Last: 1249, UpTo: 1300})
	fmt.Println(err)

	ledger.Settle(batch)
	fmt.Println("commit", ledger.Next())
	// Output:
	// commit 1200
	// commit 1203 covers it from 1202 <nil>
	// offset was never delivered in this tenure
	// commit 1250
}
