package chunk

import "lukechampine.com/blake3"

// Contexts of BLAKE3's derive-key mode: each use of it has its own.
const (
	nodeContext      = "chronolith 1 recipe node"
	scopeContext     = "chronolith 1 dedup scope"
	scopeNodeContext = "chronolith 1 dedup scope node"
)

// Scope is the range in which equal chunks have equal ids. The zero Scope is the default scope.
type Scope struct {
	keyed     bool
	key, node [IDLen]byte
}

// NamedScope returns the scope of this name in the database with this secret.
func NamedScope(secret [32]byte, name string) Scope {
	material := append(secret[:], name...)
	s := Scope{keyed: true}
	blake3.DeriveKey(s.key[:], scopeContext, material)
	blake3.DeriveKey(s.node[:], scopeNodeContext, material)
	return s
}

// ID returns the id of a chunk or node with these bytes.
func (s *Scope) ID(kind Kind, b []byte) (id ID) {
	if !s.keyed {
		if kind == Data {
			return blake3.Sum256(b)
		}
		blake3.DeriveKey(id[:], nodeContext, b)
		return id
	}
	key := &s.key
	if kind == Node {
		key = &s.node
	}
	h := blake3.New(IDLen, key[:])
	h.Write(b)
	h.Sum(id[:0])
	return id
}
