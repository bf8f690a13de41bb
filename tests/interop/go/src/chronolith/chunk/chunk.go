// Package chunk cuts values into chunks and names chunks and nodes by their bytes, as docs/format/chunking.md says.
package chunk

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// MaxLen is the maximum number of bytes in a chunk.
const MaxLen = 1 << 20

// Policy tells where a value is cut.
type Policy uint32

// Policies, by their numbers in recipes.
const (
	Fixed          Policy = 1
	ContentDefined Policy = 2
)

// Chunking is a policy with its size.
type Chunking struct {
	Policy Policy
	Size   uint32
}

// Whole cuts only values longer than 1 MiB; Automatic is what suits most values.
var (
	Whole     = Chunking{Fixed, 1 << 20}
	Automatic = Chunking{ContentDefined, 16384}
)

// ParseChunking returns the chunking that a text means: automatic, whole, fixed:N or content-defined:N.
func ParseChunking(text string) (Chunking, error) {
	switch text {
	case "automatic":
		return Automatic, nil
	case "whole":
		return Whole, nil
	}
	name, number, _ := strings.Cut(text, ":")
	policy, known := map[string]Policy{"fixed": Fixed, "content-defined": ContentDefined}[name]
	size, err := strconv.ParseUint(number, 10, 32)
	if !known || err != nil {
		return Chunking{}, fmt.Errorf("chunking %q: not automatic, whole, fixed:N or content-defined:N", text)
	}
	c := Chunking{policy, uint32(size)}
	return c, c.Check()
}

// String returns the text that ParseChunking takes.
func (c Chunking) String() string {
	switch c.Policy {
	case Fixed:
		return fmt.Sprintf("fixed:%d", c.Size)
	case ContentDefined:
		return fmt.Sprintf("content-defined:%d", c.Size)
	}
	return fmt.Sprintf("policy %d:%d", uint32(c.Policy), c.Size)
}

// Check returns an error if the format does not have this policy or not this size.
func (c Chunking) Check() error {
	switch {
	case c.Policy == Fixed && 512 <= c.Size && c.Size <= MaxLen:
	case c.Policy == ContentDefined && 1024 <= c.Size && c.Size <= MaxLen/2:
	default:
		return fmt.Errorf("no chunking: policy %d with size %d", c.Policy, c.Size)
	}
	return nil
}

// bounds returns the lengths of the shortest chunk, except the last, and of the longest.
func (c Chunking) bounds() (shortest, longest int) {
	size := int(c.Size)
	if c.Policy == Fixed {
		return size, size
	}
	return size / 2, size + size/2
}

// IsHole reports whether all bytes are zero: such a chunk is not stored.
func IsHole(b []byte) bool {
	// Every byte equals the one before it, and the first is zero. The library compares by vectors.
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// Kind tells a chunk from a node: their ids are made in different ways.
type Kind uint8

// Kinds, by their numbers in packs.
const (
	Data Kind = 1
	Node Kind = 2
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case Data:
		return "chunk"
	case Node:
		return "node"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// IDLen is the number of bytes in an ID.
const IDLen = 32

// ID is the name of a chunk or node, made from its bytes.
type ID [IDLen]byte

// String returns the id in 64 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID returns the id of exactly the digits that String returns.
func ParseID(text string) (id ID, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != IDLen || strings.ToLower(text) != text {
		return id, fmt.Errorf("id %.70q: not 64 lower-case hexadecimal digits", text)
	}
	copy(id[:], b)
	return id, nil
}

// Less reports whether an id is before another in the order of their bytes.
func (id ID) Less(other ID) bool { return bytes.Compare(id[:], other[:]) < 0 }
