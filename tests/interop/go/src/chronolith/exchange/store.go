package exchange

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"

	"chronolith/chunk"
	"chronolith/pack"
	"chronolith/recipe"
)

// Source is where chunks and nodes come from. Get verifies what it returns.
type Source interface {
	Get(kind chunk.Kind, id chunk.ID) ([]byte, error)
}

// ErrMissing means that a store does not have a chunk or node.
var ErrMissing = errors.New("not there")

// zeros are written for holes.
var zeros [64 << 10]byte

// WriteValue writes the value of a recipe. What is written before an error is the beginning of the value.
func WriteValue(w io.Writer, r *recipe.Recipe, from Source) error {
	node := func(id chunk.ID) ([]byte, error) { return from.Get(chunk.Node, id) }
	return r.Walk(node, func(ref recipe.Reference) error {
		if !ref.Hole {
			b, err := from.Get(chunk.Data, ref.ID)
			if err == nil && uint64(len(b)) != ref.Length {
				err = fmt.Errorf("chunk %s has %d bytes, not %d", ref.ID, len(b), ref.Length)
			}
			if err == nil {
				_, err = w.Write(b)
			}
			return err
		}
		for left := ref.Length; left > 0; {
			b := zeros[:]
			if left < uint64(len(b)) {
				b = b[:left]
			}
			if _, err := w.Write(b); err != nil {
				return err
			}
			left -= uint64(len(b))
		}
		return nil
	})
}

// Store is the packs of a closed database. It reads nothing else of it. For each chunk it holds what a table tells
// of it, 56 bytes, in memory.
type Store struct{ packs []*pack.Pack }

// packPaths returns the paths of all packs of a database, by number.
func packPaths(database string) ([]string, error) {
	// A folder that is no database is not one without large values.
	if _, err := os.Stat(filepath.Join(database, "CURRENT")); err != nil {
		return nil, fmt.Errorf("%s: not a database: %w", database, err)
	}
	folder := filepath.Join(database, "packs")
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var numbers []uint64
	for _, entry := range entries {
		if number, ok := pack.ParseName(entry.Name()); ok {
			numbers = append(numbers, number)
		}
	}
	sort.Slice(numbers, func(i, j int) bool { return numbers[i] < numbers[j] })
	var paths []string
	for _, number := range numbers {
		paths = append(paths, filepath.Join(folder, fmt.Sprintf("%d.pack", number)))
	}
	return paths, nil
}

// OpenStore opens all packs of a database that no process has open.
func OpenStore(database string) (*Store, error) {
	paths, err := packPaths(database)
	if err != nil {
		return nil, err
	}
	s := new(Store)
	for _, path := range paths {
		p, err := pack.Open(path)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.packs = append(s.packs, p)
	}
	return s, nil
}

// Close closes the packs.
func (s *Store) Close() {
	for _, p := range s.packs {
		p.Close() // nothing was written that an error could tell of
	}
}

// Get returns a chunk or node of the default scope.
func (s *Store) Get(kind chunk.Kind, id chunk.ID) ([]byte, error) {
	var damage error
	for _, p := range s.packs {
		line, ok := p.Find(id)
		if !ok || line.Kind != kind {
			continue
		}
		r, err := p.Read(line)
		if err == nil && r.Scope == 0 {
			return r.Bytes, nil
		}
		// Another pack may have it whole.
		if err != nil {
			damage = err
		}
	}
	if damage == nil {
		damage = ErrMissing
	}
	return nil, fmt.Errorf("%s %s: %w", kind, id, damage)
}

// Answer tells which chunks and nodes of the default scope are there. It reads the headers of their records, since only
// these tell the scope.
func (s *Store) Answer(q HaveYou) (Have, error) {
	a := make(Have, len(q))
	for i, id := range q {
		for _, p := range s.packs {
			line, ok := p.Find(id)
			if !ok || a[i] {
				continue
			}
			r, err := p.Header(line)
			if err != nil {
				return nil, err
			}
			a[i] = r.Scope == 0
		}
	}
	return a, nil
}

// Summary is what Verify counted.
type Summary struct {
	Packs, Unsealed, Records, Bytes, Damages int64
}

// Verify reads every record of every pack of a database and calls report for each damage.
func Verify(database string, report func(error)) (Summary, error) {
	var s Summary
	paths, err := packPaths(database)
	if err != nil {
		return s, err
	}
	count := func(err error) {
		s.Damages++
		report(err)
	}
	for _, path := range paths {
		s.Packs++
		p, err := pack.Open(path)
		if err != nil {
			count(err)
			continue
		}
		if !p.Sealed() {
			s.Unsealed++
		}
		records, size := p.Verify(count)
		s.Records += records
		s.Bytes += size
		p.Close()
	}
	return s, nil
}
