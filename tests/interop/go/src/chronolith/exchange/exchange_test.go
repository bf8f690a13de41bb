package exchange

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"chronolith/chunk"
	"chronolith/pack/packtest"
	"chronolith/recipe"
)

const golden = "../../../../../golden/"

func noise(seed int64, n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}

func someIDs(n int) (q HaveYou) {
	for i := 0; i < n; i++ {
		q = append(q, new(chunk.Scope).ID(chunk.Data, []byte(fmt.Sprint(i))))
	}
	return q
}

func TestMessagesReadBack(t *testing.T) {
	for _, n := range []int{1, 2, 7, 8, 9, 16, 17, 1000, MaxIDs} {
		q := someIDs(n)
		b, err := q.Encode()
		if err != nil || len(b) > MaxQuestionLen {
			t.Fatal(n, len(b), err)
		}
		again, err := DecodeHaveYou(b)
		if err != nil || !reflect.DeepEqual(again, q) {
			t.Fatal(n, err)
		}
		a := make(Have, n)
		for i := range a {
			a[i] = i%3 == 0
		}
		if b, err = a.Encode(); err != nil {
			t.Fatal(n, err)
		}
		if again, err := DecodeHave(b); err != nil || !reflect.DeepEqual(again, a) {
			t.Fatal(n, err)
		}
	}
	for _, n := range []int{0, MaxIDs + 1} {
		if _, err := someIDs(n).Encode(); err == nil {
			t.Errorf("a question with %d ids", n)
		}
		if _, err := make(Have, n).Encode(); err == nil {
			t.Errorf("an answer with %d bits", n)
		}
	}
}

func TestOtherMessagesAreRefused(t *testing.T) {
	id := strings.Repeat("ab", 32)
	for what, text := range map[string]string{
		"nothing": "", "no ids": "0a00", "31 bytes": "0a1f" + id[2:], "33 bytes": "0a21" + id + "00", "two fields": "0a20" + id + "0a20" + id,
		"a field more": "0a20" + id + "1001", "a long length": "0aa000" + id, "less than it says": "0a40" + id, "more": "0a20" + id + "00",
		"an id too many": "0aa08080" + "01" + strings.Repeat(id, MaxIDs+1), "2^64-1 bytes": "0affffffffffffffffff01" + id,
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(what, err)
		}
		if q, err := DecodeHaveYou(b); err == nil {
			t.Errorf("question, %s: %d ids", what, len(q))
		}
	}
	for what, text := range map[string]string{
		"nothing": "", "no count": "120100", "count 0": "0800120100", "no bits": "0801", "empty bits": "08011200", "a byte too many": "080112020100",
		"a byte too few": "0809120101", "an unused bit": "0801120102", "unused bits": "08091202ff02", "bits before": "1201010801", "count twice": "08010801120101",
		"bits twice": "0801120101120101", "a long count": "088100120101", "too many": "0881800412" + "8140" + strings.Repeat("00", 8193),
		"a count of 2^64-1": "08ffffffffffffffffff01120101", "another field": "08011201011801",
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(what, err)
		}
		if a, err := DecodeHave(b); err == nil {
			t.Errorf("answer, %s: %v", what, a)
		}
	}
}

// Whatever decodes encodes to the same bytes, and nothing panics.
func TestMutationsAreRefusedOrCanonical(t *testing.T) {
	random := rand.New(rand.NewSource(4))
	for n := 1; n < 20; n++ {
		question, _ := someIDs(n).Encode()
		answer, _ := make(Have, n).Encode()
		for i := 0; i < 5000; i++ {
			for _, good := range [][]byte{question, answer} {
				b := append([]byte(nil), good...)
				for k := random.Intn(3); k >= 0; k-- {
					b[random.Intn(len(b))] = byte(random.Intn(256))
				}
				b = b[:len(b)-random.Intn(2)*random.Intn(len(b))]
				if q, err := DecodeHaveYou(b); err == nil {
					if again, err := q.Encode(); err != nil || !bytes.Equal(again, b) {
						t.Fatalf("%x encodes to %x, %v", b, again, err)
					}
				}
				if a, err := DecodeHave(b); err == nil {
					if again, err := a.Encode(); err != nil || !bytes.Equal(again, b) {
						t.Fatalf("%x encodes to %x, %v", b, again, err)
					}
				}
			}
		}
	}
}

