package recipe

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"testing"

	"lukechampine.com/blake3"

	"chronolith/chunk"
)

const golden = "../../../../../golden/chunking-1.txt"

// input returns the bytes that a line of the generator describes.
func input(t *testing.T, text string) (out []byte) {
	for _, part := range strings.Split(text, " + ") {
		var what string
		var state uint64
		var n int
		if _, err := fmt.Sscan(part, &what, &state, &n); err != nil {
			t.Fatalf("input %q: %v", part, err)
		}
		for ; n > 0; n-- {
			switch what {
			case "noise":
				state = state*6364136223846793005 + 1442695040888963407
				out = append(out, byte(state>>33))
			case "repeat":
				out = append(out, byte(state))
			default:
				t.Fatalf("input %q", part)
			}
		}
	}
	return out
}

func sum(b []byte) string {
	s := blake3.Sum256(b)
	return hex.EncodeToString(s[:])
}

// cut returns the recipe of a value, its nodes, the lengths of its chunks as the golden file tells them, and the ids.
func cut(t *testing.T, value []byte, c chunk.Chunking, scope chunk.Scope, origin string) (r *Recipe, nodes map[chunk.ID][]byte, lengths string, ids []byte) {
	t.Helper()
	nodes = make(map[chunk.ID][]byte)
	builder := NewBuilder(c, func(node []byte) (chunk.ID, error) {
		id := scope.ID(chunk.Node, node)
		nodes[id] = node
		return id, nil
	})
	cutter, err := chunk.NewCutter(bytes.NewReader(value), c)
	var told []string
	for err == nil {
		var b []byte
		b, err = cutter.Next()
		switch {
		case err != nil:
		case chunk.IsHole(b):
			told = append(told, fmt.Sprintf("0:%d", len(b)))
			err = builder.Hole(uint64(len(b)))
		default:
			told = append(told, strconv.Itoa(len(b)))
			id := scope.ID(chunk.Data, b)
			ids = append(ids, id[:]...)
			err = builder.Chunk(id, len(b))
		}
	}
	if err != io.EOF {
		t.Fatal(err)
	}
	r, err = builder.Finish(origin)
	if err != nil {
		t.Fatal(err)
	}
	return r, nodes, strings.Join(told, " "), ids
}

func TestGoldenVectors(t *testing.T) {
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	vectors := 0
	inputs := make(map[string][]byte)
	for number, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		vectors++
		fields := strings.Split(line, " | ")
		if len(fields) != 6 {
			t.Fatalf("line %d has %d fields", number+1, len(fields))
		}
		var c chunk.Chunking
		if _, err := fmt.Sscan(fields[1], &c.Policy, &c.Size); err != nil {
			t.Fatal(err)
		}
		var scope chunk.Scope
		if fields[5] != "-" {
			var secret [32]byte
			copy(secret[:], bytes.Repeat([]byte{7}, 32))
			scope = chunk.NamedScope(secret, fields[5])
		}
		if inputs[fields[0]] == nil {
			inputs[fields[0]] = input(t, fields[0])
		}
		value := inputs[fields[0]]
		r, nodes, lengths, ids := cut(t, value, c, scope, "")
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		// A long list is told by its hash.
		if strings.HasPrefix(fields[2], "BLAKE3 ") {
			lengths = "BLAKE3 " + sum([]byte(lengths))
		}
		told := hex.EncodeToString(b)
		if r.Height > 0 || len(r.References) > 3 {
			told = fmt.Sprintf("%d bytes %s %d nodes", len(b), sum(b), len(nodes))
		}
		for i, got := range []string{lengths, sum(ids), told} {
			if got != fields[i+2] {
				t.Errorf("line %d, field %d: %s, not %s", number+1, i+2, got, fields[i+2])
			}
		}
		again, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if at := walkAll(t, again, nodes); at != uint64(len(value)) {
			t.Errorf("line %d: %d bytes walked", number+1, at)
		}
	}
	if vectors < 50 {
		t.Errorf("only %d vectors", vectors)
	}
}

