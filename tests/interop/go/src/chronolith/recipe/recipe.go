// Package recipe reads and writes recipes, which tell the chunks of a large value, and the nodes that they refer to, as
// docs/format/chunking.md and docs/format/chunks.proto say.
package recipe

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"unicode/utf8"

	"chronolith/chunk"
	"chronolith/internal/wire"
)

// Limits of recipes and nodes.
const (
	MaxReferences = 256
	MaxHeight     = 8
	MaxOrigin     = 255
	// MaxLen is more than any recipe or node has bytes.
	MaxLen = 16 << 10
)

// Forms: the byte before the message of a recipe.
const (
	formList = 1
	formTree = 2
)

// Reference stands for bytes of a value: those of a chunk, those beneath a node, or the zeros of a hole.
type Reference struct {
	ID     chunk.ID // of no meaning in a hole
	Hole   bool
	Length uint64 // bytes of the value
}

// Recipe is what a database holds instead of a large value.
type Recipe struct {
	Length     uint64 // bytes of the value
	Chunking   chunk.Chunking
	Height     int // levels of nodes between the references and the chunks
	References []Reference
	Origin     string // where the value came from
}

// Encode returns the form byte and the message.
func (r *Recipe) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	form := byte(formList)
	if r.Height > 0 {
		form = formTree
	}
	b := wire.AppendUint([]byte{form}, 1, r.Length)
	chunking := wire.AppendUint(nil, 1, uint64(r.Chunking.Policy))
	b = wire.AppendBytes(b, 2, wire.AppendUint(chunking, 2, uint64(r.Chunking.Size)))
	b = wire.AppendUint(b, 3, uint64(r.Height))
	b = appendReferences(b, 4, r.References)
	return wire.AppendBytes(b, 5, []byte(r.Origin)), nil
}

// Decode returns the recipe of these bytes. It refuses everything that Encode does not return.
func Decode(b []byte) (*Recipe, error) {
	r, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("recipe: %w", err)
	}
	return r, nil
}