func TestGoldenMessages(t *testing.T) {
	text, err := os.ReadFile(golden + "have-you-1.txt")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("tests/golden/have-you-1.txt is not there yet")
	} else if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]int)
	for number, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Split(line, "|")
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		last := len(fields) - 1
		message, err := hex.DecodeString(fields[last])
		if err != nil {
			t.Fatalf("line %d: %v", number+1, err)
		}
		kinds[fields[0]]++
		switch {
		case fields[0] == "question" && last == 2:
			q, err := DecodeHaveYou(message)
			if err != nil {
				t.Errorf("line %d: %v", number+1, err)
			}
			if got := strings.Trim(fmt.Sprint(q), "[]"); got != fields[1] {
				t.Errorf("line %d: %s", number+1, got)
			}
			if b, err := q.Encode(); err != nil || !bytes.Equal(b, message) {
				t.Errorf("line %d: encodes to %x, %v", number+1, b, err)
			}
		case fields[0] == "answer" && last == 2:
			a, err := DecodeHave(message)
			if err != nil {
				t.Errorf("line %d: %v", number+1, err)
			}
			bits := ""
			for _, has := range a {
				bits += map[bool]string{false: "0", true: "1"}[has]
			}
			if bits != fields[1] {
				t.Errorf("line %d: %s", number+1, bits)
			}
			if b, err := a.Encode(); err != nil || !bytes.Equal(b, message) {
				t.Errorf("line %d: encodes to %x, %v", number+1, b, err)
			}
		case fields[0] == "refused question" && last == 1:
			if q, err := DecodeHaveYou(message); err == nil {
				t.Errorf("line %d: %v", number+1, q)
			}
		case fields[0] == "refused answer" && last == 1:
			if a, err := DecodeHave(message); err == nil {
				t.Errorf("line %d: %v", number+1, a)
			}
		default:
			t.Errorf("line %d: neither a question nor an answer", number+1)
		}
	}
	for _, kind := range []string{"question", "answer", "refused question", "refused answer"} {
		if kinds[kind] == 0 {
			t.Errorf("no %s", kind)
		}
	}
}

func TestGoldenDatabases(t *testing.T) {
	for _, name := range []string{"format-1-large", "format-1-zstd"} {
		t.Run(name, func(t *testing.T) { checkGolden(t, golden+name) })
	}
}

func checkGolden(t *testing.T, database string) {
	s, err := Verify(database, func(err error) { t.Error(err) })
	if err != nil || s.Packs == 0 || s.Records == 0 {
		t.Fatal(s, err)
	}
	store, err := OpenStore(database)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	nodes, shrunk := 0, false
	for _, p := range store.packs {
		for _, line := range p.Lines() {
			r, err := p.Read(line)
			if err != nil {
				t.Fatal(err)
			}
			shrunk = shrunk || line.Stored < line.Raw
			if r.Scope == 0 {
				if a, err := store.Answer(HaveYou{r.ID}); err != nil || !a[0] {
					t.Errorf("%s is there, but not in an answer: %v", r.ID, err)
				}
			}
			if r.Kind != chunk.Node {
				continue
			}
			nodes++
			if _, _, err := recipe.DecodeNode(r.Bytes, 0); err != nil {
				if _, _, above := recipe.DecodeNode(r.Bytes, 1); above != nil {
					t.Errorf("%s: %v; %v", r.ID, err, above)
				}
			}
		}
	}
	if shrunk != strings.HasSuffix(database, "zstd") {
		t.Errorf("some chunks are compressed: %v", shrunk)
	}
	t.Logf("%+v, %d nodes", s, nodes)
}

// value returns bytes of which a policy makes chunks, a hole, nodes, and a chunk that occurs twice.
func value() []byte {
	return bytes.Join([][]byte{noise(1, 160_000), make([]byte, 100_000), noise(2, 5000), noise(1, 160_000)}, nil)
}

