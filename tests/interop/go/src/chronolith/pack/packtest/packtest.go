// Package packtest builds packs for tests. It shares no code with the reader, so that both have to agree with the
// format and not just with each other.
package packtest

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"sort"

	"github.com/klauspost/compress/zstd"

	"chronolith/chunk"
)

// Entry is what a record is made of.
type Entry struct {
	Kind     chunk.Kind
	Scope    uint32
	ID       chunk.ID // of another scope than the default one
	Time     uint64
	Origin   string
	Bytes    []byte
	Compress bool
}

// Build returns a sealed pack, and where its table begins: so many bytes are the pack before it was sealed.
func Build(number, fileID uint64, entries []Entry) (pack []byte, tableAt int) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	b := Header("PACK", number, fileID)
	var lines [][]byte
	for _, e := range entries {
		id := e.ID
		if e.Scope == 0 {
			id = new(chunk.Scope).ID(e.Kind, e.Bytes)
		}
		var flags, codec byte
		var payload []byte
		if e.Origin != "" {
			flags = 1
			payload = append(binary.AppendUvarint(nil, uint64(len(e.Origin))), e.Origin...)
		}
		stored := e.Bytes
		if e.Compress {
			stored, codec = encoder.EncodeAll(e.Bytes, nil), 1
		}
		payload = append(payload, stored...)

		offset := len(b)
		line := append([]byte(nil), id[:]...)
		line = u32(line, uint32(offset/8), uint32(len(payload)), uint32(len(e.Bytes)))
		lines = append(lines, append(line, byte(e.Kind), codec, flags, 0))

		record := u32(nil, 0, crc32.ChecksumIEEE(payload), uint32(len(payload)), uint32(len(e.Bytes)))
		record = u32(append(record, byte(e.Kind), codec, flags, 0), e.Scope)
		record = binary.LittleEndian.AppendUint64(append(record, id[:]...), e.Time)
		b = append(append(b, record...), payload...)
		Resum(b, offset)
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
	}
	sort.Slice(lines, func(i, j int) bool { return bytes.Compare(lines[i], lines[j]) < 0 })
	return Seal(b, bytes.Join(lines, nil)), len(b)
}

// Header returns the header of a file.
func Header(kind string, number, fileID uint64) []byte {
	b := binary.LittleEndian.AppendUint64([]byte("CHRN"+kind), fileID)
	b = u32(binary.LittleEndian.AppendUint64(b, number), 1)
	return u32(b, crc32.ChecksumIEEE(b))
}

// Resum writes the checksum of the header of the record at an offset of a pack.
func Resum(pack []byte, offset int) {
	sum := u32(nil, crc32.ChecksumIEEE(pack[4:24]))
	sum = binary.LittleEndian.AppendUint64(sum, uint64(offset))
	sum = append(sum, pack[offset+4:offset+64]...)
	binary.LittleEndian.PutUint32(pack[offset:], crc32.ChecksumIEEE(sum))
}

// Seal appends a table and a tail to header and records.
func Seal(records, table []byte) []byte {
	tail := binary.LittleEndian.AppendUint64(nil, uint64(len(records)))
	tail = u32(tail, uint32(len(table)/48), 0, crc32.ChecksumIEEE(table), 0)
	tail = append(tail, records[8:16]...)
	tail = u32(tail, crc32.ChecksumIEEE(tail))
	return append(append(append(append([]byte(nil), records...), table...), tail...), "PAKE"...)
}

func u32(b []byte, numbers ...uint32) []byte {
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}
