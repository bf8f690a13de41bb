//! How the bytes of a chunk are stored: raw, or as one zstd frame where that pays.
//!
//! Most of the time of an ingest is compression, so a cheap probe decides whether to try: zstd's fastest level on 4 KiB
//! out of the middle. A histogram of bytes was rejected: it takes chunks that are half random, half text for random,
//! and of those zstd saves a third.

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::find_frame_compressed_size;

use super::cut::CHUNK_LEN_MAX;
use crate::{
    base::{Corruption, Error, Result},
    format::Reader,
};

/// Shorter chunks are stored raw: a frame's head would eat what it saves.
const COMPRESSED_MIN: usize = 512;

/// Length of the probe, and the share it must save for compression to be tried: 1/25.
const PROBE_LEN: usize = 4 << 10;
const PROBE_SHARE: usize = 25;

/// Share of a chunk that compression must save to be worth undoing at each read: 1/16.
const SAVED_SHARE: usize = 16;

/// Maximum window of a frame, in bytes. One with 1 MiB of content needs no more.
const WINDOW_MAX: u64 = 1 << 20;

/// Returns whether zstd has this level. 0 would be another name of 3.
pub(crate) fn is_level(level: i32) -> bool {
    (-7..=-1).contains(&level) || (1..=22).contains(&level)
}

/// Begins every zstd frame (RFC 8878, 3.1.1).
const FRAME_MAGIC: u32 = 0xfd2f_b528;

/// How a chunk is stored. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    Raw = 0,
    Zstd = 1,
}

impl Codec {
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd].into_iter().find(|codec| *codec as u8 == number)
    }
}

/// Compresses chunks, one after the other: about 0.3 MiB of tables that are used again.
pub(crate) struct Encoder {
    fast: Compressor<'static>,
    /// Absent where nothing is to be compressed.
    full: Option<Compressor<'static>>,
    room: Vec<u8>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("compresses", &self.full.is_some()).finish_non_exhaustive()
    }
}

/// Returns the error of a compressor that could not be made.
fn no_memory(error: std::io::Error) -> Error {
    Error::Io { op: "prepare zstd for", path: "chunks".into(), source: error }
}

impl Encoder {
    /// Returns an encoder for a zstd level; `None` stores everything raw.
    pub(crate) fn new(level: Option<i32>) -> Result<Self> {
        let fast = Compressor::new(-1).map_err(no_memory)?;
        let full = level.map(Compressor::new).transpose().map_err(no_memory)?;
        Ok(Self { fast, full, room: Vec::new() })
    }