// database returns a closed database whose packs have the chunks of a folder, in halves, and one in another scope.
func database(t *testing.T, folder string) string {
	t.Helper()
	dir := t.TempDir()
	entries := allOf(t, folder)
	half := len(entries) / 2
	sealed, _ := packtest.Build(1, 11, append(entries[:half:half], packtest.Entry{Kind: chunk.Data, Scope: 1, ID: chunk.ID{1}, Bytes: []byte("secret")}))
	open, tableAt := packtest.Build(10, 12, entries[half:])
	if err := os.Mkdir(filepath.Join(dir, "packs"), 0o777); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"CURRENT": nil, "packs/1.pack": sealed, "packs/10.pack": open[:tableAt], "packs/other": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func cut(t *testing.T, value []byte) (dir string, folder *Folder) {
	t.Helper()
	dir = t.TempDir()
	folder, err := CreateFolder(dir)
	if err == nil {
		err = folder.Cut(bytes.NewReader(value), chunk.Chunking{Policy: chunk.ContentDefined, Size: 1024}, "here")
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, folder
}

func TestAValueGoesThroughAFolderAndPacks(t *testing.T) {
	dir, folder := cut(t, value())
	r, err := folder.Recipe()
	if err != nil || r.Height != 1 || r.Origin != "here" {
		t.Fatal(r, err)
	}
	store, err := OpenStore(database(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for name, from := range map[string]Source{"folder": folder, "store": store} {
		var out bytes.Buffer
		if err := WriteValue(&out, r, from); err != nil || !bytes.Equal(out.Bytes(), value()) {
			t.Fatal(name, err)
		}
	}
	q, err := folder.Question()
	if err != nil {
		t.Fatal(err)
	}
	for i := range q[1:] {
		if !q[i].Less(q[i+1]) {
			t.Fatal("ids do not ascend")
		}
	}
	// The secret of another scope and what is nowhere are not told.
	a, err := store.Answer(append(q, chunk.ID{1}, chunk.ID{2}))
	if err != nil || len(a) != len(q)+2 {
		t.Fatal(len(a), err)
	}
	for i, has := range a {
		if has != (i < len(q)) {
			t.Fatal(i, has)
		}
	}
	if _, err := store.Get(chunk.Data, chunk.ID{1}); !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
	if _, err := store.Get(chunk.Node, q[0]); (err == nil) != isNode(dir, q[0]) {
		t.Fatal(err)
	}
}

func isNode(dir string, id chunk.ID) bool {
	_, err := os.Stat(filepath.Join(dir, "nodes", id.String()))
	return err == nil
}

func TestAFolderIsForOneValue(t *testing.T) {
	_, folder := cut(t, value())
	again := func(b []byte, origin string) error {
		return folder.Cut(bytes.NewReader(b), chunk.Chunking{Policy: chunk.ContentDefined, Size: 1024}, origin)
	}
	if err := again(value(), "here"); err != nil {
		t.Error(err)
	}
	if err := again(value()[1:], "here"); err == nil || !strings.Contains(err.Error(), "recipe") {
		t.Error(err)
	}
	if err := again(nil, ""); err == nil {
		t.Error("a recipe of an empty value")
	}
	if err := again(value(), strings.Repeat("x", 256)); err == nil {
		t.Error("a long origin")
	}
}

func TestDamagedFoldersAreErrors(t *testing.T) {
	for what, damage := range map[string]func(path string) error{
		"gone":     os.Remove,
		"empty":    func(path string) error { return os.WriteFile(path, nil, 0o666) },
		"another":  func(path string) error { return os.WriteFile(path, []byte("another"), 0o666) },
		"huge":     func(path string) error { return os.Truncate(path, 1<<40) },
		"a folder": func(path string) error { os.Remove(path); return os.Mkdir(path, 0o777) },
	} {
		for _, name := range []string{"chunks/*", "nodes/*", "recipe"} {
			dir, folder := cut(t, value())
			paths, _ := filepath.Glob(filepath.Join(dir, name))
			if err := damage(paths[len(paths)/2]); err != nil {
				t.Fatal(err)
			}
			r, err := folder.Recipe()
			var out bytes.Buffer
			if err == nil {
				err = WriteValue(&out, r, folder)
			}
			if err == nil || !strings.Contains(err.Error(), paths[len(paths)/2]) || !bytes.HasPrefix(value(), out.Bytes()) {
				t.Errorf("%s %s: %v", name, what, err)
			}
		}
	}
	dir, folder := cut(t, value())
	for _, name := range []string{"chunks/readme", "chunks/" + strings.Repeat("AB", 32)} {
		os.WriteFile(filepath.Join(dir, name), nil, 0o666)
		if _, err := folder.Question(); err == nil {
			t.Error(name)
		}
		os.Remove(filepath.Join(dir, name))
	}
	if _, err := OpenFolder(filepath.Join(dir, "none")).Question(); err == nil {
		t.Error("a folder that is not there")
	}
}

func TestDamagedDatabases(t *testing.T) {
	dir, folder := cut(t, value())
	r, _ := folder.Recipe()
	base := database(t, dir)
	path := filepath.Join(base, "packs", "1.pack")
	b, _ := os.ReadFile(path)
	b[len(b)/2] ^= 1
	os.WriteFile(path, b, 0o666)
	var found []string
	s, err := Verify(base, func(err error) { found = append(found, err.Error()) })
	if err != nil || s.Damages != 1 || len(found) != 1 || !strings.HasPrefix(found[0], path+": offset ") {
		t.Fatal(s, found, err)
	}
	store, err := OpenStore(base)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := WriteValue(&out, r, store); err == nil || !strings.Contains(err.Error(), path) || !bytes.HasPrefix(value(), out.Bytes()) {
		t.Error(err)
	}
	store.Close()
	// A second copy of a damaged chunk does.
	good, tableAt := packtest.Build(11, 13, allOf(t, dir))
	os.WriteFile(filepath.Join(base, "packs", "11.pack"), good[:tableAt], 0o666)
	if store, err = OpenStore(base); err != nil {
		t.Fatal(err)
	}
	if err := WriteValue(io.Discard, r, store); err != nil {
		t.Error(err)
	}
	store.Close()
	b[len(b)-1] ^= 1 // the magic of the tail: its records are there, and then something else
	b[len(b)/2] ^= 1
	os.WriteFile(path, b, 0o666)
	if s, err := Verify(base, func(error) {}); err != nil || s.Damages != 1 || s.Unsealed != 3 {
		t.Error(s, err)
	}
	b[len(b)-1] ^= 1
	b[len(b)-60] ^= 1 // the table
	os.WriteFile(path, b, 0o666)
	if s, err := Verify(base, func(error) {}); err != nil || s.Damages != 1 {
		t.Error(s, err)
	}
	if _, err := OpenStore(base); err == nil || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	if _, err := OpenStore(dir); err == nil {
		t.Error("a folder that is no database")
	}
}

func allOf(t *testing.T, dir string) (entries []packtest.Entry) {
	t.Helper()
	for _, kind := range []chunk.Kind{chunk.Data, chunk.Node} {
		paths, _ := filepath.Glob(filepath.Join(dir, subfolder(kind), "*"))
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, packtest.Entry{Kind: kind, Bytes: b, Origin: "test"})
		}
	}
	return entries
}

// lies is a source of chunks that are not those of their ids.
type lies []byte

func (l lies) Get(chunk.Kind, chunk.ID) ([]byte, error) { return l, nil }

func TestAChunkOfAnotherLengthIsRefused(t *testing.T) {
	r := &recipe.Recipe{Length: 5, Chunking: chunk.Automatic, References: []recipe.Reference{{Length: 5}}}
	for n := 0; n < 10; n++ {
		if err := WriteValue(io.Discard, r, lies(make([]byte, n))); (err == nil) != (n == 5) {
			t.Error(n, err)
		}
	}
}
