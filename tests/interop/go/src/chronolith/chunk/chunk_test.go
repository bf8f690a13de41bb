package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// noise is the generator of the golden vectors.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		seed = seed*6364136223846793005 + 1442695040888963407
		b[i] = byte(seed >> 33)
	}
	return b
}

// cutAll returns the lengths of all chunks after checking that they are the stream.
func cutAll(t *testing.T, r io.Reader, want []byte, c Chunking) (lengths []int) {
	t.Helper()
	cutter, err := NewCutter(r, c)
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, err := cutter.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(want, b) || len(b) == 0 {
			t.Fatalf("chunk %d is not what the stream has there", len(lengths))
		}
		want = want[len(b):]
		lengths = append(lengths, len(b))
	}
	if _, err := cutter.Next(); err != io.EOF || len(want) != 0 {
		t.Fatalf("%d bytes are left, then %v", len(want), err)
	}
	return lengths
}

// cutSlowly cuts by the words of the format.
func cutSlowly(b []byte, c Chunking) (lengths []int) {
	for len(b) > 0 {
		shortest, longest := c.bounds()
		end := len(b)
		if c.Policy == Fixed {
			if end > longest {
				end = longest
			}
		} else if end > shortest {
			lowest := uint64(1) << 32
			for i := shortest; i <= longest && i <= len(b); i++ {
				if s := uint64(binary.LittleEndian.Uint32(b[i-4:i])*2438952949 + 878928995); s < lowest {
					lowest, end = s, i
				}
			}
		}
		lengths = append(lengths, end)
		b = b[end:]
	}
	return lengths
}

func TestCutsAreThoseOfTheFormatHoweverTheBytesArrive(t *testing.T) {
	for _, c := range []Chunking{{Fixed, 512}, {ContentDefined, 1024}, {ContentDefined, 1027}, Automatic, Whole} {
		shortest, longest := c.bounds()
		lengths := []int{0, 1, 3, 4, 5, shortest - 1, shortest, shortest + 1, shortest + 2, shortest + 6, longest - 1, longest,
			longest + 1, 2*longest + 3, 10*longest + 7}
		for _, n := range lengths {
			if n > 3<<20 {
				continue
			}
			for _, data := range [][]byte{noise(uint64(n), n), make([]byte, n), bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]} {
				want := cutSlowly(data, c)
				for name, r := range map[string]io.Reader{
					"whole": bytes.NewReader(data),
					"half":  iotest.HalfReader(bytes.NewReader(data)),
					"last":  iotest.DataErrReader(bytes.NewReader(data)),
				} {
					if got := cutAll(t, r, data, c); !equal(got, want) {
						t.Fatalf("%v, %d bytes, %s: %v, not %v", c, n, name, got, want)
					}
				}
			}
		}
		data := noise(9, 3*2048)
		if got := cutAll(t, iotest.OneByteReader(bytes.NewReader(data)), data, c); !equal(got, cutSlowly(data, c)) {
			t.Fatalf("%v, byte by byte: %v", c, got)
		}
	}
}

func equal(a, b []int) bool {
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestAnErrorOfTheReaderIsNoEnd(t *testing.T) {
	broken := errors.New("broken")
	cutter, _ := NewCutter(io.MultiReader(bytes.NewReader(noise(1, 1000)), iotest.ErrReader(broken)), Chunking{Fixed, 512})
	if b, err := cutter.Next(); len(b) != 512 || err != nil {
		t.Fatal(len(b), err)
	}
	for i := 0; i < 2; i++ {
		if b, err := cutter.Next(); b != nil || err != broken {
			t.Fatal(len(b), err)
		}
	}
	cutter, _ = NewCutter(stuck{}, Automatic)
	if _, err := cutter.Next(); err != io.ErrNoProgress {
		t.Fatal(err)
	}
}

func TestHolesAreAllZeros(t *testing.T) {
	for _, n := range []int{1, 2, 7, 8, 9, 64, 1000} {
		b := make([]byte, n)
		if !IsHole(b) {
			t.Fatalf("%d zeros", n)
		}
		for i := range b {
			b[i] = 1
			if IsHole(b) {
				t.Fatalf("a one at %d of %d", i, n)
			}
			b[i] = 0
		}
	}
	if IsHole(bytes.Repeat([]byte{7}, 100)) {
		t.Fatal("sevens")
	}
}

func TestIDs(t *testing.T) {
	// What b3sum prints of nothing.
	const empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
	var scope Scope
	if got := scope.ID(Data, nil).String(); got != empty {
		t.Fatal(got)
	}
	ids := make(map[ID]bool)
	for _, scope := range []Scope{{}, NamedScope([32]byte{7}, ""), NamedScope([32]byte{7}, "a"), NamedScope([32]byte{8}, "a")} {
		for _, kind := range []Kind{Data, Node} {
			for _, b := range [][]byte{nil, {0}, noise(1, 5000)} {
				ids[scope.ID(kind, b)] = true
			}
		}
	}
	if len(ids) != 4*2*3 {
		t.Fatal("ids of different things are the same")
	}
	for id := range ids {
		if got, err := ParseID(id.String()); got != id || err != nil {
			t.Fatal(got, err)
		}
	}
	for _, text := range []string{"", empty[1:], empty + "0", "AF" + empty[2:], "g" + empty[1:], empty + "00"} {
		if _, err := ParseID(text); err == nil {
			t.Fatalf("%q is an id", text)
		}
	}
}

func TestChunkings(t *testing.T) {
	for text, want := range map[string]Chunking{
		"automatic": {ContentDefined, 16384}, "whole": {Fixed, 1048576}, "fixed:512": {Fixed, 512}, "fixed:1048576": {Fixed, 1048576},
		"content-defined:1024": {ContentDefined, 1024}, "content-defined:524288": {ContentDefined, 524288},
	} {
		got, err := ParseChunking(text)
		if got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		if again, err := ParseChunking(got.String()); again != got || err != nil {
			t.Errorf("%s: %v, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "fixed", "fixed:", "fixed:511", "fixed:1048577", "content-defined:1023", "whole:5",
		"content-defined:524289", "fixed:4294967808", "fixed:-512", "other:1024", "automatic:16384"} {
		if c, err := ParseChunking(text); err == nil {
			t.Errorf("%s: %v", text, c)
		}
	}
	if _, err := NewCutter(nil, Chunking{}); err == nil {
		t.Error("a cutter without a policy")
	}
}

func BenchmarkCut(b *testing.B) {
	data := noise(1, 64<<20)
	for _, c := range []Chunking{{ContentDefined, 1024}, Automatic, {ContentDefined, MaxLen / 2}, Whole} {
		b.Run(c.String(), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for i := 0; i < b.N; i++ {
				cutter, err := NewCutter(bytes.NewReader(data), c)
				for err == nil {
					_, err = cutter.Next()
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCutAndName(b *testing.B) {
	data := noise(1, 64<<20)
	b.SetBytes(int64(len(data)))
	for i := 0; i < b.N; i++ {
		var scope Scope
		cutter, err := NewCutter(bytes.NewReader(data), Automatic)
		for err == nil {
			var c []byte
			c, err = cutter.Next()
			scope.ID(Data, c)
		}
	}
}
