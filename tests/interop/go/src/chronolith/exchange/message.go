// Package exchange is what one store tells another, as docs/format/exchange.md says. The stores are the packs of a
// closed database and folders of files.
package exchange

import (
	"fmt"
	"math/bits"

	"chronolith/chunk"
	"chronolith/internal/wire"
)

// Limits of a question: of ids, and of bytes.
const (
	MaxIDs         = 65536
	MaxQuestionLen = MaxIDs*chunk.IDLen + 5
)

// HaveYou is the question which of these chunks and nodes a store has.
type HaveYou []chunk.ID

// Encode returns the message.
func (q HaveYou) Encode() ([]byte, error) {
	if len(q) == 0 || len(q) > MaxIDs {
		return nil, fmt.Errorf("question: %d ids: not 1 to %d", len(q), MaxIDs)
	}
	ids := make([]byte, 0, len(q)*chunk.IDLen)
	for _, id := range q {
		ids = append(ids, id[:]...)
	}
	return wire.AppendBytes(nil, 1, ids), nil
}

// DecodeHaveYou returns the question of a message. It refuses everything that Encode does not return.
func DecodeHaveYou(b []byte) (q HaveYou, err error) {
	in := wire.NewReader(b, 0, 0)
	for tag := in.Next(); tag != 0; tag = in.Next() {
		if tag != 1<<3|wire.Bytes {
			in.Unknown(tag)
			break
		}
		ids := in.Bytes(MaxIDs * chunk.IDLen)
		if len(ids)%chunk.IDLen != 0 {
			in.Fail("ids of %d bytes", len(ids))
			break
		}
		q = make(HaveYou, len(ids)/chunk.IDLen)
		for i := range q {
			copy(q[i][:], ids[i*chunk.IDLen:])
		}
	}
	if err = in.Err(); err == nil && len(q) == 0 {
		err = fmt.Errorf("byte %d: no ids", len(b))
	}
	if err != nil {
		return nil, fmt.Errorf("question: %w", err)
	}
	return q, nil
}

// Have is the answer: for each id of the question, in the same order, whether the store has it.
type Have []bool

// Encode returns the message.
func (a Have) Encode() ([]byte, error) {
	if len(a) == 0 || len(a) > MaxIDs {
		return nil, fmt.Errorf("answer: %d bits: not 1 to %d", len(a), MaxIDs)
	}
	packed := make([]byte, (len(a)+7)/8)
	for i, has := range a {
		if has {
			packed[i/8] |= 1 << (i % 8)
		}
	}
	return wire.AppendBytes(wire.AppendUint(nil, 1, uint64(len(a))), 2, packed), nil
}

// DecodeHave returns the answer of a message. It refuses everything that Encode does not return.
func DecodeHave(b []byte) (Have, error) {
	var count int
	var packed []byte
	in := wire.NewReader(b, 0, 0)
	for tag := in.Next(); tag != 0; tag = in.Next() {
		switch tag {
		case 1<<3 | wire.Varint:
			count = int(in.Uint(MaxIDs))
		case 2<<3 | wire.Bytes:
			packed = in.Bytes(MaxIDs / 8)
		default:
			in.Unknown(tag)
		}
	}
	err := in.Err()
	if err == nil && (count == 0 || len(packed) != (count+7)/8 || bits.Len8(packed[len(packed)-1]) > (count-1)%8+1) {
		err = fmt.Errorf("byte %d: not a bit for each of %d ids, and zeros beside", len(b), count)
	}
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	a := make(Have, count)
	for i := range a {
		a[i] = packed[i/8]>>(i%8)&1 != 0
	}
	return a, nil
}
