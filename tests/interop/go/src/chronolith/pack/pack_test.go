package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"chronolith/chunk"
	"chronolith/pack/packtest"
)

const number = 7

func noise(seed int64, n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}

// text returns bytes that compress.
func text(n int) []byte { return []byte(strings.Repeat("all that shrinks, ", n/18+1)[:n]) }

func entries() []packtest.Entry {
	return []packtest.Entry{
		{Kind: chunk.Data, Bytes: noise(1, 100), Time: 1_767_225_600_000_000},
		{Kind: chunk.Node, Bytes: noise(2, 40), Time: 1},
		{Kind: chunk.Data, Bytes: text(900), Compress: true, Origin: "crawler 7", Time: 1<<64 - 1},
		{Kind: chunk.Data, Bytes: []byte{1}, Origin: strings.Repeat("ä", 127) + "x"},
		{Kind: chunk.Data, Bytes: text(64), Scope: 3, ID: chunk.ID{1, 2, 3}},
		{Kind: chunk.Node, Bytes: text(800), Compress: true, Scope: 3, ID: chunk.ID{1, 2, 4}},
	}
}

func idOf(e *packtest.Entry) chunk.ID {
	if e.Scope != 0 {
		return e.ID
	}
	return new(chunk.Scope).ID(e.Kind, e.Bytes)
}

func open(b []byte) (*Pack, error) { return New(bytes.NewReader(b), int64(len(b)), "7.pack", number) }

// check reads all entries. It returns an error if one is not there or cannot be read, and fails if one is read wrongly.
func check(t *testing.T, p *Pack, entries []packtest.Entry) (err error) {
	t.Helper()
	for i := range entries {
		e := &entries[i]
		line, ok := p.Find(idOf(e))
		if !ok {
			err = fmt.Errorf("entry %d is not there", i)
			continue
		}
		r, bad := p.Read(line)
		if bad != nil {
			err = bad
			continue
		}
		if !bytes.Equal(r.Bytes, e.Bytes) || r.Kind != e.Kind || r.Scope != e.Scope || r.Time != e.Time || r.Origin != e.Origin {
			t.Fatalf("entry %d: %+v", i, r)
		}
	}
	return err
}

func TestReadsWhatIsThere(t *testing.T) {
	b, tableAt := packtest.Build(number, 99, entries())
	for name, b := range map[string][]byte{"sealed": b, "not sealed": b[:tableAt], "reserved": append(b[:tableAt:tableAt], make([]byte, 100<<10)...)} {
		p, err := open(b)
		if err != nil {
			t.Fatal(name, err)
		}
		if err := check(t, p, entries()); err != nil {
			t.Fatal(name, err)
		}
		if len(p.Lines()) != len(entries()) || p.Sealed() != (name == "sealed") {
			t.Fatal(name, len(p.Lines()), p.Sealed())
		}
		if _, ok := p.Find(chunk.ID{5}); ok {
			t.Fatal(name, "found what is not there")
		}
		records, size := p.Verify(func(err error) { t.Error(name, err) })
		if records != 6 || size != 100+40+900+1+64+800 {
			t.Fatal(name, records, size)
		}
	}
	empty, _ := packtest.Build(number, 99, nil)
	if p, err := open(empty); err != nil || len(p.Lines()) != 0 || !p.Sealed() {
		t.Fatal(err)
	}
}

