//! The file of the rivals: sorted pages of 4 KiB, mapped.
//!
//! ```text
//!  page:  entry entry … │ padding │ offset of each entry (u16) │ count (u16)
//!  entry: key length (u16) · value length (u16) · key · value, to a multiple of 4
//! ```

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use memmap2::Mmap;

use super::value;
use crate::data::Key;

pub const PAGE: usize = 4096;

pub struct Pages(Mmap);

impl Pages {
    pub fn write(path: &Path, keys: &[Key]) -> std::io::Result<Self> {
        let mut sorted = keys.to_vec();
        sorted.sort_unstable();
        let mut out = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        let (mut page, mut offsets) = (Vec::with_capacity(PAGE), Vec::new());
        for key in &sorted {
            let value = value(key);
            let needed = (4 + key.0.len() + value.len()).next_multiple_of(4);
            if page.len() + needed + 2 * (offsets.len() + 2) > PAGE {
                finish(&mut out, &mut page, &mut offsets)?;
            }
            offsets.push(page.len() as u16);
            page.extend((key.0.len() as u16).to_le_bytes());
            page.extend((value.len() as u16).to_le_bytes());
            page.extend(key.0);
            page.extend(value);
            page.resize(page.len().next_multiple_of(4), 0);
        }
        finish(&mut out, &mut page, &mut offsets)?;
        let file = out.into_inner()?;
        drop(file);
        // SAFETY: the file is in a directory of this process, which writes it no more.
        Ok(Self(unsafe { Mmap::map(&File::open(path)?)? }))
    }

    pub fn count(&self) -> usize {
        self.0.len() / PAGE
    }

    #[inline(always)]
    pub fn page(&self, index: usize) -> Page<'_> {
        let bytes = &self.0[index * PAGE..][..PAGE];
        let count = usize::from(u16::from_le_bytes([bytes[PAGE - 2], bytes[PAGE - 1]]));
        Page { bytes, offsets: &bytes[PAGE - 2 - 2 * count..PAGE - 2] }
    }

    /// The key and value of the entry that begins at a place of the file.
    #[inline(always)]
    pub fn entry(&self, at: usize) -> (&[u8], &[u8]) {
        entry(&self.0, at)
    }
}

fn finish(out: &mut impl Write, page: &mut Vec<u8>, offsets: &mut Vec<u16>) -> std::io::Result<()> {
    page.resize(PAGE - 2 * (offsets.len() + 1), 0);
    offsets.iter().for_each(|offset| page.extend(offset.to_le_bytes()));
    page.extend((offsets.len() as u16).to_le_bytes());
    out.write_all(page)?;
    page.clear();
    offsets.clear();
    Ok(())
}

#[derive(Clone, Copy)]
pub struct Page<'a> {
    bytes: &'a [u8],
    offsets: &'a [u8],
}

impl<'a> Page<'a> {
    pub fn count(self) -> usize {
        self.offsets.len() / 2
    }

    #[inline(always)]
    pub fn offset(self, index: usize) -> usize {
        usize::from(u16::from_le_bytes([self.offsets[2 * index], self.offsets[2 * index + 1]]))
    }

    #[inline(always)]
    pub fn entry(self, index: usize) -> (&'a [u8], &'a [u8]) {
        entry(self.bytes, self.offset(index))
    }

    /// The value of a key; or whether the key would stand behind the last of the page.
    #[inline(always)]
    pub fn find(self, key: &[u8]) -> Result<&'a [u8], bool> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low.midpoint(high);
            let (there, value) = self.entry(middle);
            match there.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(value),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low == self.count())
    }
}

#[inline(always)]
fn entry(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    let rest = &bytes[at..];
    let [a, b, c, d, ..] = *rest else { return (&[], &[]) };
    let (key_len, value_len) = (usize::from(u16::from_le_bytes([a, b])), usize::from(u16::from_le_bytes([c, d])));
    let (key, rest) = rest[4..].split_at(key_len);
    (key, &rest[..value_len])
}