// walkAll returns the sum of the lengths of all chunks and holes.
func walkAll(t *testing.T, r *Recipe, nodes map[chunk.ID][]byte) (length uint64) {
	t.Helper()
	err := r.Walk(func(id chunk.ID) ([]byte, error) { return nodes[id], nil }, func(ref Reference) error {
		length += ref.Length
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return length
}

// gather is what the format says of nodes, with everything in memory.
func gather(t *testing.T, refs []Reference) (out []Reference, height int, nodes int) {
	for ; len(refs) > MaxReferences; height++ {
		var next []Reference
		start, length := 0, uint64(0)
		for i, ref := range refs {
			length += ref.Length
			n := i + 1 - start
			if n == 256 || i == len(refs)-1 || n >= 32 && !ref.Hole && ref.ID[0]%128 == 0 {
				b, err := EncodeNode(refs[start:i+1], height)
				if err != nil {
					t.Fatal(err)
				}
				next = append(next, Reference{ID: new(chunk.Scope).ID(chunk.Node, b), Length: length})
				start, length = i+1, 0
				nodes++
			}
		}
		refs = next
	}
	return refs, height, nodes
}

func TestBuilderGathersAsTheFormatSays(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	for _, n := range []int{1, 255, 256, 257, 258, 287, 288, 511, 512, 513, 5000, 32768, 65536, 65537, 100000, 300000} {
		for _, holes := range []int{0, 2, 7} {
			var refs []Reference
			nodes := make(map[chunk.ID][]byte)
			calls := 0
			builder := NewBuilder(chunk.Automatic, func(node []byte) (chunk.ID, error) {
				id := new(chunk.Scope).ID(chunk.Node, node)
				nodes[id] = node
				calls++
				return id, nil
			})
			for i := 0; i < n; i++ {
				ref := Reference{Length: uint64(random.Intn(chunk.MaxLen) + 1)}
				if ref.Hole = holes > 0 && i%holes == 0; ref.Hole {
					// In two pieces, which are one reference.
					builder.Hole(ref.Length - 1)
					builder.Hole(1)
				} else {
					random.Read(ref.ID[:])
					if err := builder.Chunk(ref.ID, int(ref.Length)); err != nil {
						t.Fatal(err)
					}
				}
				refs = append(refs, ref)
			}
			r, err := builder.Finish("here")
			if err != nil {
				t.Fatal(err)
			}
			want, height, count := gather(t, refs)
			if r.Height != height || calls != count || fmt.Sprint(r.References) != fmt.Sprint(want) {
				t.Fatalf("%d references: height %d, %d nodes; not %d, %d", n, r.Height, calls, height, count)
			}
			at := 0
			err = r.Walk(func(id chunk.ID) ([]byte, error) { return nodes[id], nil }, func(ref Reference) error {
				if at == len(refs) || ref != refs[at] {
					return fmt.Errorf("reference %d", at)
				}
				at++
				return nil
			})
			if err != nil || at != n {
				t.Fatal(at, err)
			}
		}
	}
}

func TestBuilderRefuses(t *testing.T) {
	builder := NewBuilder(chunk.Automatic, nil)
	if _, err := builder.Finish(""); err == nil {
		t.Error("a recipe of nothing")
	}
	for _, n := range []int{-1, 0, chunk.MaxLen + 1} {
		if err := builder.Chunk(chunk.ID{}, n); err == nil {
			t.Errorf("a chunk of %d bytes", n)
		}
	}
	if err := builder.Hole(1<<64 - 1); err != nil {
		t.Error(err)
	}
	if builder.Hole(1) == nil || builder.Chunk(chunk.ID{}, 1) == nil {
		t.Error("more bytes than 64 bits count")
	}
	if _, err := builder.Finish(strings.Repeat("x", 256)); err == nil {
		t.Error("a long origin")
	}
	full := errors.New("full")
	builder = NewBuilder(chunk.Automatic, func([]byte) (chunk.ID, error) { return chunk.ID{}, full })
	var err error
	for i := 0; i < 10000 && err == nil; i++ {
		err = builder.Chunk(chunk.ID{1}, 1)
	}
	if err != full {
		t.Error(err)
	}
}

func id(b byte) (id chunk.ID) {
	copy(id[:], bytes.Repeat([]byte{b}, 32))
	return id
}

// samples are recipes that use every field.
func samples() []*Recipe {
	many := make([]Reference, 256)
	for i := range many {
		many[i] = Reference{ID: id(byte(i)), Length: 1}
	}
	return []*Recipe{
		{1, chunk.Automatic, 0, []Reference{{ID: id(0), Length: 1}}, ""},
		{1 << 63, chunk.Whole, 0, []Reference{{Hole: true, Length: 1 << 63}}, "a hole"},
		{312, chunk.Automatic, 0, []Reference{{ID: id(1), Length: 5}, {Hole: true, Length: 7}, {ID: id(2), Length: 300}}, "ä"},
		{256, chunk.Automatic, 8, many, strings.Repeat("x", 255)},
		{1<<64 - 1, chunk.Automatic, 1, []Reference{{ID: id(1), Length: 1<<64 - 2}, {ID: id(2), Length: 1}}, ""},
	}
}

func TestRecipesReadBack(t *testing.T) {
	for i, r := range samples() {
		b, err := r.Encode()
		if err != nil {
			t.Fatal(i, err)
		}
		got, err := Decode(b)
		if err != nil || fmt.Sprint(*got) != fmt.Sprint(*r) || len(b) > MaxLen {
			t.Fatalf("%d: %v, %v", i, got, err)
		}
		node, err := EncodeNode(r.References, r.Height)
		if err != nil {
			t.Fatal(i, err)
		}
		refs, length, err := DecodeNode(node, r.Height)
		if err != nil || length != r.Length || fmt.Sprint(refs) != fmt.Sprint(r.References) {
			t.Fatalf("%d: %v, %d, %v", i, refs, length, err)
		}
	}
}

func TestWhatHasAnotherValueIsRefused(t *testing.T) {
	for what, change := range map[string]func(*Recipe){
		"no references":   func(r *Recipe) { r.References = nil },
		"257 references":  func(r *Recipe) { r.References = append(samples()[3].References, r.References[0]); r.Length = 257 },
		"another sum":     func(r *Recipe) { r.Length++ },
		"no length":       func(r *Recipe) { r.References[0].Length = 0; r.Length = 0 },
		"a long chunk":    func(r *Recipe) { r.References[0].Length = chunk.MaxLen + 1; r.Length = chunk.MaxLen + 1 },
		"a hole of nodes": func(r *Recipe) { r.References[0].Hole = true; r.Height = 1 },
		"two holes": func(r *Recipe) {
			r.References = []Reference{{Hole: true, Length: 1}, {Hole: true, Length: 2}}
			r.Length = 3
		},
		"an overflow":      func(r *Recipe) { r.References = []Reference{{Hole: true, Length: 1<<64 - 1}, {ID: id(1), Length: 2}} },
		"height 9":         func(r *Recipe) { r.Height = 9 },
		"height -1":        func(r *Recipe) { r.Height = -1 },
		"no policy":        func(r *Recipe) { r.Chunking.Policy = 0 },
		"policy 3":         func(r *Recipe) { r.Chunking.Policy = 3 },
		"a small size":     func(r *Recipe) { r.Chunking.Size = 1023 },
		"a long origin":    func(r *Recipe) { r.Origin = strings.Repeat("x", 256) },
		"an origin of \\x": func(r *Recipe) { r.Origin = "\xff" },
	} {
		r := samples()[0]
		change(r)
		if _, err := r.Encode(); err == nil {
			t.Errorf("%s: encoded", what)
		}
		if err := r.Walk(nil, func(Reference) error { return nil }); err == nil {
			t.Errorf("%s: walked", what)
		}
	}
}

func TestOtherEncodingsAreRefused(t *testing.T) {
	good, _ := hex.DecodeString("01" + "0801" + "1206" + "0802" + "10808001" + "2224" + "0a20" + strings.Repeat("ab", 32) + "1001")
	if _, err := Decode(good); err != nil {
		t.Fatal(err)
	}
	ref := "2224" + "0a20" + strings.Repeat("ab", 32) + "1001"
	chunking := "1206" + "0802" + "10808001"
	for what, text := range map[string]string{
		"nothing":                "",
		"a form only":            "01",
		"form 0":                 "00" + "0801" + chunking + ref,
		"form 2 of height 0":     "02" + "0801" + chunking + ref,
		"form 1 of height 1":     "01" + "0801" + chunking + "1801" + ref,
		"height 0 written":       "01" + "0801" + chunking + "1800" + ref,
		"height 9":               "02" + "0801" + chunking + "1809" + ref,
		"height 2^32":            "01" + "0801" + chunking + "188080808010" + ref,
		"a long varint":          "01" + "088100" + chunking + ref,
		"a varint of 65 bits":    "01" + "08ffffffffffffffffff02" + chunking + ref,
		"an endless varint":      "01" + "08ffffffffffffffffffff01" + chunking + ref,
		"fields that descend":    "01" + chunking + "0801" + ref,
		"the length twice":       "01" + "0801" + "0801" + chunking + ref,
		"the chunking twice":     "01" + "0801" + chunking + chunking + ref,
		"no chunking":            "01" + "0801" + ref,
		"an empty chunking":      "01" + "0801" + "1200" + ref,
		"a size of 2^32+16384":   "01" + "0801" + "1208" + "0802" + "108080818010" + ref,
		"the policy twice":       "01" + "0801" + "1208" + "0802" + "0802" + "10808001" + ref,
		"no length":              "01" + chunking + ref,
		"an unknown field":       "01" + "0801" + chunking + ref + "3001",
		"an unknown long tag":    "01" + "0801" + chunking + ref + "800101",
		"field 0":                "01" + "0001" + "0801" + chunking + ref,
		"another type":           "01" + "0900000000000000" + "00" + chunking + ref,
		"an empty origin":        "01" + "0801" + chunking + ref + "2a00",
		"a short origin":         "01" + "0801" + chunking + ref + "2a0278",
		"an origin not UTF-8":    "01" + "0801" + chunking + ref + "2a01ff",
		"the origin twice":       "01" + "0801" + chunking + ref + "2a0178" + "2a0178",
		"an origin of 2^63":      "01" + "0801" + chunking + ref + "2a80808080808080808001",
		"an id of 31 bytes":      "01" + "0801" + chunking + "2223" + "0a1f" + strings.Repeat("ab", 31) + "1001",
		"an id of 33 bytes":      "01" + "0801" + chunking + "2225" + "0a21" + strings.Repeat("ab", 33) + "1001",
		"an id of no bytes":      "01" + "0801" + chunking + "2204" + "0a00" + "1001",
		"an id twice":            "01" + "0801" + chunking + "2246" + strings.Repeat("0a20"+strings.Repeat("ab", 32), 2) + "1001",
		"no length of a chunk":   "01" + "0801" + chunking + "2222" + "0a20" + strings.Repeat("ab", 32),
		"a reference of nothing": "01" + "0801" + chunking + "2200",
		"a reference too long":   "01" + "0801" + chunking + "2225" + "0a20" + strings.Repeat("ab", 32) + "1001",
		"an unknown inner field": "01" + "0801" + chunking + "2226" + "0a20" + strings.Repeat("ab", 32) + "1001" + "1801",
		"another form behind":    "01" + "0801" + chunking + ref + "01",
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(what, err)
		}
		if r, err := Decode(b); err == nil {
			t.Errorf("%s: %v", what, r)
		}
	}
}

// Whatever decodes encodes to the same bytes, and nothing panics.
func TestMutationsAreRefusedOrCanonical(t *testing.T) {
	random := rand.New(rand.NewSource(2))
	decoded := 0
	for i, r := range samples() {
		good, _ := r.Encode()
		node, _ := EncodeNode(r.References, r.Height)
		try := func(b []byte) {
			if r, err := Decode(b); err == nil {
				decoded++
				if again, err := r.Encode(); err != nil || !bytes.Equal(again, b) {
					t.Fatalf("%x decodes, and encodes to %x, %v", b, again, err)
				}
			}
		}
		tryNode := func(b []byte) {
			if refs, _, err := DecodeNode(b, r.Height); err == nil {
				decoded++
				if again, err := EncodeNode(refs, r.Height); err != nil || !bytes.Equal(again, b) {
					t.Fatalf("%x decodes, and encodes to %x, %v", b, again, err)
				}
			}
		}
		for n := range good {
			try(good[:n])
		}
		for n := 0; n < 40000; n++ {
			try(mutate(random, good))
			tryNode(mutate(random, node))
		}
		if i == 0 && decoded == 0 {
			t.Error("nothing ever decoded")
		}
	}
}

// mutate changes, inserts, removes or doubles a few bytes.
func mutate(random *rand.Rand, good []byte) []byte {
	b := append([]byte(nil), good...)
	for n := random.Intn(3) + 1; n > 0 && len(b) > 0; n-- {
		at := random.Intn(len(b))
		switch random.Intn(5) {
		case 0:
			b[at] ^= 1 << random.Intn(8)
		case 1:
			b[at] = byte(random.Intn(256))
		case 2:
			b = append(b[:at], b[at+1:]...)
		case 3:
			b = append(b[:at], append([]byte{byte(random.Intn(256))}, b[at:]...)...)
		case 4:
			end := at + random.Intn(len(b)-at)
			b = append(b[:end:end], b[at:]...)
		}
	}
	return b
}

func TestWalkChecksNodes(t *testing.T) {
	leaf, _ := EncodeNode([]Reference{{ID: id(1), Length: 5}, {Hole: true, Length: 2}}, 0)
	r := &Recipe{7, chunk.Automatic, 1, []Reference{{ID: id(9), Length: 7}}, ""}
	walk := func(r *Recipe, node []byte, err error) error {
		return r.Walk(func(chunk.ID) ([]byte, error) { return node, err }, func(Reference) error { return nil })
	}
	if err := walk(r, leaf, nil); err != nil {
		t.Error(err)
	}
	gone := errors.New("gone")
	if err := walk(r, nil, gone); !errors.Is(err, gone) {
		t.Error(err)
	}
	for what, node := range map[string][]byte{"empty": nil, "cut": leaf[:len(leaf)-1], "longer": append(leaf, leaf...)} {
		if err := walk(r, node, nil); err == nil {
			t.Error(what)
		}
	}
	// The same node is none at a height where holes are not.
	if err := walk(&Recipe{7, chunk.Automatic, 2, r.References, ""}, leaf, nil); err == nil {
		t.Error("a hole among nodes")
	}
	// A node that is its own child ends with the height.
	loop, _ := EncodeNode([]Reference{{ID: id(9), Length: 7}}, 1)
	visited := 0
	err := (&Recipe{7, chunk.Automatic, 8, r.References, ""}).Walk(
		func(chunk.ID) ([]byte, error) { return loop, nil }, func(Reference) error { visited++; return gone })
	if !errors.Is(err, gone) || visited != 1 {
		t.Error(err, visited)
	}
}
