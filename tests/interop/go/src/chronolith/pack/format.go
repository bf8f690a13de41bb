// Package pack reads and writes packs, the files of chunks and nodes, as docs/format/packs.md says.
package pack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"unicode/utf8"

	"chronolith/chunk"
	"chronolith/internal/wire"
)

// Lengths and limits of the format.
const (
	headerLen  = 32 // of the file; the first record follows
	recordLen  = 64 // of a record, without its payload
	lineLen    = 48 // of a line in the table
	tailLen    = 40
	maxRecords = 1 << 20
	maxTableAt = 1 << 32
	maxOrigin  = 255
)

const (
	fileMagic = "CHRN"
	fileKind  = "PACK"
	tailMagic = "PAKE"
	format    = 1
)

// Codecs and flags of records.
const (
	codecRaw   = 0
	codecZstd  = 1
	flagOrigin = 1
)

// Line is what the table of a pack tells of a record.
type Line struct {
	ID     chunk.ID
	Offset int64  // of the record in the file
	Stored uint32 // bytes of the payload
	Raw    uint32 // bytes of the chunk or node
	Kind   chunk.Kind
	codec  uint8
	flags  uint8
}

// Record is a chunk or node in a pack.
type Record struct {
	Line
	Scope  uint32 // number of the dedup scope that made the id; 0 is the default scope
	Time   uint64 // when it was stored first, in microseconds since 1970
	Origin string // where the value came from whose write stored it first
	Bytes  []byte

	crc uint32 // of the payload
}

// padded returns the length of the whole record.
func (l *Line) padded() int64 { return recordLen + (int64(l.Stored)+7)&^7 }

// check returns an error for a record that this release does not write.
func (l *Line) check() error {
	if l.Kind != chunk.Data && l.Kind != chunk.Node || l.codec > codecZstd || l.flags&^flagOrigin != 0 {
		return fmt.Errorf("%s with codec %d and flags %#x is not known", l.Kind, l.codec, l.flags)
	}
	least, most := l.Raw, l.Raw
	if l.codec == codecZstd {
		least, most = 1, l.Raw-1
	}
	if l.flags&flagOrigin != 0 {
		least, most = least+2, most+2+maxOrigin
	}
	if l.Raw < 1 || l.Raw > chunk.MaxLen || l.Stored < least || l.Stored > most {
		return fmt.Errorf("no chunk has %d bytes in %d", l.Raw, l.Stored)
	}
	return nil
}

// decodeLine returns the record that a line of a table tells.
func decodeLine(b []byte) (l Line, err error) {
	copy(l.ID[:], b)
	l.Offset = int64(binary.LittleEndian.Uint32(b[32:])) * 8
	l.Stored = binary.LittleEndian.Uint32(b[36:])
	l.Raw = binary.LittleEndian.Uint32(b[40:])
	l.Kind, l.codec, l.flags = chunk.Kind(b[44]), b[45], b[46]
	if b[47] != 0 {
		return l, errors.New("a line does not end with zero")
	}
	return l, l.check()
}

// errHeaderCRC means that there is no record, or none that is whole.
var errHeaderCRC = errors.New("checksum of a record's header")

// decodeHeader returns the record whose header this is, without origin and bytes.
func decodeHeader(b []byte, seed uint32, offset int64) (*Record, error) {
	if headerCRC(b, seed, offset) != binary.LittleEndian.Uint32(b) {
		return nil, errHeaderCRC
	}
	r := &Record{
		Line: Line{
			Offset: offset,
			Stored: binary.LittleEndian.Uint32(b[8:]),
			Raw:    binary.LittleEndian.Uint32(b[12:]),
			Kind:   chunk.Kind(b[16]),
			codec:  b[17],
			flags:  b[18],
		},
		Scope: binary.LittleEndian.Uint32(b[20:]),
		Time:  binary.LittleEndian.Uint64(b[56:]),
		crc:   binary.LittleEndian.Uint32(b[4:]),
	}
	copy(r.ID[:], b[24:])
	if b[19] != 0 {
		return nil, errors.New("byte 19 of a record's header is not zero")
	}
	return r, r.check()
}

func headerCRC(b []byte, seed uint32, offset int64) uint32 {
	var place [12]byte
	binary.LittleEndian.PutUint32(place[:], seed)
	binary.LittleEndian.PutUint64(place[4:], uint64(offset))
	return crc32.Update(crc32.ChecksumIEEE(place[:]), crc32.IEEETable, b[4:recordLen])
}

// decodePayload sets origin and bytes of a record.
func (r *Record) decodePayload(payload []byte) error {
	if crc32.ChecksumIEEE(payload) != r.crc {
		return errors.New("checksum of a record's payload")
	}
	if r.flags&flagOrigin != 0 {
		length, n := wire.CutUvarint(payload)
		if n == 0 || length < 1 || length > maxOrigin || length > uint64(len(payload)-n) {
			return errors.New("an origin has 1 to 255 bytes")
		}
		origin := payload[n : n+int(length)]
		if !utf8.Valid(origin) {
			return errors.New("an origin is not UTF-8")
		}
		r.Origin = string(origin)
		payload = payload[n+int(length):]
	}
	if r.codec == codecZstd {
		var err error
		r.Bytes, err = decompress(payload, int(r.Raw))
		return err
	}
	if len(payload) != int(r.Raw) {
		return fmt.Errorf("%d bytes of a chunk of %d", len(payload), r.Raw)
	}
	r.Bytes = payload
	return nil
}
