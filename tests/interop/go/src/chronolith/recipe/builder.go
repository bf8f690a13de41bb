package recipe

import (
	"errors"
	"fmt"
	"math/bits"

	"chronolith/chunk"
)

// minNode is the minimum number of references in a node that its last id ends.
const minNode = 32

// Builder makes the recipe of a value out of its chunks. It holds a few hundred references of each level in memory.
type Builder struct {
	chunking chunk.Chunking
	store    func(node []byte) (chunk.ID, error)
	length   uint64
	hole     uint64 // zeros behind the last chunk
	levels   []level
}

// level holds the references of a level that are in no node yet.
type level struct {
	refs []Reference
	// Whether there are too many for a recipe. Until that is known, nothing is gathered.
	gathering bool
}

// NewBuilder returns a Builder. It hands each node to store, which returns the node's id.
func NewBuilder(c chunk.Chunking, store func(node []byte) (chunk.ID, error)) *Builder {
	return &Builder{chunking: c, store: store}
}

// Chunk appends a chunk to the value.
func (b *Builder) Chunk(id chunk.ID, length int) error {
	if length < 1 || length > chunk.MaxLen {
		return fmt.Errorf("a chunk of %d bytes", length)
	}
	if err := b.grow(uint64(length)); err != nil {
		return err
	}
	if err := b.endHole(); err != nil {
		return err
	}
	return b.add(0, Reference{ID: id, Length: uint64(length)})
}

// Hole appends zeros to the value.
func (b *Builder) Hole(length uint64) error {
	err := b.grow(length)
	if err == nil {
		b.hole += length
	}
	return err
}

// Finish returns the recipe. An empty value has none.
func (b *Builder) Finish(origin string) (*Recipe, error) {
	if b.length == 0 {
		return nil, errors.New("an empty value has no recipe")
	}
	if err := b.endHole(); err != nil {
		return nil, err
	}
	height := 0
	for ; b.levels[height].gathering; height++ {
		if len(b.levels[height].refs) > 0 {
			if err := b.endNode(height); err != nil {
				return nil, err
			}
		}
	}
	r := &Recipe{b.length, b.chunking, height, b.levels[height].refs, origin}
	return r, r.check()
}

func (b *Builder) grow(length uint64) error {
	sum, carry := bits.Add64(b.length, length, 0)
	if carry != 0 {
		return errors.New("a value of more bytes than 64 bits count")
	}
	b.length = sum
	return nil
}

func (b *Builder) endHole() error {
	length := b.hole
	if length == 0 {
		return nil
	}
	b.hole = 0
	return b.add(0, Reference{Hole: true, Length: length})
}

// add appends a reference to a level.
func (b *Builder) add(height int, ref Reference) error {
	if height == len(b.levels) {
		b.levels = append(b.levels, level{})
	}
	l := &b.levels[height]
	if l.gathering {
		return b.gather(height, ref)
	}
	l.refs = append(l.refs, ref)
	if len(l.refs) <= MaxReferences {
		return nil
	}
	l.gathering = true
	waiting := l.refs
	l.refs = nil
	for _, ref := range waiting {
		if err := b.gather(height, ref); err != nil {
			return err
		}
	}
	return nil
}

// gather appends a reference to the node that grows at a level, and ends the node where the format says so.
func (b *Builder) gather(height int, ref Reference) error {
	l := &b.levels[height]
	l.refs = append(l.refs, ref)
	ends := !ref.Hole && ref.ID[0]&0x7f == 0 && len(l.refs) >= minNode
	if !ends && len(l.refs) < MaxReferences {
		return nil
	}
	return b.endNode(height)
}

// endNode stores the node of a level and adds its reference to the next.
func (b *Builder) endNode(height int) error {
	l := &b.levels[height]
	node, err := EncodeNode(l.refs, height)
	if err != nil {
		return err
	}
	length := uint64(0)
	for _, ref := range l.refs {
		length += ref.Length
	}
	l.refs = l.refs[:0]
	id, err := b.store(node)
	if err != nil {
		return err
	}
	return b.add(height+1, Reference{ID: id, Length: length})
}
