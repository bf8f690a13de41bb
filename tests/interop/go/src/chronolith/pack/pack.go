package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"chronolith/chunk"
)

// Damage is an error in the bytes of a pack.
type Damage struct {
	File   string
	Offset int64
	Err    error
}

// Error names file and offset.
func (d *Damage) Error() string { return fmt.Sprintf("%s: offset %d: %v", d.File, d.Offset, d.Err) }

// Unwrap returns what is wrong there.
func (d *Damage) Unwrap() error { return d.Err }

// Pack is an open pack. It holds the table in memory, and reads chunks from the file. Its methods, except Close, may be
// called concurrently.
type Pack struct {
	name   string
	file   io.ReaderAt
	size   int64
	seed   uint32
	lines  []Line // ascending by id
	end    int64  // of the records
	sealed bool
}

// ParseName returns the number of the pack with this file name, and whether it is the name of a pack.
func ParseName(name string) (number uint64, ok bool) {
	digits := strings.TrimSuffix(name, ".pack")
	number, err := strconv.ParseUint(digits, 10, 64)
	return number, err == nil && name == strconv.FormatUint(number, 10)+".pack"
}

// Open opens a pack for reading.
func Open(path string) (*Pack, error) {
	number, ok := ParseName(filepath.Base(path))
	if !ok {
		return nil, fmt.Errorf("%s: not the name of a pack", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil {
		var p *Pack
		if p, err = New(file, info.Size(), path, number); err == nil {
			return p, nil
		}
	}
	file.Close()
	return nil, err
}

// New returns the pack with a number in a file of this size. Errors call it name.
//
// A pack without a whole tail of its own counts as not sealed yet: its records are found by reading all of them.
func New(file io.ReaderAt, size int64, name string, number uint64) (*Pack, error) {
	p := &Pack{name: name, file: file, size: size}
	header, err := p.readAt(0, headerLen)
	if err != nil {
		return nil, err
	}
	switch {
	case string(header[:4]) != fileMagic:
		err = errors.New("not a file of a database")
	case crc32.ChecksumIEEE(header[:28]) != binary.LittleEndian.Uint32(header[28:]):
		err = errors.New("checksum of the file's header")
	case binary.LittleEndian.Uint32(header[24:]) != format:
		err = fmt.Errorf("format %d, of a later release", binary.LittleEndian.Uint32(header[24:]))
	case string(header[4:8]) != fileKind:
		err = errors.New("not a pack")
	case binary.LittleEndian.Uint64(header[16:]) != number:
		err = fmt.Errorf("pack %d under another name", binary.LittleEndian.Uint64(header[16:]))
	}
	if err != nil {
		return nil, p.damage(0, err)
	}
	p.seed = crc32.ChecksumIEEE(header[4:24])
	var tail []byte
	if size >= headerLen+tailLen {
		if tail, err = p.readAt(size-tailLen, tailLen); err != nil {
			return nil, err
		}
		// A chunk may end as a tail does, but a tail knows the file, and its checksum.
		p.sealed = string(tail[36:]) == tailMagic && bytes.Equal(tail[24:32], header[8:16]) &&
			crc32.ChecksumIEEE(tail[:32]) == binary.LittleEndian.Uint32(tail[32:])
	}
	if p.sealed {
		err = p.readTable(tail)
	} else {
		err = p.scan()
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Close closes the file.
func (p *Pack) Close() error {
	if c, ok := p.file.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Sealed reports whether the pack has a table.
func (p *Pack) Sealed() bool { return p.sealed }

// Lines returns what the table tells of all records, ascending by id. It is not to be changed.
func (p *Pack) Lines() []Line { return p.lines }

// Find returns what the table tells of the record with an id.
func (p *Pack) Find(id chunk.ID) (Line, bool) {
	i := sort.Search(len(p.lines), func(i int) bool { return !p.lines[i].ID.Less(id) })
	if i == len(p.lines) || p.lines[i].ID != id {
		return Line{}, false
	}
	return p.lines[i], true
}

// Header reads the header of a record, which tells its scope and time, but neither its origin nor its bytes.
func (p *Pack) Header(l Line) (*Record, error) {
	b, err := p.readAt(l.Offset, recordLen)
	if err != nil {
		return nil, err
	}
	return p.header(b, l)
}

// Read reads a record and verifies it. The id of a record in another scope than the default one is not verified: that
// takes the key of the scope.
func (p *Pack) Read(l Line) (*Record, error) {
	r, _, err := p.read(l)
	return r, err
}

// Verify reads all records, in the order of the file, and calls report for each that is damaged. It returns how many
// records there are and the sum of their lengths.
func (p *Pack) Verify(report func(error)) (records, size int64) {
	for _, i := range p.byOffset() {
		records++
		r, padding, err := p.read(p.lines[i])
		if err == nil && !chunk.IsHole(padding) {
			err = p.damage(r.Offset, errors.New("a byte behind a record is not zero"))
		}
		if err != nil {
			report(err)
			continue
		}
		size += int64(r.Raw)
	}
	// Space that was reserved for more records reads as zeros. Anything else was a record or the tail.
	for at := p.end; !p.sealed && at < p.size; {
		n := p.size - at
		if n > 64<<10 {
			n = 64 << 10
		}
		b, err := p.readAt(at, int(n))
		if err == nil && !chunk.IsHole(b) {
			err = p.damage(p.end, errors.New("neither a record nor a table and a tail"))
		}
		if err != nil {
			report(err)
			break
		}
		at += n
	}
	return records, size
}

func (p *Pack) damage(offset int64, err error) error { return &Damage{p.name, offset, err} }

// readAt reads n bytes that have to be there.
func (p *Pack) readAt(offset int64, n int) ([]byte, error) {
	if offset < 0 || int64(n) > p.size-offset {
		return nil, p.damage(offset, fmt.Errorf("the file ends before %d bytes", n))
	}
	b := make([]byte, n)
	if got, err := p.file.ReadAt(b, offset); got < n {
		return nil, fmt.Errorf("%s: offset %d: %w", p.name, offset, err)
	}
	return b, nil
}

func (p *Pack) header(b []byte, l Line) (*Record, error) {
	r, err := decodeHeader(b, p.seed, l.Offset)
	if err == nil && r.Line != l {
		err = errors.New("not the record that the table tells")
	}
	if err != nil {
		return nil, p.damage(l.Offset, err)
	}
	return r, nil
}

// read reads and verifies a record, and returns the bytes behind it up to the next.
func (p *Pack) read(l Line) (r *Record, padding []byte, err error) {
	if err := l.check(); err != nil {
		return nil, nil, p.damage(l.Offset, err)
	}
	n := l.padded()
	if l.Offset+n > p.size {
		n = recordLen + int64(l.Stored) // a file may end right behind its last record
	}
	b, err := p.readAt(l.Offset, int(n))
	if err != nil {
		return nil, nil, err
	}
	if r, err = p.header(b, l); err != nil {
		return nil, nil, err
	}
	payload := b[recordLen:][:l.Stored:l.Stored]
	err = r.decodePayload(payload)
	if err == nil && r.Scope == 0 {
		if id := new(chunk.Scope).ID(r.Kind, r.Bytes); id != r.ID {
			err = fmt.Errorf("bytes of %s under the id %s", id, r.ID)
		}
	}
	if err != nil {
		return nil, nil, p.damage(l.Offset, err)
	}
	return r, b[recordLen+int(l.Stored):], nil
}

// readTable reads the table that a tail tells.
func (p *Pack) readTable(tail []byte) error {
	tailAt := p.size - tailLen
	at := binary.LittleEndian.Uint64(tail)
	count := binary.LittleEndian.Uint32(tail[8:])
	var err error
	switch {
	case binary.LittleEndian.Uint32(tail[12:]) != 0:
		err = fmt.Errorf("flags %#x, of a later release", binary.LittleEndian.Uint32(tail[12:]))
	case binary.LittleEndian.Uint32(tail[20:]) != 0:
		err = errors.New("bytes 20 to 24 of the tail are not zero")
	case count > maxRecords || at > maxTableAt || at+uint64(count)*lineLen != uint64(tailAt):
		err = fmt.Errorf("a table of %d lines at %d does not end at the tail", count, at)
	}
	if err != nil {
		return p.damage(tailAt, err)
	}
	table, err := p.readAt(int64(at), int(count)*lineLen)
	if err != nil {
		return err
	}
	if crc32.ChecksumIEEE(table) != binary.LittleEndian.Uint32(tail[16:]) {
		return p.damage(int64(at), errors.New("checksum of the table"))
	}
	p.end = int64(at)
	p.lines = make([]Line, count)
	for i := range p.lines {
		l, err := decodeLine(table[i*lineLen:][:lineLen])
		if err == nil && i > 0 && !p.lines[i-1].ID.Less(l.ID) {
			err = errors.New("ids do not ascend")
		}
		if err != nil {
			return p.damage(p.end+int64(i)*lineLen, err)
		}
		p.lines[i] = l
	}
	next := int64(headerLen)
	for _, i := range p.byOffset() {
		if p.lines[i].Offset != next {
			return p.damage(p.end+int64(i)*lineLen, fmt.Errorf("a record at %d, not %d", p.lines[i].Offset, next))
		}
		next += p.lines[i].padded()
	}
	if next != p.end {
		return p.damage(p.end, fmt.Errorf("records end at %d, not at the table", next))
	}
	return nil
}

// scan finds the records of a pack without a table: up to the first that is not whole.
func (p *Pack) scan() error {
	p.end = headerLen
	for p.size-p.end >= recordLen {
		b, err := p.readAt(p.end, recordLen)
		if err != nil {
			return err
		}
		r, err := decodeHeader(b, p.seed, p.end)
		if err == errHeaderCRC {
			break
		} else if err != nil {
			return p.damage(p.end, err)
		}
		if p.size-p.end-recordLen < int64(r.Stored) {
			break
		}
		payload, err := p.readAt(p.end+recordLen, int(r.Stored))
		if err != nil {
			return err
		}
		if crc32.ChecksumIEEE(payload) != r.crc {
			break
		}
		p.lines = append(p.lines, r.Line)
		p.end += r.padded()
	}
	sort.Slice(p.lines, func(i, j int) bool { return p.lines[i].ID.Less(p.lines[j].ID) })
	for i := 1; i < len(p.lines); i++ {
		if p.lines[i].ID == p.lines[i-1].ID {
			return p.damage(p.lines[i].Offset, errors.New("an id occurs twice"))
		}
	}
	return nil
}

// byOffset returns the ordinals of all records in the order of the file.
func (p *Pack) byOffset() []uint32 {
	order := make([]uint32, len(p.lines))
	for i := range order {
		order[i] = uint32(i)
	}
	sort.Slice(order, func(i, j int) bool { return p.lines[order[i]].Offset < p.lines[order[j]].Offset })
	return order
}