    /// Appends a chunk to `out` in the shorter of its forms.
    pub(crate) fn encode(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Codec {
        assert!(chunk.len() <= CHUNK_LEN_MAX, "a chunk of {} bytes", chunk.len());
        if self.pays(chunk)
            && let Some(full) = &mut self.full
        {
            // Room for no more than is worth keeping: the compressor gives up early on what does not shrink.
            let room = room(&mut self.room, chunk.len() - chunk.len() / SAVED_SHARE);
            if let Ok(len) = full.compress_to_buffer(chunk, room) {
                out.extend_from_slice(self.room.get(..len).unwrap_or_default());
                return Codec::Zstd;
            }
        }
        out.extend_from_slice(chunk);
        Codec::Raw
    }

    /// Returns whether a probe of the chunk shrinks.
    fn pays(&mut self, chunk: &[u8]) -> bool {
        if self.full.is_none() || chunk.len() < COMPRESSED_MIN {
            return false;
        }
        let from = chunk.len().saturating_sub(PROBE_LEN) / 2;
        let probe = chunk.get(from..).map_or(chunk, |rest| rest.get(..PROBE_LEN).unwrap_or(rest));
        let room = room(&mut self.room, probe.len() - probe.len() / PROBE_SHARE);
        self.fast.compress_to_buffer(probe, room).is_ok()
    }
}

/// Returns the first bytes of a buffer that only grows: clearing it for each chunk would cost a pass over it.
fn room(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    buffer.get_mut(..len).unwrap_or_default()
}

/// Restores chunks, one after the other.
pub(crate) struct Decoder(Decompressor<'static>);

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    pub(crate) fn new() -> Result<Self> {
        Decompressor::new().map(Self).map_err(no_memory)
    }

    /// Fills `chunk` with what was stored; anything that decodes into more or fewer bytes is corruption.
    pub(crate) fn decode(&mut self, codec: Codec, stored: &[u8], chunk: &mut [u8]) -> Result<(), Corruption> {
        let bad = Corruption { offset: 0, what: "a chunk that decodes into its length" };
        match codec {
            Codec::Raw if stored.len() == chunk.len() => {
                chunk.copy_from_slice(stored);
                Ok(())
            }
            Codec::Raw => Err(bad),
            Codec::Zstd => {
                check_frame(stored, chunk.len() as u64)?;
                match self.0.decompress_to_buffer(stored, chunk) {
                    Ok(len) if len == chunk.len() => Ok(()),
                    Ok(_) | Err(_) => Err(bad),
                }
            }
        }
    }
}

/// Fails unless these bytes are one frame of a plain kind, whole, with so many bytes of content and a window of at most
/// 1 MiB. The library would take several frames, frames to be skipped, checksums and any window.
fn check_frame(stored: &[u8], content: u64) -> Result<(), Corruption> {
    let bad = |what| Err(Corruption { offset: 0, what });
    let mut reader = Reader::new(stored);
    reader.expect_u32(FRAME_MAGIC, "a zstd frame")?;
    let descriptor = reader.u8("zstd frame header")?;
    // No dictionary, no checksum, nothing reserved.
    if descriptor & 0b0001_1111 != 0 {
        return bad("a plain zstd frame");
    }
    let single_segment = descriptor & 0b0010_0000 != 0;
    if !single_segment {
        let window = reader.u8("zstd window")?;
        let base = 1u64 << (10 + (window >> 3));
        if base + base / 8 * u64::from(window & 7) > WINDOW_MAX {
            return bad("a zstd window of at most 1 MiB");
        }
    }
    let told = match descriptor >> 6 {
        0 if single_segment => u64::from(reader.u8("zstd content size")?),
        0 => return bad("a zstd frame that tells its content size"),
        1 => u64::from(reader.u16("zstd content size")?) + 256,
        2 => u64::from(reader.u32("zstd content size")?),
        _ => reader.u64("zstd content size")?,
    };
    if told != content || find_frame_compressed_size(stored) != Ok(stored.len()) {
        return bad("one whole zstd frame with the content of the chunk");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk;

    fn noise(len: usize) -> Vec<u8> {
        chunk::noise(5, len)
    }

    fn stored(level: Option<i32>, chunk: &[u8]) -> (Codec, Vec<u8>) {
        let mut out = Vec::new();
        let codec = Encoder::new(level).unwrap().encode(chunk, &mut out);
        (codec, out)
    }

    #[test]
    fn chunks_read_back_and_are_compressed_only_where_it_pays() {
        let text: Vec<u8> = b"the quick brown fox ".iter().copied().cycle().take(20_000).collect();
        let half: Vec<u8> = [noise(10_000), text[..10_000].to_vec()].concat();
        // Compressible in the middle alone: the probe is deceived, the whole shrinks too little.
        let mut island = noise(405_000);
        island[200_000..205_000].copy_from_slice(&text[..5000]);
        for (what, chunk, level, expected) in [
            ("text", &text, Some(1), Codec::Zstd),
            ("text, uncompressed", &text, None, Codec::Raw),
            ("noise", &noise(20_000), Some(1), Codec::Raw),
            ("the largest", &noise(CHUNK_LEN_MAX), Some(3), Codec::Raw),
            ("the largest text", &text.iter().copied().cycle().take(CHUNK_LEN_MAX).collect(), Some(3), Codec::Zstd),
            ("short text", &text[..500].to_vec(), Some(1), Codec::Raw),
            ("one byte", &vec![1], Some(1), Codec::Raw),
            ("half of both", &half, Some(1), Codec::Zstd),
            ("an island", &island, Some(1), Codec::Raw),
        ] {
            let (codec, bytes) = stored(level, chunk);
            assert_eq!(codec, expected, "{what}");
            assert!(codec == Codec::Raw || bytes.len() <= chunk.len() - chunk.len() / SAVED_SHARE, "{what}");
            let mut read = vec![0; chunk.len()];
            Decoder::new().unwrap().decode(codec, &bytes, &mut read).unwrap();
            assert_eq!(read, *chunk, "{what}");
        }
    }

    #[test]
    fn another_length_a_cut_a_second_frame_and_a_large_window_are_refused() {
        let text: Vec<u8> = b"the quick brown fox ".iter().copied().cycle().take(20_000).collect();
        let (codec, bytes) = stored(Some(1), &text);
        let mut decoder = Decoder::new().unwrap();
        for len in [0, 1, text.len() - 1, text.len() + 1] {
            assert!(decoder.decode(codec, &bytes, &mut vec![0; len]).is_err(), "{len} bytes");
        }
        for len in 0..bytes.len() {
            assert!(decoder.decode(codec, &bytes[..len], &mut vec![0; text.len()]).is_err(), "cut at {len}");
        }
        assert!(decoder.decode(Codec::Raw, &bytes, &mut vec![0; text.len()]).is_err());
        // The library alone would accept each of these: frames that are skipped, two halves, an empty one before.
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
        let empty = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00];
        let halves = [stored(Some(1), &text[..10_000]).1, stored(Some(1), &text[10_000..]).1].concat();
        for (what, frames) in [
            ("skipped before", [&skipped[..], &bytes].concat()),
            ("skipped behind", [&bytes[..], &skipped].concat()),
            ("two halves", halves),
            ("empty before", [&empty[..], &bytes].concat()),
        ] {
            let mut plain = Decompressor::new().unwrap();
            assert_eq!(plain.decompress_to_buffer(&frames, &mut vec![0; text.len()]).unwrap(), text.len(), "{what}");
            assert!(decoder.decode(codec, &frames, &mut vec![0; text.len()]).is_err(), "{what}");
        }
        // One block of a repeated byte, which tells its content of 300 bytes, with a window from 1 KiB to 2 TiB.
        for window in 0..=255u8 {
            let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x40, window, 44, 0, 0x63, 0x09, 0x00, b'x'];
            let read = decoder.decode(codec, &frame, &mut vec![0; 300]);
            assert_eq!(read.is_ok(), window <= 10 << 3, "window {window}: {read:?}");
        }
        for descriptor in (0..=255u8).filter(|bits| bits & 0b1_1111 != 0) {
            let frame = [0x28, 0xb5, 0x2f, 0xfd, descriptor, 0, 44, 0, 0x63, 0x09, 0x00, b'x'];
            assert!(decoder.decode(codec, &frame, &mut vec![0; 300]).is_err(), "descriptor {descriptor:08b}");
        }
        // It still works.
        let mut read = vec![0; text.len()];
        decoder.decode(codec, &bytes, &mut read).unwrap();
        assert_eq!(read, text);
    }
}