func TestOpensAFileByItsName(t *testing.T) {
	dir := t.TempDir()
	b, _ := packtest.Build(number, 99, entries())
	for name, good := range map[string]bool{"7.pack": true, "8.pack": false, "07.pack": false, "7.pac": false, "x.pack": false} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		p, err := Open(path)
		if good != (err == nil) {
			t.Fatal(name, err)
		}
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Error(err)
			}
			continue
		}
		if err := check(t, p, entries()); err != nil || p.Close() != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(filepath.Join(dir, "9.pack")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

// Any flipped bit is an error, or changes nothing: it is in the zeros between records, or in the tail, without which the
// pack counts as not sealed. Verify reports every one, whatever it is.
func TestAFlippedBitIsAnErrorOrTheRightChunk(t *testing.T) {
	good, tableAt := packtest.Build(number, 99, entries())
	harmless := 0
	for bit := 0; bit < len(good)*8; bit++ {
		b := append([]byte(nil), good...)
		b[bit/8] ^= 1 << (bit % 8)
		p, err := open(b)
		if err == nil {
			var damages []error
			p.Verify(func(err error) { damages = append(damages, err) })
			if len(damages) != 1 {
				t.Fatalf("bit %d: Verify found %v", bit, damages)
			}
			if err = check(t, p, entries()); err == nil {
				harmless++
				continue
			}
		}
		var damage *Damage
		if !errors.As(err, &damage) || damage.File != "7.pack" || damage.Offset > int64(bit/8) && bit/8 >= 32 && bit/8 < tableAt {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	zeros := 0
	for _, e := range entries() {
		p, _ := open(good)
		line, _ := p.Find(idOf(&e))
		zeros += int(line.padded()-recordLen) - int(line.Stored)
	}
	if harmless != (zeros+tailLen)*8 {
		t.Errorf("%d flipped bits made no difference to reading, of %d zeros and the tail", harmless, zeros)
	}
}

func TestACutPackHasItsFirstRecords(t *testing.T) {
	good, tableAt := packtest.Build(number, 99, entries())
	for n := range good {
		p, err := open(good[:n])
		if n < headerLen {
			if err == nil {
				t.Fatalf("%d bytes are a pack", n)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		for _, line := range p.Lines() {
			if _, err := p.Read(line); err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
		if p.Sealed() || n >= tableAt && len(p.Lines()) != len(entries()) {
			t.Fatalf("%d bytes: %d records", n, len(p.Lines()))
		}
	}
}

// Lengths, kinds and places with correct checksums, as a hostile writer makes them.
func TestHostileRecords(t *testing.T) {
	good, tableAt := packtest.Build(number, 99, entries()[:2])
	put := binary.LittleEndian.PutUint32
	for what, change := range map[string]func(record, line []byte){
		"stored length 2^32-1":    func(r, l []byte) { put(r[8:], 1<<32-1); put(l[36:], 1<<32-1) },
		"stored length 0":         func(r, l []byte) { put(r[8:], 0); put(l[36:], 0) },
		"raw length 2^32-1":       func(r, l []byte) { put(r[12:], 1<<32-1); put(l[40:], 1<<32-1) },
		"raw length 0":            func(r, l []byte) { put(r[12:], 0); put(l[40:], 0) },
		"raw length 1 MiB + 1":    func(r, l []byte) { put(r[12:], 1<<20+1); put(l[40:], 1<<20+1); r[17] = 1; l[45] = 1 },
		"raw length 0 of zstd":    func(r, l []byte) { put(r[12:], 0); put(l[40:], 0); r[17] = 1; l[45] = 1 },
		"kind 0":                  func(r, l []byte) { r[16], l[44] = 0, 0 },
		"kind 3":                  func(r, l []byte) { r[16], l[44] = 3, 3 },
		"codec 2":                 func(r, l []byte) { r[17], l[45] = 2, 2 },
		"zstd as long as a chunk": func(r, l []byte) { r[17], l[45] = 1, 1 },
		"an encrypted record":     func(r, l []byte) { r[18], l[46] = 2, 2 },
		"flag 7":                  func(r, l []byte) { r[18], l[46] = 128, 128 },
		"no room for an origin":   func(r, l []byte) { r[18], l[46] = 1, 1 },
		"a 1 for 0":               func(r, l []byte) { r[19], l[47] = 1, 1 },
		"record of node":          func(r, l []byte) { r[16] = 2 },
		"line of node":            func(r, l []byte) { l[44] = 2 },
		"node instead of chunk":   func(r, l []byte) { r[16], l[44] = 2, 2 },
		"another id":              func(r, l []byte) { r[24] ^= 1; l[0] ^= 1 },
		"another place":           func(r, l []byte) { put(l[32:], 5) },
		"the last place":          func(r, l []byte) { put(l[32:], 1<<32-1) },
		"another scope":           func(r, l []byte) { put(r[4:], 0); put(r[20:], 1) },
	} {
		b := append([]byte(nil), good...)
		table := b[tableAt : tableAt+2*lineLen]
		line := table[:lineLen]
		if binary.LittleEndian.Uint32(line[32:]) != headerLen/8 {
			line = table[lineLen:]
		}
		change(b[headerLen:], line)
		packtest.Resum(b, headerLen)
		p, err := open(packtest.Seal(b[:tableAt], table))
		if err == nil {
			p.Verify(func(bad error) { err = bad })
		}
		var damage *Damage
		if !errors.As(err, &damage) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestHostileTails(t *testing.T) {
	good, tableAt := packtest.Build(number, 99, entries())
	tail := len(good) - tailLen
	put := binary.LittleEndian.PutUint32
	for what, change := range map[string]func(b []byte){
		"a table at 2^64-1":      func(b []byte) { binary.LittleEndian.PutUint64(b, 1<<64-1) },
		"a table behind 2^32":    func(b []byte) { binary.LittleEndian.PutUint64(b, 1<<32+8) },
		"a table at a multiple":  func(b []byte) { binary.LittleEndian.PutUint64(b, uint64(tableAt)+lineLen); put(b[8:], 5) },
		"a line more":            func(b []byte) { put(b[8:], 7) },
		"2^32-1 lines":           func(b []byte) { put(b[8:], 1<<32-1) },
		"no lines":               func(b []byte) { binary.LittleEndian.PutUint64(b, uint64(tail)); put(b[8:], 0); put(b[16:], 0) },
		"an encrypted pack":      func(b []byte) { put(b[12:], 1) },
		"another flag":           func(b []byte) { put(b[12:], 1<<31) },
		"a 1 for 0":              func(b []byte) { put(b[20:], 1) },
		"the id of another file": func(b []byte) { put(b[24:], 98) },
	} {
		b := append([]byte(nil), good...)
		change(b[tail:])
		put(b[tail+32:], crc32.ChecksumIEEE(b[tail:tail+32]))
		p, err := open(b)
		if err == nil {
			p.Verify(func(bad error) { err = bad })
		}
		if err == nil || what != "the id of another file" && p != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A format of a later release, and another kind of file.
	for what, header := range map[string][]byte{"a segment": packtest.Header("SEGM", number, 99), "another number": packtest.Header("PACK", 8, 99)} {
		if _, err := open(append(header, good[32:]...)); err == nil {
			t.Error(what)
		}
	}
	b := append([]byte(nil), good...)
	b[24] = 2
	put(b[28:], crc32.ChecksumIEEE(b[:28]))
	if _, err := open(b); err == nil || !strings.Contains(err.Error(), "later release") {
		t.Error(err)
	}
}

// A chunk may end as a tail does.
func TestNoTailIsTakenFromAChunk(t *testing.T) {
	sealed, _ := packtest.Build(8, 98, nil)
	e := []packtest.Entry{{Kind: chunk.Data, Bytes: sealed[len(sealed)-tailLen:]}}
	b, tableAt := packtest.Build(number, 99, e)
	p, err := open(b[:tableAt])
	if err != nil || p.Sealed() {
		t.Fatal(err)
	}
	if err := check(t, p, e); err != nil {
		t.Fatal(err)
	}
}

// Whatever bytes have correct checksums: no panic, and a record that reads has the lengths of its line.
func TestMutationsWithChecksums(t *testing.T) {
	good, tableAt := packtest.Build(number, 99, entries())
	p, _ := open(good)
	random := rand.New(rand.NewSource(5))
	opened, read := 0, 0
	for i := 0; i < 20000; i++ {
		b := append([]byte(nil), good[:tableAt]...)
		table := append([]byte(nil), good[tableAt:len(good)-tailLen]...)
		for n := random.Intn(3) + 1; n > 0; n-- {
			line := p.Lines()[random.Intn(len(p.Lines()))]
			switch random.Intn(3) {
			case 0:
				table[random.Intn(len(table))] = byte(random.Intn(256))
			case 1:
				b[line.Offset+8+random.Int63n(16)] = byte(random.Intn(4))
			case 2:
				b[line.Offset+random.Int63n(line.padded())] = byte(random.Intn(256))
			}
		}
		for _, line := range p.Lines() {
			at := int(line.Offset)
			payload := b[at+recordLen : at+recordLen+int(line.Stored)]
			binary.LittleEndian.PutUint32(b[at+4:], crc32.ChecksumIEEE(payload))
			packtest.Resum(b, at)
		}
		for _, b := range [][]byte{packtest.Seal(b, table), b} {
			p, err := open(b)
			if err != nil {
				continue
			}
			opened++
			p.Verify(func(error) {})
			for _, line := range p.Lines() {
				if r, err := p.Read(line); err == nil {
					read++
					if len(r.Bytes) != int(line.Raw) || r.Line != line {
						t.Fatalf("%+v of %+v", r, line)
					}
				}
			}
		}
	}
	if opened == 0 || read == 0 {
		t.Error("nothing was ever read")
	}
}

func TestTwoRecordsOfOneID(t *testing.T) {
	twice := append(entries()[:1], entries()[0])
	b, tableAt := packtest.Build(number, 99, twice)
	for _, b := range [][]byte{b, b[:tableAt]} {
		if _, err := open(b); err == nil {
			t.Error("an id occurs twice")
		}
	}
}

func TestFramesOfOneKindOnly(t *testing.T) {
	content := text(200 << 10)
	encode := func(b []byte, options ...zstd.EOption) []byte {
		e, err := zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(1)}, options...)...)
		if err != nil {
			t.Fatal(err)
		}
		return e.EncodeAll(b, nil)
	}
	good := encode(content, zstd.WithSingleSegment(true))
	windowed := encode(content, zstd.WithWindowSize(64<<10), zstd.WithSingleSegment(false))
	for _, frame := range [][]byte{good, windowed, encode(content, zstd.WithEncoderLevel(zstd.SpeedBestCompression))} {
		if b, err := decompress(frame, len(content)); err != nil || !bytes.Equal(b, content) {
			t.Fatal(err)
		}
	}
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}
	half := len(content) / 2
	bomb := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0}, 0, 0, 16, 0) // 1 MiB of content in one segment
	bombs := append([]byte(nil), bomb...)
	for i := 0; i < 1000; i++ {
		bombs = append(bombs, 0x02, 0x00, 0x10, 'x') // 128 KiB of x
	}
	for what, frame := range map[string][]byte{
		"nothing":           {},
		"a magic":           good[:4],
		"a checksum":        encode(content, zstd.WithEncoderCRC(true)),
		"two frames":        append(encode(content[:half]), encode(content[half:])...),
		"an empty frame":    append(append([]byte(nil), good...), encode(nil, zstd.WithZeroFrames(true))...),
		"a skippable frame": append(append([]byte(nil), good...), skippable...),
		"skipped before":    append(append([]byte(nil), skippable...), good...),
		"only skippable":    skippable,
		"a byte more":       append(append([]byte(nil), good...), 0),
		"a byte less":       good[:len(good)-1],
		"another length":    encode(content[1:]),
		"a large window":    append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x80, 0x51}, good[5:]...),
		"a dictionary":      append([]byte{0x28, 0xb5, 0x2f, 0xfd, good[4] | 1, 9}, good[5:]...),
		"no content size":   {0x28, 0xb5, 0x2f, 0xfd, 0, 0x40, 1, 0, 0},
		"longer":            append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0x20, 3, 0, 1, 0, 0x19}, content...),
	} {
		if b, err := decompress(frame, len(content)); err == nil {
			t.Errorf("%s: %d bytes", what, len(b))
		}
	}
	// What says it has 1 MiB and has more, or less, takes no more memory than that.
	for what, frame := range map[string][]byte{"more": bombs, "no last block": bombs[:100*4+9], "less": append(bomb, 0x03, 0, 0x10, 'x')} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decompress(frame, chunk.MaxLen)
		runtime.ReadMemStats(&after)
		if taken := after.TotalAlloc - before.TotalAlloc; err == nil || taken > 8<<20 {
			t.Errorf("%s: %v, %d bytes allocated", what, err, taken)
		}
	}
	// No mutation panics or is anything but an error or a chunk of this length.
	random := rand.New(rand.NewSource(3))
	small := encode(text(3000), zstd.WithSingleSegment(true))
	for i := 0; i < 100000; i++ {
		b := append([]byte(nil), small...)
		for n := random.Intn(3) + 1; n > 0; n-- {
			b[random.Intn(len(b))] = byte(random.Intn(256))
		}
		if got, err := decompress(b, 3000); err == nil && len(got) != 3000 {
			t.Fatal(len(got))
		}
	}
}
