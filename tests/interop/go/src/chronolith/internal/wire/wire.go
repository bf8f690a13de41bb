// Package wire reads and writes protocol-buffer messages in the one canonical encoding of docs/format/chunks.proto:
// fields ascend, varints are shortest, a field with its default is absent, and there are no unknown fields.
package wire

import (
	"encoding/binary"
	"fmt"
)

// Types of fields: the low three bits of a tag.
const (
	Varint = 0
	Bytes  = 2
)

// AppendUint appends a field with a number; 0 is the default and is left out.
func AppendUint(b []byte, field int, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, byte(field<<3|Varint)), v)
}

// AppendBytes appends a field with bytes; no bytes are the default and are left out.
func AppendBytes(b []byte, field int, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	b = append(b, byte(field<<3|Bytes))
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// CutUvarint returns the varint at the beginning of b and its length, which is 0 if there is none in its shortest form.
func CutUvarint(b []byte) (v uint64, n int) {
	v, n = binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, 0
	}
	return v, n
}

// Reader reads the fields of a message. After an error, which Err returns, it has no more of them.
type Reader struct {
	*state
	end    int
	repeat int // the field that may occur again
	field  int // the last one
}

// state is what the reader of a message shares with those of the messages inside.
type state struct {
	buf []byte
	at  int
	err error
}

// NewReader returns a Reader of the message that begins at a position of buf. Only the field with the number repeat may
// occur more than once.
func NewReader(buf []byte, at, repeat int) *Reader {
	return &Reader{state: &state{buf: buf, at: at}, end: len(buf), repeat: repeat}
}

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// Fail notes an error at this place if there is none yet.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("byte %d: %s", r.at, fmt.Sprintf(format, args...))
	}
}

// Next returns the tag of the next field: its number, shifted by three bits, and its type. It returns 0 at the end.
func (r *Reader) Next() (tag int) {
	if r.err != nil || r.at >= r.end {
		return 0
	}
	tag = int(r.buf[r.at])
	field := tag >> 3
	// A tag of two bytes would be that of an unknown field; its first byte is one as well.
	if tag >= 0x80 || field < r.field || field == r.field && field != r.repeat {
		r.Fail("tag %#x: fields of a message ascend, and all are known", tag)
		return 0
	}
	r.field = field
	r.at++
	return tag
}

// Unknown notes that the field with this tag is not known.
func (r *Reader) Unknown(tag int) { r.Fail("tag %#x: not a known field of its type", tag) }

// Uint reads the number of a field: 1 to max.
func (r *Reader) Uint(max uint64) uint64 {
	v := r.uvarint()
	if r.err == nil && (v == 0 || v > max) {
		r.Fail("number %d: not 1 to %d", v, max)
		return 0
	}
	return v
}

// Bytes reads the bytes of a field: 1 to max of them.
func (r *Reader) Bytes(max int) []byte {
	n := r.length(max)
	r.at += n
	return r.buf[r.at-n : r.at]
}

// Message reads the beginning of a message inside. Its fields are read, up to their end, before the next field of this
// message.
func (r *Reader) Message() *Reader {
	n := r.length(len(r.buf))
	return &Reader{state: r.state, end: r.at + n, repeat: -1}
}

// length reads a length, 1 to max, of bytes that are there.
func (r *Reader) length(max int) int {
	v := r.uvarint()
	switch {
	case r.err != nil:
		return 0
	case v == 0 || v > uint64(max):
		r.Fail("%d bytes: not 1 to %d", v, max)
		return 0
	case v > uint64(r.end-r.at):
		r.Fail("%d bytes: only %d are left", v, r.end-r.at)
		return 0
	}
	return int(v)
}

func (r *Reader) uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := CutUvarint(r.buf[r.at:r.end])
	if n == 0 {
		r.Fail("no varint in its shortest form")
	}
	r.at += n
	return v
}
