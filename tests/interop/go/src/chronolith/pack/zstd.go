package pack

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"chronolith/chunk"
)

// decoder is made at first use: it is large, and many packs need none.
var decoder struct {
	once sync.Once
	err  error
	*zstd.Decoder
}

// decompress returns the content, of this length, of a frame.
func decompress(frame []byte, length int) ([]byte, error) {
	if err := checkFrame(frame, length); err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	decoder.once.Do(func() {
		// checkFrame keeps to the limits by itself; the library is told all the same.
		decoder.Decoder, decoder.err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
			zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(chunk.MaxLen), zstd.WithDecoderMaxMemory(chunk.MaxLen))
	})
	if decoder.err != nil {
		return nil, decoder.err
	}
	b, err := decoder.DecodeAll(frame, make([]byte, 0, length))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if len(b) != length {
		return nil, fmt.Errorf("zstd: %d bytes of a chunk of %d", len(b), length)
	}
	return b, nil
}

// checkFrame checks that bytes are one frame as packs have them: whole, without checksum and dictionary, with a window
// of at most 1 MiB, of content with this length. The library would take more frames, and others.
func checkFrame(frame []byte, length int) error {
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		return err
	}
	if len(frame) >= length {
		return errors.New("a frame that is not shorter than the chunk")
	}
	// The low five bits of the descriptor: dictionary, checksum, and two that mean nothing.
	if h.Skippable || len(frame) < 5 || frame[4]&0x1f != 0 {
		return errors.New("not a plain frame")
	}
	if !h.HasFCS || h.FrameContentSize != uint64(length) || h.WindowSize > chunk.MaxLen {
		return errors.New("content or window of another length")
	}
	// A block begins with three bytes: whether it is the last, its type (two bits), and its length. One of type 1 is
	// a byte again and again.
	for at := h.HeaderSize; at+3 <= len(frame); {
		block := int(frame[at]) | int(frame[at+1])<<8 | int(frame[at+2])<<16
		at += 3
		if block>>1&3 == 1 {
			at++
		} else {
			at += block >> 3
		}
		if block&1 != 0 && at == len(frame) {
			return nil
		} else if block&1 != 0 {
			break
		}
	}
	return errors.New("not one whole frame")
}
