package config

import (
	"bytes"
	"errors"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The parser needs time that grows with the square of what it is given, and
// aliases can make little text large, so both are bounded. The bounds leave
// room for a thousand credentials.
const (
	maxTokens = 50_000
	maxNodes  = 100_000
	maxDepth  = 32

	expandsTooMuch = "the file is too large: it expands to more than 100000 values"
)

// nodeKind tells the kinds of values of a file apart.
type nodeKind int

const (
	nullNode nodeKind = iota
	scalarNode
	listNode
	mappingNode
)

// String is how errors name the kind.
func (k nodeKind) String() string {
	return [...]string{"nothing", "a single value", "a list", "a mapping"}[k]
}

// node is one value of the file, with aliases and merge keys resolved. What an
// alias points to is shared, not copied.
type node struct {
	kind nodeKind
	at   position
	// text is a scalar's text, and plain says that it has no quotes, so that
	// its look decides what it is.
	text  string
	plain bool
	items []*node
	pairs []pair
}

// pair is one key of a mapping and its value.
type pair struct{ key, value *node }

// child returns the value of a mapping's key, or nil.
func (n *node) child(key string) *node {
	for _, p := range n.pairs {
		if p.key.text == key {
			return p.value
		}
	}
	return nil
}

// parseYAML returns the one document of the text, which is a mapping. It stops
// at the first error: after a mistake in the syntax the rest means nothing.
func parseYAML(data []byte, name string) (*node, error) {
	root, err := parseRoot(bytes.TrimPrefix(data, []byte("\uFEFF")))
	var p *problem
	if errors.As(err, &p) {
		p.file = name
	}
	return root, err
}

func parseRoot(data []byte) (root *node, err error) {
	defer func() {
		// A running server reads its file again, and no text may stop it. The
		// library has panicked on odd text before (goccy/go-yaml#479).
		if recover() != nil {
			root, err = nil, failAt(position{}, "not valid YAML: the parser failed on it")
		}
	}()
	if len(data) > maxFileSize {
		return nil, failAt(position{}, "the file is larger than 1 MiB")
	}
	if !utf8.Valid(data) {
		return nil, failAt(position{}, "the file is not UTF-8 text")
	}
	body, err := parseDocument(data)
	if err != nil {
		return nil, err
	}
	if body == nil {
		return nil, failAt(position{}, "the file is empty: it must at least say version: %d", Version)
	}
	b := &builder{anchors: map[string]*node{}}
	root, err = b.build(body, 0)
	if err != nil {
		return nil, err
	}
	if root.kind != mappingNode {
		return nil, failAt(root.at, "the file must be a mapping that starts with version: %d, not %s", Version, root.kind)
	}
	return root, nil
}

// parseDocument returns the root of the only document, or nil if there is none.
func parseDocument(data []byte) (ast.Node, error) {
	tokens := lexer.Tokenize(string(data))
	if err := checkTokens(tokens); err != nil {
		return nil, err
	}
	// Duplicate keys are found by the builder, whose words fit the others.
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntaxProblem(err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case doc.Body.Type() == ast.DirectiveType:
			return nil, failAt(positionOf(doc.Body), "YAML directives are not supported: remove the line")
		case body != nil:
			return nil, failAt(positionOf(doc.Body), "the file holds several YAML documents: it must hold one")
		default:
			body = doc.Body
		}
	}
	return body, nil
}

// checkTokens keeps from the parser what would take it long.
func checkTokens(tokens token.Tokens) error {
	if len(tokens) > maxTokens {
		return failAt(position{}, "the file is too large: it has more than %d YAML tokens", maxTokens)
	}
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		}
		if depth > maxDepth {
			return failAt(position{t.Position.Line, t.Position.Column}, "nested too deeply")
		}
	}
	return nil
}

// syntaxProblem takes message and position from the library's error, and
// leaves out the piece of the file that the library would print.
func syntaxProblem(err error) error {
	var syntax yaml.Error
	if !errors.As(err, &syntax) {
		return failAt(position{}, "not valid YAML")
	}
	at := position{}
	if t := syntax.GetToken(); t != nil && t.Position != nil {
		at = position{t.Position.Line, t.Position.Column}
	}
	return failAt(at, "not valid YAML: %s", syntax.GetMessage())
}

// builder turns the library's tree into nodes.
type builder struct {
	// anchors are the anchors that are complete so far. An alias inside its
	// own anchor finds none, so the tree has no cycles.
	anchors map[string]*node
	// nodes counts what was built or merged, against maxNodes.
	nodes int
}

