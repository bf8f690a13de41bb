package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chronolith/chunk"
	"chronolith/exchange"
	"chronolith/pack/packtest"
)

// do runs a command line and fails unless it ends with a status.
func do(t *testing.T, status int, args ...string) (stdout []byte, stderr string) {
	t.Helper()
	var out, errors bytes.Buffer
	if got := run(args, &out, &errors); got != status {
		t.Fatalf("%v: status %d, not %d: %s%s", args, got, status, errors.String(), out.String())
	}
	return out.Bytes(), errors.String()
}

func write(t *testing.T, b []byte, path ...string) string {
	t.Helper()
	name := filepath.Join(path...)
	err := os.MkdirAll(filepath.Dir(name), 0o777)
	if err == nil {
		err = os.WriteFile(name, b, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestAllVerbs(t *testing.T) {
	dir := t.TempDir()
	value := append(bytes.Repeat([]byte("some text, again and again; "), 5000), make([]byte, 70000)...)
	file := write(t, value, dir, "file")
	for _, chunking := range []string{"automatic", "whole", "fixed:512", "content-defined:1027"} {
		folder := filepath.Join(dir, "folder-"+chunking)
		database := filepath.Join(dir, "database-"+chunking)
		if out, _ := do(t, 0, "cut", "-chunking", chunking, "-origin", "ä", file, folder); len(out) != 0 {
			t.Errorf("cut says %q", out)
		}
		if out, _ := do(t, 0, "cat", folder); !bytes.Equal(out, value) {
			t.Errorf("%s: cat wrote %d bytes", chunking, len(out))
		}
		question, _ := do(t, 0, "ask", folder)
		questionFile := write(t, question, dir, "question")

		// The packs have all but one.
		q, err := exchange.DecodeHaveYou(question)
		if err != nil {
			t.Fatal(err)
		}
		var entries []packtest.Entry
		for _, kind := range []chunk.Kind{chunk.Data, chunk.Node} {
			for _, id := range q[1:] {
				if b, err := exchange.OpenFolder(folder).Get(kind, id); err == nil {
					entries = append(entries, packtest.Entry{Kind: kind, Bytes: b})
				}
			}
		}
		write(t, nil, database, "CURRENT")
		pack, _ := packtest.Build(4, 99, entries)
		packFile := write(t, pack, database, "packs", "4.pack")
		told, _ := do(t, 0, "answer", database, questionFile)
		a, err := exchange.DecodeHave(told)
		if err != nil || len(a) != len(q) {
			t.Fatal(len(a), err)
		}
		for i, has := range a {
			if has != (i > 0) {
				t.Errorf("%s: id %d: %v", chunking, i, has)
			}
		}
		recipe := filepath.Join(folder, "recipe")
		if _, stderr := do(t, 1, "read", database, recipe); !strings.Contains(stderr, q[0].String()+": not there") {
			t.Error(stderr)
		}

		// Then that one, too.
		for _, kind := range []chunk.Kind{chunk.Data, chunk.Node} {
			if b, err := exchange.OpenFolder(folder).Get(kind, q[0]); err == nil {
				one, _ := packtest.Build(5, 98, []packtest.Entry{{Kind: kind, Bytes: b}})
				write(t, one, database, "packs", "5.pack")
			}
		}
		if out, _ := do(t, 0, "read", database, recipe); !bytes.Equal(out, value) {
			t.Errorf("%s: read wrote %d bytes", chunking, len(out))
		}
		if out, _ := do(t, 0, "verify", database); !strings.HasPrefix(string(out), "2 packs (0 not sealed), ") || bytes.Count(out, []byte("\n")) != 1 {
			t.Errorf("%s", out)
		}
		if len(entries) == 0 {
			continue
		}
		pack[32+64] ^= 1
		write(t, pack, packFile)
		if out, stderr := do(t, 1, "verify", database); !strings.HasPrefix(string(out), packFile+": offset 32: ") || !bytes.HasSuffix(out, []byte(" 1 damaged\n")) || stderr != "" {
			t.Errorf("%s%s", out, stderr)
		}
		do(t, 1, "read", database, recipe)
	}
	do(t, 1, "cut", write(t, nil, dir, "empty"), filepath.Join(dir, "folder-empty"))
	do(t, 1, "cut", filepath.Join(dir, "none"), filepath.Join(dir, "folder-none"))
	do(t, 1, "cat", filepath.Join(dir, "folder-none"))
	do(t, 1, "ask", filepath.Join(dir, "folder-empty"))
	do(t, 1, "verify", dir)
	do(t, 1, "answer", filepath.Join(dir, "database-whole"), file)
	do(t, 1, "read", filepath.Join(dir, "database-whole"), file)
}

func TestWrongUsage(t *testing.T) {
	for _, line := range []string{"", "help", "-h", "cat", "cat a b", "cut a", "cut a b c", "cut -chunking fixed:1 a b", "cut -x a b", "read a", "verify",
		"verify a b", "ask", "answer a", "cut -chunking"} {
		out, stderr := do(t, 2, strings.Fields(line)...)
		if len(out) != 0 || !strings.Contains(stderr, "usage: chronolith-exchange") {
			t.Errorf("%s: %s", line, stderr)
		}
	}
}