func decode(b []byte) (*Recipe, error) {
	if len(b) == 0 || b[0] != formList && b[0] != formTree {
		return nil, errors.New("byte 0: no form that a recipe has")
	}
	r := new(Recipe)
	in := wire.NewReader(b, 1, 4)
	for tag := in.Next(); tag != 0; tag = in.Next() {
		switch tag {
		case 1<<3 | wire.Varint:
			r.Length = in.Uint(math.MaxUint64)
		case 2<<3 | wire.Bytes:
			r.Chunking = decodeChunking(in.Message())
		case 3<<3 | wire.Varint:
			r.Height = int(in.Uint(MaxHeight))
		case 4<<3 | wire.Bytes:
			r.References = appendReference(r.References, in)
		case 5<<3 | wire.Bytes:
			r.Origin = string(in.Bytes(MaxOrigin))
		default:
			in.Unknown(tag)
		}
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	if (b[0] == formTree) != (r.Height > 0) {
		return nil, fmt.Errorf("byte 0: form %d of a recipe of height %d", b[0], r.Height)
	}
	return r, r.check()
}

func decodeChunking(in *wire.Reader) (c chunk.Chunking) {
	for tag := in.Next(); tag != 0; tag = in.Next() {
		switch tag {
		case 1<<3 | wire.Varint:
			c.Policy = chunk.Policy(in.Uint(math.MaxUint32))
		case 2<<3 | wire.Varint:
			c.Size = uint32(in.Uint(math.MaxUint32))
		default:
			in.Unknown(tag)
		}
	}
	return c
}

// check returns an error for a recipe that the format does not have.
func (r *Recipe) check() error {
	if r.Height < 0 || r.Height > MaxHeight {
		return fmt.Errorf("height %d: not 0 to %d", r.Height, MaxHeight)
	}
	if len(r.Origin) > MaxOrigin || !utf8.ValidString(r.Origin) {
		return fmt.Errorf("origin %.80q: not UTF-8 of at most %d bytes", r.Origin, MaxOrigin)
	}
	if err := r.Chunking.Check(); err != nil {
		return err
	}
	sum, err := checkReferences(r.References, r.Height)
	if err == nil && sum != r.Length {
		err = fmt.Errorf("length %d of a value, whose references have %d", r.Length, sum)
	}
	return err
}

// EncodeNode returns the message of a node with these references, which have so many levels of nodes between them and
// the chunks.
func EncodeNode(refs []Reference, height int) ([]byte, error) {
	if _, err := checkReferences(refs, height); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	return appendReferences(nil, 1, refs), nil
}

// DecodeNode returns the references of a node, which have so many levels of nodes between them and the chunks, and the
// sum of their lengths. It refuses everything that EncodeNode does not return.
func DecodeNode(b []byte, height int) (refs []Reference, length uint64, err error) {
	in := wire.NewReader(b, 0, 1)
	for tag := in.Next(); tag != 0; tag = in.Next() {
		if tag != 1<<3|wire.Bytes {
			in.Unknown(tag)
			break
		}
		refs = appendReference(refs, in)
	}
	if err = in.Err(); err == nil {
		length, err = checkReferences(refs, height)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("node: %w", err)
	}
	return refs, length, nil
}

// checkReferences returns the sum of lengths of the references in a recipe or node. Only a chunk has a maximum length,
// and only between chunks there are holes.
func checkReferences(refs []Reference, height int) (sum uint64, err error) {
	if len(refs) == 0 || len(refs) > MaxReferences {
		return 0, fmt.Errorf("%d references: not 1 to %d", len(refs), MaxReferences)
	}
	for i, ref := range refs {
		var carry uint64
		sum, carry = bits.Add64(sum, ref.Length, 0)
		switch {
		case ref.Length == 0:
			err = errors.New("no bytes")
		case carry != 0:
			err = errors.New("more bytes than 64 bits count")
		case ref.Hole && height > 0:
			err = errors.New("a hole among nodes")
		case ref.Hole && i > 0 && refs[i-1].Hole:
			err = errors.New("a hole behind a hole")
		case !ref.Hole && height == 0 && ref.Length > chunk.MaxLen:
			err = fmt.Errorf("a chunk of %d bytes, at most %d", ref.Length, chunk.MaxLen)
		}
		if err != nil {
			return 0, fmt.Errorf("reference %d: %w", i, err)
		}
	}
	return sum, nil
}

func appendReferences(b []byte, field int, refs []Reference) []byte {
	var body []byte
	for _, ref := range refs {
		body = body[:0]
		if !ref.Hole {
			body = wire.AppendBytes(body, 1, ref.ID[:])
		}
		b = wire.AppendBytes(b, field, wire.AppendUint(body, 2, ref.Length))
	}
	return b
}

// appendReference appends the reference that the next field of a message holds.
func appendReference(refs []Reference, in *wire.Reader) []Reference {
	// One more than allowed, so that the number of references is what is found wrong.
	if len(refs) > MaxReferences {
		in.Fail("more than %d references", MaxReferences)
		return refs
	}
	ref := Reference{Hole: true}
	body := in.Message()
	for tag := body.Next(); tag != 0; tag = body.Next() {
		switch tag {
		case 1<<3 | wire.Bytes:
			id := body.Bytes(chunk.IDLen)
			if len(id) != chunk.IDLen {
				body.Fail("an id of %d bytes", len(id))
			}
			copy(ref.ID[:], id)
			ref.Hole = false
		case 2<<3 | wire.Varint:
			ref.Length = body.Uint(math.MaxUint64)
		default:
			body.Unknown(tag)
		}
	}
	return append(refs, ref)
}

// Walk calls visit for each chunk and hole of the value, in order. It gets nodes by their ids from node, checks that
// they are what refers to them, and holds one node of each level in memory.
func (r *Recipe) Walk(node func(chunk.ID) ([]byte, error), visit func(Reference) error) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("recipe: %w", err)
	}
	w := walker{node, visit, 0}
	if err := w.walk(r.References, r.Height); err != nil {
		return fmt.Errorf("byte %d of the value: %w", w.at, err)
	}
	return nil
}

type walker struct {
	node  func(chunk.ID) ([]byte, error)
	visit func(Reference) error
	at    uint64 // position in the value
}

func (w *walker) walk(refs []Reference, height int) error {
	for _, ref := range refs {
		if height == 0 {
			if err := w.visit(ref); err != nil {
				return err
			}
			w.at += ref.Length
			continue
		}
		b, err := w.node(ref.ID)
		if err != nil {
			return err
		}
		below, length, err := DecodeNode(b, height-1)
		if err == nil && length != ref.Length {
			err = fmt.Errorf("node: %d bytes beneath it, not %d", length, ref.Length)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", ref.ID, err)
		}
		if err := w.walk(below, height-1); err != nil {
			return err
		}
	}
	return nil
}
