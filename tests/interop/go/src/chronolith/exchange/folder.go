package exchange

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"chronolith/chunk"
	"chronolith/recipe"
)

// Folder is a value as files: chunks/ID, nodes/ID, and recipe, which is written last.
type Folder struct{ dir string }

// tempPrefix begins the names of files that are not whole yet.
const tempPrefix = ".tmp-"

// CreateFolder returns the folder at a path, which is made if it is not there.
func CreateFolder(dir string) (*Folder, error) {
	for _, kind := range []chunk.Kind{chunk.Data, chunk.Node} {
		if err := os.MkdirAll(filepath.Join(dir, subfolder(kind)), 0o777); err != nil {
			return nil, err
		}
	}
	return OpenFolder(dir), nil
}

// OpenFolder returns the folder at a path.
func OpenFolder(dir string) *Folder { return &Folder{dir} }

func subfolder(kind chunk.Kind) string {
	if kind == chunk.Node {
		return "nodes"
	}
	return "chunks"
}

// Get returns a chunk or node.
func (f *Folder) Get(kind chunk.Kind, id chunk.ID) ([]byte, error) {
	path := filepath.Join(f.dir, subfolder(kind), id.String())
	b, err := ReadFile(path, chunk.MaxLen)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrMissing)
	} else if err != nil {
		return nil, err
	}
	if got := new(chunk.Scope).ID(kind, b); got != id {
		return nil, fmt.Errorf("%s: its bytes are those of %s", path, got)
	}
	return b, nil
}

// Put writes a chunk or node unless it is there, and returns its id.
func (f *Folder) Put(kind chunk.Kind, b []byte) (chunk.ID, error) {
	id := new(chunk.Scope).ID(kind, b)
	return id, create(filepath.Join(f.dir, subfolder(kind), id.String()), b)
}

// Recipe returns the recipe.
func (f *Folder) Recipe() (*recipe.Recipe, error) { return ReadRecipe(filepath.Join(f.dir, "recipe")) }

// PutRecipe writes the recipe. A folder is for one value: if there is another recipe, that is an error.
func (f *Folder) PutRecipe(r *recipe.Recipe) error {
	b, err := r.Encode()
	if err != nil {
		return err
	}
	path := filepath.Join(f.dir, "recipe")
	if err := create(path, b); err != nil {
		return err
	}
	there, err := ReadFile(path, recipe.MaxLen)
	if err == nil && !bytes.Equal(there, b) {
		err = fmt.Errorf("%s: another recipe is there", path)
	}
	return err
}

// Cut cuts what r yields into chunks, and writes these, the nodes and the recipe.
func (f *Folder) Cut(r io.Reader, c chunk.Chunking, origin string) error {
	cutter, err := chunk.NewCutter(r, c)
	if err != nil {
		return err
	}
	builder := recipe.NewBuilder(c, func(node []byte) (chunk.ID, error) { return f.Put(chunk.Node, node) })
	for {
		b, err := cutter.Next()
		if err == io.EOF {
			break
		}
		switch {
		case err != nil:
		case chunk.IsHole(b):
			err = builder.Hole(uint64(len(b)))
		default:
			var id chunk.ID
			if id, err = f.Put(chunk.Data, b); err == nil {
				err = builder.Chunk(id, len(b))
			}
		}
		if err != nil {
			return err
		}
	}
	made, err := builder.Finish(origin)
	if err != nil {
		return err
	}
	return f.PutRecipe(made)
}

// Question asks for all chunks and nodes of the folder, ascending by id.
func (f *Folder) Question() (q HaveYou, err error) {
	for _, kind := range []chunk.Kind{chunk.Data, chunk.Node} {
		dir := filepath.Join(f.dir, subfolder(kind))
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			if strings.HasPrefix(entry.Name(), tempPrefix) {
				continue
			}
			id, err := chunk.ParseID(entry.Name())
			if err != nil {
				return nil, fmt.Errorf("%s: %w", dir, err)
			}
			q = append(q, id)
		}
	}
	sort.Slice(q, func(i, j int) bool { return q[i].Less(q[j]) })
	return q, nil
}

// ReadRecipe returns the recipe in a file.
func ReadRecipe(path string) (*recipe.Recipe, error) {
	b, err := ReadFile(path, recipe.MaxLen)
	if err != nil {
		return nil, err
	}
	r, err := recipe.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// ReadFile returns the bytes of a file that has at most so many.
func ReadFile(path string, max int) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, int64(max)+1))
	if err == nil && len(b) > max {
		err = fmt.Errorf("%s: more than %d bytes", path, max)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// create writes a file unless one is there. Its name appears when it is whole. It is not synced: who reads the folder
// verifies every byte.
func create(path string, b []byte) error {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	temp := filepath.Join(filepath.Dir(path), fmt.Sprintf("%s%d-%s", tempPrefix, os.Getpid(), filepath.Base(path)))
	err := os.WriteFile(temp, b, 0o666)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
	}
	return err
}
