package filter

import (
	"errors"
	"fmt"
	"regexp"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	celtraits "cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// What one evaluation may use.
const (
	maxCost     = 100_000 // steps by CEL's cost model
	maxElements = 200_000 // of a value that is built: elements of lists and maps, tens of bytes of strings
	maxMatching = 4 << 20 // bytes of text times instructions of the pattern, per use of matches
	longText    = 1000    // bytes that are compared in the time of one step
)

// The ordinary record by which costs are estimated.
const (
	ordinaryElements = 100  // of a list or map
	ordinaryText     = 1000 // bytes of a string
)

// ordinary tells the sizes of the ordinary record. It implements cost.Estimator.
type ordinary struct{}

func (ordinary) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	size := cost.RangedSizeEstimate(0, ordinaryElements)
	switch n.Type().Kind() {
	case types.StringKind, types.BytesKind:
		size = cost.RangedSizeEstimate(0, ordinaryText)
	}
	return &size
}

func (ordinary) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// options are those of an expression's program.
func options(t traits) []cel.ProgramOption {
	list := []cel.ProgramOption{
		cel.EvalOptions(cel.OptOptimize),
		cel.OptimizeRegex(pattern("matches"), pattern("matches_string")),
		cel.CostTracking(charges{}),
		cel.CostLimit(maxCost),
	}
	if t.builds {
		list = append(list, cel.MemoryLimit(maxElements))
	}
	return list
}

// charges adds what CEL's cost model takes for free: conversions read or copy the
// whole of a text, a long one may be compared to its end with each in a list, and a time
// zone is read from a file. It implements cost.ActualCostEstimator.
type charges struct{}

func (charges) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	switch function {
	case "string", "bytes", "size", "int", "uint", "double", "bool", "timestamp", "duration":
		if len(args) == 1 {
			if n := textLen(args[0]); n > 0 {
				return new(1 + uint64(n)/10)
			}
		}
	case operators.In:
		list, ok := args[1].(celtraits.Lister)
		if n := textLen(args[0]); ok && n >= longText {
			if size, ok := list.Size().(types.Int); ok {
				return new(uint64(size) * uint64(1+n/longText))
			}
		}
	case "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds":
		if len(args) == 2 {
			return new(uint64(500))
		}
	}
	return nil
}

func textLen(v ref.Val) int {
	switch v := v.(type) {
	case types.String:
		return len(v)
	case types.Bytes:
		return len(v)
	}
	return 0
}

// limitError says that a record would take more than an evaluation may use.
type limitError struct{ error }

var errMatching = limitError{errors.New("a text is too long for the pattern it is matched with")}

// pattern compiles the literal patterns of one overload of matches once, and has
// them charged before they run: RE2 takes time in proportion to both the text and
// the pattern, and cannot be stopped.
func pattern(overload string) *interpreter.RegexOptimization {
	return &interpreter.RegexOptimization{
		Function: "matches", OverloadID: overload, RegexIndex: 1,
		Factory: func(call interpreter.InterpretableCall, text string) (interpreter.InterpretableCall, error) {
			re, err := regexp.Compile(text)
			if err != nil {
				return nil, errors.New("the pattern of matches does not compile")
			}
			size, err := types.RegexProgramSize(text)
			if err != nil || size > maxPattern {
				return nil, errors.New("the pattern of matches is too large")
			}
			match := func(args ...ref.Val) ref.Val {
				in, ok := args[0].(types.String)
				if !ok {
					return types.NoSuchOverloadErr()
				}
				if len(in) > maxMatching/size {
					return types.WrapErr(errMatching)
				}
				return types.Bool(re.MatchString(string(in)))
			}
			return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), match), nil
		},
	}
}

// explainEvaluation tells of an error that is no limit of ours.
func (f *Filter) explainEvaluation(err error) string {
	if cancelled, ok := errors.AsType[interpreter.EvalCancelledError](err); ok {
		if cancelled.Cause == interpreter.MemoryLimitExceeded {
			return "it builds too large a value"
		}
		return "it takes too many steps"
	}
	const about = "a field is missing, or is not of the type that the expression takes it for"
	if e, ok := errors.AsType[*types.Err](err); ok && e.NodeID() > 0 {
		if at := f.source.GetStartLocation(e.NodeID()); at.Line() > 0 {
			return fmt.Sprintf("line %d, column %d: %s", at.Line(), at.Column()+1, about)
		}
	}
	return about
}
