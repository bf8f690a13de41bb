package chunk

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The score of a position is x·scoreFactor + scoreOffset, where x is the number in the four bytes before it.
const (
	scoreFactor = 0x915F77F5
	scoreOffset = 0x34636463
)

// Cutter cuts a stream into chunks. It holds a few of the longest chunks in memory.
type Cutter struct {
	r        io.Reader
	chunking Chunking
	buf      []byte
	from, to int   // what is read and not yet returned
	err      error // why nothing more is read
}

// NewCutter returns a Cutter of what r yields.
func NewCutter(r io.Reader, c Chunking) (*Cutter, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	_, longest := c.bounds()
	// Bytes behind the last whole chunk are moved to the front: with a longer buffer fewer of all bytes are.
	size := 8 * longest
	if size < 256<<10 {
		size = 256 << 10
	} else if size > 2<<20 {
		size = 2 << 20
	}
	return &Cutter{r: r, chunking: c, buf: make([]byte, size)}, nil
}

// Next returns the next chunk, which is valid until the next call. Behind the last one it returns io.EOF.
func (c *Cutter) Next() ([]byte, error) {
	shortest, longest := c.chunking.bounds()
	if c.to-c.from < longest && c.err == nil {
		c.fill(longest)
	}
	left := c.buf[c.from:c.to]
	// An error of the reader takes the place of the chunk that it cut short.
	if c.err != nil && c.err != io.EOF && len(left) < longest {
		return nil, c.err
	}
	if len(left) == 0 {
		return nil, io.EOF
	}
	end := len(left)
	if end > longest {
		end = longest
	}
	if end > shortest {
		end = lowest(left[:end], shortest)
	}
	c.from += end
	return left[:end], nil
}

// fill reads until at least so many bytes are there or the stream ends.
func (c *Cutter) fill(want int) {
	c.to = copy(c.buf, c.buf[c.from:c.to])
	c.from = 0
	for empty := 0; c.to < want && c.err == nil; {
		n, err := c.r.Read(c.buf[c.to:])
		if n < 0 || n > len(c.buf)-c.to {
			n, err = 0, fmt.Errorf("a reader returned %d of at most %d bytes", n, len(c.buf)-c.to)
		}
		c.to, c.err = c.to+n, err
		if n > 0 {
			empty = 0
		} else if empty++; empty == 100 && err == nil {
			c.err = io.ErrNoProgress
		}
	}
}

// lowest returns the first position from `from` to len(b) whose score is the lowest. `from` is at least 4 and less
// than len(b).
func lowest(b []byte, from int) int {
	best, at := uint32(0xffffffff), from
	i := from
	// Four windows out of one load. That one of them is the lowest so far is rare, so they share a branch.
	for ; i+4 <= len(b); i += 4 {
		x := binary.LittleEndian.Uint64(b[i-4:])
		s0 := uint32(x)*scoreFactor + scoreOffset
		s1 := uint32(x>>8)*scoreFactor + scoreOffset
		s2 := uint32(x>>16)*scoreFactor + scoreOffset
		s3 := uint32(x>>24)*scoreFactor + scoreOffset
		if s0 < best || s1 < best || s2 < best || s3 < best {
			for k, s := range [4]uint32{s0, s1, s2, s3} {
				if s < best {
					best, at = s, i+k
				}
			}
		}
	}
	for ; i <= len(b); i++ {
		if s := binary.LittleEndian.Uint32(b[i-4:i])*scoreFactor + scoreOffset; s < best {
			best, at = s, i
		}
	}
	return at
}