func (b *builder) build(n ast.Node, depth int) (*node, error) {
	if b.nodes++; b.nodes > maxNodes {
		return nil, failAt(position{}, expandsTooMuch)
	}
	at := positionOf(n)
	if depth > maxDepth {
		return nil, failAt(at, "nested too deeply")
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		return b.mapping(n.Values, at, depth)
	case *ast.MappingValueNode:
		return b.mapping([]*ast.MappingValueNode{n}, at, depth)
	case *ast.SequenceNode:
		return b.list(n, at, depth)
	case *ast.AnchorNode:
		return b.anchor(n, depth)
	case *ast.AliasNode:
		return b.alias(n)
	case *ast.MappingKeyNode:
		return b.build(n.Value, depth+1)
	case *ast.NullNode:
		return &node{kind: nullNode, at: at}, nil
	case *ast.StringNode:
		return &node{kind: scalarNode, at: at, text: n.Value, plain: n.Token.Type == token.StringType}, nil
	case *ast.LiteralNode:
		return &node{kind: scalarNode, at: at, text: n.Value.Value}, nil
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return &node{kind: scalarNode, at: at, text: n.GetToken().Value, plain: true}, nil
	case *ast.TagNode:
		return nil, failAt(at, "YAML tags are not supported: quote a value that must be text")
	default:
		return nil, failAt(at, "this form of YAML is not supported")
	}
}

func (b *builder) list(n *ast.SequenceNode, at position, depth int) (*node, error) {
	out := &node{kind: listNode, at: at}
	for _, value := range n.Values {
		item, err := b.build(value, depth+1)
		if err != nil {
			return nil, err
		}
		out.items = append(out.items, item)
	}
	return out, nil
}

func (b *builder) anchor(n *ast.AnchorNode, depth int) (*node, error) {
	value, err := b.build(n.Value, depth+1)
	if err != nil {
		return nil, err
	}
	name := n.Name.GetToken().Value
	if b.anchors[name] != nil {
		return nil, failAt(positionOf(n), "the anchor %s is defined twice", quote(name))
	}
	b.anchors[name] = value
	return value, nil
}

func (b *builder) alias(n *ast.AliasNode) (*node, error) {
	name := n.Value.GetToken().Value
	value := b.anchors[name]
	if value == nil {
		return nil, failAt(positionOf(n), "no anchor called %s is defined before this alias", quote(name))
	}
	return value, nil
}

func (b *builder) mapping(values []*ast.MappingValueNode, at position, depth int) (*node, error) {
	out := &node{kind: mappingNode, at: at}
	seen := map[string]position{}
	var merged []*node
	for _, v := range values {
		value, err := b.build(v.Value, depth+1)
		if err != nil {
			return nil, err
		}
		if v.Key.IsMergeKey() {
			merged = append(merged, value)
			continue
		}
		key, err := b.build(v.Key, depth+1)
		if err != nil {
			return nil, err
		}
		if key.kind == nullNode {
			return nil, failAt(key.at, "YAML does not read this key as text: quote it")
		}
		if key.kind != scalarNode {
			return nil, failAt(key.at, "a key must be a single value, not %s", key.kind)
		}
		if first, ok := seen[key.text]; ok {
			return nil, failAt(key.at, "the key %s is repeated: it stands in line %d already", quote(key.text), first.line)
		}
		seen[key.text] = key.at
		out.pairs = append(out.pairs, pair{key, value})
	}
	return out, b.merge(out, seen, merged)
}

// merge adds the pairs of the merge key's mappings that out does not have. The
// mapping's own keys win, then the mapping that is named first.
func (b *builder) merge(out *node, seen map[string]position, sources []*node) error {
	for _, source := range sources {
		switch source.kind {
		case mappingNode:
		case listNode:
			if err := b.merge(out, seen, source.items); err != nil {
				return err
			}
			continue
		default:
			return failAt(source.at, "a merge key (<<) takes a mapping or a list of mappings, not %s", source.kind)
		}
		for _, p := range source.pairs {
			if b.nodes++; b.nodes > maxNodes {
				return failAt(position{}, expandsTooMuch)
			}
			if _, ok := seen[p.key.text]; !ok {
				seen[p.key.text] = p.key.at
				out.pairs = append(out.pairs, p)
			}
		}
	}
	return nil
}

// positionOf returns where a node starts. A block mapping starts at its first
// key, though the library says at the colon behind it.
func positionOf(n ast.Node) position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return positionOf(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return positionOf(m.Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return position{t.Position.Line, t.Position.Column}
	}
	return position{}
}
