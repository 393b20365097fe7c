package webhooks

import (
	"errors"

	"github.com/kpush/kpush/webhooks/filter"
)

// checkFilter compiles a filter, nil for none. What is wrong is told with its line
// and column.
func checkFilter(c *complaints, pointer string, expression *string) {
	if expression == nil {
		return
	}
	_, err := filter.Compile(*expression)
	if wrong, ok := errors.AsType[*filter.Error](err); ok {
		c.add(pointer, "is not a filter: %s", wrong)
	} else if err != nil {
		c.add(pointer, "cannot be compiled")
	}
}
