package filter

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
)

// The bounds of an expression.
const (
	// MaxLength of an expression, in bytes.
	MaxLength = 4096

	maxNodes      = 4000 // of its syntax tree, macros expanded
	maxNesting    = 100  // of parentheses and calls
	maxLoops      = 3    // within each other
	maxPattern    = 1000 // instructions of a regular expression
	maxReason     = 300  // bytes of what is told about an expression
	parseRecovery = 1    // one complaint is enough
)

// Names of the variables.
const (
	varKey        = "key"
	varKeyBytes   = "key_bytes"
	varValue      = "value"
	varValueBytes = "value_bytes"
	varTombstone  = "tombstone"
	varHeaders    = "headers"
	varTopic      = "topic"
	varPartition  = "partition"
	varOffset     = "offset"
	varTimestamp  = "timestamp"
)

// Filter is a compiled expression. It is safe for concurrent use.
type Filter struct {
	program cel.Program
	source  *ast.SourceInfo
}

// Error says what is wrong with an expression, and where. Lines and columns count
// from 1, columns in characters.
type Error struct {
	Line, Column int
	Reason       string // one line, bounded
}

func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Reason)
}

// wrong is an Error about an expression as a whole.
func wrong(format string, args ...any) *Error { return &Error{1, 1, fmt.Sprintf(format, args...)} }

// environment is what expressions are compiled in. Making it takes milliseconds.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.OptionalTypes(),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.Variable(varKey, cel.StringType),
		cel.Variable(varKeyBytes, cel.BytesType),
		cel.Variable(varValue, cel.DynType),
		cel.Variable(varValueBytes, cel.BytesType),
		cel.Variable(varTombstone, cel.BoolType),
		cel.Variable(varHeaders, cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable(varTopic, cel.StringType),
		cel.Variable(varPartition, cel.IntType),
		cel.Variable(varOffset, cel.IntType),
		cel.Variable(varTimestamp, cel.TimestampType),
		cel.ParserExpressionSizeLimit(MaxLength),
		cel.ParserRecursionLimit(maxNesting),
		cel.ParserErrorRecoveryLimit(parseRecovery),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxPattern),
		cel.CostSizingStrategy(cost.AggregateSizingStrategy()),
		cel.ASTValidators(
			cel.ValidateComprehensionNestingLimit(maxLoops),
			cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals(),
		),
	)
})

// Compile makes a filter of an expression, which has to be of type bool. The error
// is an *Error, unless CEL itself is broken.
func Compile(expression string) (*Filter, error) {
	if len(expression) > MaxLength {
		return nil, wrong("must be at most %d bytes", MaxLength)
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("making the environment of filters: %w", err)
	}
	checked, issues := env.Compile(expression)
	if issues.Err() != nil {
		return nil, firstOf(issues)
	}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, wrong("is of type %s and must be of type bool", plain(t.String()))
	}
	traits := look(checked.NativeRep())
	if traits.pattern != 0 {
		at := checked.NativeRep().SourceInfo().GetStartLocation(traits.pattern)
		return nil, &Error{at.Line(), at.Column() + 1, "the pattern of matches must be a literal"}
	}
	if err := affordable(checked); err != nil {
		return nil, err
	}
	program, err := env.Program(checked, options(traits)...)
	if err != nil {
		return nil, wrong("%s", plain(err.Error()))
	}
	return &Filter{program, checked.NativeRep().SourceInfo()}, nil
}

// affordable refuses what could use up its budget with an ordinary record.
func affordable(checked *cel.Ast) error {
	estimate, err := cost.Cost(checked.NativeRep(), ordinary{})
	if err != nil {
		return wrong("its cost cannot be estimated")
	}
	if estimate.Max > maxCost {
		return wrong("is too expensive: with lists of %d elements it could take more than the %d steps it may", ordinaryElements, maxCost)
	}
	return nil
}

// firstOf is the first complaint of the compiler.
func firstOf(issues *cel.Issues) error {
	for _, e := range issues.Errors() {
		return &Error{max(1, e.Location.Line()), max(0, e.Location.Column()) + 1, plain(e.Message)}
	}
	return wrong("%s", plain(issues.Err().Error()))
}

// plain is a text as it may be shown: in one line, of bounded length.
func plain(text string) string {
	text, _, _ = strings.Cut(text, " (in container '')")
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

// traits of an expression.
type traits struct {
	builds  bool  // lists or maps, or gives names to values: what it makes may share parts
	pattern int64 // the id of a pattern that is no literal; 0 for none
}

// look walks over the tree of an expression.
func look(tree *ast.AST) traits {
	var t traits
	ast.PostOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.ComprehensionKind, ast.MapKind:
			t.builds = true
		case ast.ListKind:
			for _, element := range e.AsList().Elements() {
				t.builds = t.builds || element.Kind() != ast.LiteralKind
			}
		case ast.CallKind:
			call := e.AsCall()
			if args := call.Args(); call.FunctionName() == "matches" && len(args) > 0 {
				if last := args[len(args)-1]; last.Kind() != ast.LiteralKind {
					t.pattern = last.ID()
				}
			}
		}
	}))
	return t
}

// Explain tells why Match failed and where in the expression, in one line that
// holds nothing of a record.
func (f *Filter) Explain(err error) string {
	if limit, ok := errors.AsType[limitError](err); ok {
		return limit.Error()
	}
	return f.explainEvaluation(err)
}
